"""Measures how fast the parts of the library are on this machine.

    python -m launch.benchmark accelerator [--minutes=12] [--out=accelerator.json] [--json]
    python -m launch.benchmark envs [--num_envs=4096] [--games=DIR] [--json]
    python -m launch.benchmark generation [--shape=Qwen2.5-0.5B] [--json]
    python -m launch.benchmark scoring [--shape=Qwen2.5-0.5B] [--host_only] [--json]
    python -m launch.benchmark train [--json]

Each module of `launch/benchmarks/` says what it measures, and how. With `--json` the last line
printed is the result as one JSON object.
"""

from collections.abc import Callable, Sequence

from launch.benchmarks import accelerator, generation, scoring, timing
from launch.common import app
from llmprior_jax.files import check_writable
from llmprior_jax.registry import unknown

FLAGS = app.Flags()
_JSON = FLAGS.boolean("json", False, "Print the result as JSON, too, on the last line.")
_NUM_ENVS = FLAGS.integer("num_envs", 4096, "Environments in a batch (envs).", lower_bound=1)
_GAMES = FLAGS.list(
    "games", [], "ALFWorld games, or directories of them such as DATA/json_2.1.1/train (envs)."
)
_SHAPE = FLAGS.enum(
    "shape",
    "Qwen2.5-0.5B",
    list(scoring.SHAPES),
    "Shape of the language model (generation, scoring).",
)
_DTYPE = FLAGS.enum(
    "dtype", "float32", ["float32", "bfloat16"], "Of its weights (generation, scoring)."
)
_PROMPT_TOKENS = FLAGS.list(
    "prompt_tokens", ["128", "512"], "Tokens of a prompt, about (generation, scoring)."
)
_REPEATS = FLAGS.integer(
    "repeats",
    3,
    "Timings of each way (generation), or of each with the first workload and one with the others "
    "(scoring).",
    lower_bound=1,
)
_ACTIONS = FLAGS.list("actions", ["8", "50"], "Actions of a state (scoring).")
_HOST_ONLY = FLAGS.boolean("host_only", False, "Measure what the host does alone (scoring).")
_SAMPLES = FLAGS.list("samples", ["1", "8"], "Answers to a prompt (generation).")
_SHAPES = FLAGS.list(
    "shapes", ["Qwen2.5-0.5B", "Qwen2.5-7B"], "Shapes of the language models (accelerator)."
)
_MINUTES = FLAGS.float("minutes", 12.0, "That all may take (accelerator).", lower_bound=0.1)
_OUT = FLAGS.string("out", None, "File for all that was measured, as JSON (accelerator).")
_NEW_TOKENS = FLAGS.integer("new_tokens", 16, "Tokens of an answer (generation).", lower_bound=1)


def _measure_accelerator() -> timing.Result:
    for shape in _SHAPES.value:
        if shape not in scoring.SHAPES:
            raise ValueError(f"--shapes: {unknown('shape', shape, scoring.SHAPES)}")
    if _OUT.value is not None:
        check_writable(_OUT.value)
    return accelerator.measure(_SHAPES.value, _MINUTES.value, _OUT.value)


def _measure_environments() -> timing.Result:
    from launch.benchmarks import environments

    return environments.measure(_NUM_ENVS.value, _GAMES.value)


def _measure_generation() -> timing.Result:
    return generation.measure(
        _SHAPE.value,
        _DTYPE.value,
        prompt_tokens=scoring.whole_numbers("prompt_tokens", _PROMPT_TOKENS.value),
        samples=scoring.whole_numbers("samples", _SAMPLES.value),
        new_tokens=_NEW_TOKENS.value,
        repeats=_REPEATS.value,
    )


def _measure_scoring() -> timing.Result:
    prompt_tokens = scoring.whole_numbers("prompt_tokens", _PROMPT_TOKENS.value)
    actions = scoring.whole_numbers("actions", _ACTIONS.value)
    if _HOST_ONLY.value:
        from launch.benchmarks import scoring_host

        return scoring_host.measure(prompt_tokens, actions, _REPEATS.value)
    return scoring.measure(
        _SHAPE.value, _DTYPE.value, prompt_tokens, actions, repeats=_REPEATS.value
    )


def _measure_training() -> timing.Result:
    from launch.benchmarks import learning

    return learning.measure()


_BENCHMARKS: dict[str, Callable[[], timing.Result]] = {
    "accelerator": _measure_accelerator,
    "envs": _measure_environments,
    "generation": _measure_generation,
    "scoring": _measure_scoring,
    "train": _measure_training,
}


def main(argv: Sequence[str]) -> None:
    if len(argv) != 2:
        raise ValueError(f"say which one benchmark to run: {', '.join(_BENCHMARKS)}")
    name = argv[1]
    if name not in _BENCHMARKS:
        raise ValueError(unknown("benchmark", name, _BENCHMARKS))
    timing.show(name, _BENCHMARKS[name](), _JSON.value)


if __name__ == "__main__":
    app.run(main, FLAGS, max_arguments=1)
