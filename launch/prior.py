"""Manages the store of language models' answers: fills, shows, exports, imports and removes.

    python -m launch.prior fill --config=quickstart
    python -m launch.prior show
    python -m launch.prior export --file=priors.parquet
    python -m launch.prior import --file=priors.parquet
    python -m launch.prior remove --model=tiny

`fill` scores the states that a run of the configuration starts with, so that runs find them there.
`show` lists the models with the entries of each, their size and the hit rate. An `import` adds
missing entries, after it has checked the whole file. `remove` deletes the entries of former
versions of a model (other weights, another tokenizer or dtype under the same name, or numbers of an
older llmprior_jax), or with --fingerprint the entries of one version. Old prompt templates leave
unused entries behind; remove those of their model and fill again.

The store is the one of --store, or else of the configuration, or else the user's default. Only
`fill` and `import` create a store.
"""

import contextlib
import json
import pathlib
import tempfile
from collections.abc import Callable, Sequence

import rich
import rich.table

from launch.common import app
from llmprior_jax import models, training
from llmprior_jax.priors import PriorStore
from llmprior_jax.priors.parquet import export_parquet, import_parquet
from llmprior_jax.registry import unknown

FLAGS = app.Flags()
_CONFIG = FLAGS.config_file("What to fill the store for: a file with `get_config()`.")
_STORE = FLAGS.string("store", None, "The store's file.")
_FILE = FLAGS.string("file", None, "Parquet file to write or read.")
_MODEL = FLAGS.string("model", None, "Model whose former versions to remove.")
_FINGERPRINT = FLAGS.string("fingerprint", None, "Version to remove: how it begins.")
_JSON = FLAGS.boolean("json", False, "Print the result as JSON, too, on the last line.")


def fill() -> None:
    from llmprior_jax.training import build, experiment, work_directory

    config = _CONFIG.value
    if config is None:
        raise ValueError("fill needs --config, e.g. --config=quickstart")
    config.prior.store = _path()
    config, env, env_params = experiment.prepare(config, None)
    settings = training.to_settings(config)
    examples = work_directory.make_examples(settings, env, None)
    # Filled as a run does it, in the same batches, so that a run finds the very same bits.
    with tempfile.TemporaryDirectory() as directory:
        folder = pathlib.Path(directory)
        known = build.make_priors(settings, env, env_params, folder, True, examples, app.never)
        with contextlib.ExitStack() as opened:
            for model in known.models:
                opened.callback(model.close)
            known.scored.load()
            cost = known.scored.cost()
            held = {model.name: model.usage() for model in known.models}
        queries = {model.name: model.queries for model in known.models}
    for name, made in queries.items():
        print(
            f"{cost.states:,} states of {config.env} by {name}: {made.made:,} queries made "
            f"({made.per_second:,.0f}/s), {made.saved:,} in the store already"
        )
        if (usage := held[name]) is not None:
            print(f"{usage.bytes_per_prompt / 1e3:,.1f} KB in the store for a prompt")
    print(f"In a run: {cost}")


def show() -> None:
    with PriorStore(_path(), create=False) as store:
        usage = store.usage()
        size = store.path.stat().st_size
    table = rich.table.Table(title=f"{store.path}, {size / 1e6:,.1f} MB")
    columns = (
        *("model", "fingerprint", "prompts", "actions", "proposals"),
        *("MB", "KB a prompt", "asked for", "found"),
    )
    for column in columns:
        table.add_column(column, justify="left" if column in columns[:2] else "right")
    for row in usage:
        asked = row.found + row.not_found
        table.add_row(
            row.name,
            row.fingerprint[:12],
            *(f"{count:,}" for count in (row.prompts, row.actions, row.proposals)),
            f"{row.bytes / 1e6:,.1f}",
            f"{row.bytes_per_prompt / 1e3:,.1f}",
            f"{asked:,}",
            f"{row.found / asked:.0%}" if asked else "-",
        )
    rich.print(table)
    if _JSON.value:
        rows = [row._asdict() for row in usage]
        print(json.dumps({"store": str(store.path), "bytes": size, "models": rows}))


def export() -> None:
    file = _file()
    with PriorStore(_path(), create=False) as store:
        print(f"{export_parquet(store, file):,} rows written to {file}")


def import_() -> None:
    print(f"{import_parquet(_path(), _file()):,} rows read from {_file()}")


def remove() -> None:
    if (_MODEL.value is None) == (_FINGERPRINT.value is None):
        raise ValueError("remove needs --model or --fingerprint; `show` lists both")
    with PriorStore(_path(), create=False) as store:
        usage = store.usage()
        if _MODEL.value is not None:
            present = models.fingerprint(_MODEL.value)
            gone = [u for u in usage if u.name == _MODEL.value and u.fingerprint != present]
        else:
            gone = [u for u in usage if u.fingerprint.startswith(_FINGERPRINT.value or "")]
            if len(gone) != 1:
                raise ValueError(
                    f"{len(gone)} fingerprints begin with {_FINGERPRINT.value!r}; `show` lists them"
                )
        for row in gone:
            store.remove(row.fingerprint)
    prompts, size = sum(row.prompts for row in gone), sum(row.bytes for row in gone) / 1e6
    print(f"{len(gone)} versions removed, with {prompts:,} prompts, {size:,.1f} MB")


_COMMANDS: dict[str, Callable[[], None]] = {
    "fill": fill,
    "show": show,
    "export": export,
    "import": import_,
    "remove": remove,
}


def _path() -> str:
    path = _STORE.value or (_CONFIG.value or training.default_config()).prior.store
    if not path:
        raise ValueError("the configuration has no store; name one by --store")
    return path


def _file() -> str:
    if _FILE.value is None:
        raise ValueError("say which file: --file=priors.parquet")
    return _FILE.value


def main(argv: Sequence[str]) -> None:
    if len(argv) != 2:
        raise ValueError(f"say what to do: {', '.join(_COMMANDS)}")
    if argv[1] not in _COMMANDS:
        raise ValueError(unknown("command", argv[1], _COMMANDS))
    _COMMANDS[argv[1]]()


if __name__ == "__main__":
    app.run(main, FLAGS, max_arguments=1)
