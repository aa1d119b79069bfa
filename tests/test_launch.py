"""The commands as a user meets them: what a mistake is answered with."""

import importlib.util
import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import pytest

from launch import make_games
from launch.common import app
from llmprior_jax import stopping, training
from llmprior_jax.envs.alfworld import game_maker
from llmprior_jax.training import validation

ROOT = pathlib.Path(__file__).parent.parent
CONFIGS = sorted(path for path in (ROOT / "launch" / "configs").glob("[!_]*.py"))
COMMANDS = sorted(path for path in (ROOT / "launch").glob("[!_]*.py"))


# As one of two processes, whose first is nowhere: to wait for it takes five minutes.
OF_SEVERAL = ["--coordinator_address=127.0.0.1:1", "--num_processes=2", "--process_id=1"]


def launch(*arguments: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


# Each command line in a process of its own, whose modules are imported already.
_FORKED = """
import json, os, runpy, sys
import launch.train
for folder, arguments in json.load(sys.stdin):
    if os.fork() == 0:
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(f"{folder}/{name}", os.O_CREAT | os.O_WRONLY), number)
        sys.argv = ["launch/train.py", *arguments]
        code = None
        try:
            runpy.run_module("launch.train", run_name="__main__", alter_sys=True)
        except SystemExit as exit:
            code = exit.code
        if isinstance(code, str):
            print(code, file=sys.stderr, flush=True)
        os._exit(1 if isinstance(code, str) else code or 0)
    with open(f"{folder}/code", "w") as file:
        file.write(str(os.waitstatus_to_exitcode(os.wait()[1])))
"""
MISTAKES = {
    "field": (["--config.agent.alhpa=0.1", *OF_SEVERAL], "alpha"),
    "environment": (
        ["--config.env=Overcooked-TomatoLetuceSalad"],
        "Overcooked-TomatoLettuceSalad",
    ),
    "alpha": (["--config.agent.alpha=0"], "alpha is 0"),
    "prior": (["--prior=/nowhere"], "/nowhere"),
    "flag": (["--messh=data:1"], "did you mean '--mesh'"),
    "element": (["--config.agents[0]=dqn"], "only whole fields can be set"),
    "directory": (["--workdir=/dev/null/run"], "error: /dev/null/run"),
    "word": (["now"], "unexpected argument 'now'"),
}
# By it the exit status is known to tell the two apart.
NO_MISTAKE = "none"


@pytest.fixture(scope="module")
def answers(tmp_path_factory) -> pathlib.Path:
    """A folder for each mistake: what the command said, its exit status, and where it would run."""
    out = tmp_path_factory.mktemp("answers")
    lines = []
    asked = {name: arguments for name, (arguments, _) in MISTAKES.items()}
    for name, arguments in {**asked, NO_MISTAKE: ["--only_check_args"]}.items():
        (out / name).mkdir()
        given = [
            "--config=launch/configs/quickstart.py",
            f"--workdir={out / name / 'run'}",
            "--config.agents=('prior',)",
            "--config.env=FrozenLake-4x4",
        ]
        lines.append((str(out / name), given + arguments))
    command = [sys.executable, "-c", _FORKED]
    subprocess.run(command, cwd=ROOT, input=json.dumps(lines), text=True, check=True, timeout=240)
    return out


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_in_a_sentence_and_nothing_is_trained(answers, name):
    said = (answers / name / "stderr").read_text()
    assert (answers / name / "code").read_text() != "0"
    assert MISTAKES[name][1] in said
    assert "Traceback" not in said
    assert not (answers / name / "run" / "prior" / "metrics.jsonl").exists()


def test_arguments_without_a_mistake_are_taken(answers):
    """Also a flag that is a library's."""
    assert (answers / NO_MISTAKE / "code").read_text() == "0"


def test_a_field_without_a_config_asks_for_one(tmp_path):
    result = launch("launch.train", f"--workdir={tmp_path}", "--config.env=FrozenLake-4x4")
    assert result.returncode != 0
    assert "add one, such as --config=quickstart" in result.stderr


def test_help_says_what_the_command_is_for_and_its_own_flags_in_their_order():
    result = launch("launch.train", "--help", *OF_SEVERAL)
    assert result.returncode == 0
    assert result.stdout.startswith("Trains agents with a language-model prior")
    shown = re.findall(r"^  --(\S+)", result.stdout, re.MULTILINE)
    assert shown[:4] == ["config,", "workdir", "prior", "mesh"]
    assert shown[-1] == "process_id"
    assert "verbosity" not in result.stdout
    assert result.stdout.endswith("more: --helpfull\n")


def test_helpfull_has_the_flags_of_libraries_too():
    result = launch("launch.train", "--helpfull")
    assert result.returncode == 0
    assert result.stdout.startswith("Trains agents with a language-model prior")
    for flag in ("--workdir:", "--process_id:", "--verbosity:", "--[no]pdb:"):
        assert flag in result.stdout


def test_a_flag_that_is_required_is_asked_for():
    result = launch("launch.train", "--config=quickstart")
    assert result.returncode != 0
    assert result.stderr.startswith("error: flag --workdir=None")


def test_the_help_of_make_games_names_all_tasks():
    assert f": {', '.join(game_maker.TASK_TYPES)}." in make_games.FLAGS["tasks"].help


def python(code: str, *arguments: str, **environment: str) -> str:
    """What a program prints in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout


# Imports the modules in the command line, with JAX running.
_IMPORT = """
import importlib, sys
import jax
jax.devices()
before = dict(jax.config.values)
for name in sys.argv[1:]:
    importlib.import_module(name)
print({name for name, value in jax.config.values.items() if before[name] != value})
"""


def test_importing_all_of_launch_changes_nothing_in_jax():
    paths = [path.relative_to(ROOT).with_suffix("") for path in (ROOT / "launch").rglob("*.py")]
    names = [".".join(path.parts).removesuffix(".__init__") for path in sorted(paths)]
    assert python(_IMPORT, *names) == "set()\n"


def test_a_command_that_writes_no_metrics_does_not_wait_for_torch():
    loaded = "import launch.train, sys; print({'torch', 'rlax'} & set(sys.modules))"
    assert python(loaded) == "set()\n"


# Only before JAX runs can the number of devices be chosen.
_IMPORT_AND_CHOOSE = """
import importlib, sys
import jax
for name in sys.argv[1:]:
    importlib.import_module(name)
jax.config.update("jax_num_cpu_devices", 3)
print(jax.local_device_count())
"""


def test_importing_all_commands_starts_no_devices():
    assert python(_IMPORT_AND_CHOOSE, *(f"launch.{path.stem}" for path in COMMANDS)) == "3\n"


_SET_UP = """
import os, sys
import jax
from launch.common import app
os.cpu_count = lambda: 5
if "running" in sys.argv:
    jax.devices()
app.set_up()
print(jax.local_device_count())
"""


@pytest.mark.parametrize(
    ("arguments", "environment", "devices"),
    [
        ((), {}, 5),
        ((), {"JAX_NUM_CPU_DEVICES": "3"}, 3),
        ((), {"XLA_FLAGS": "--xla_force_host_platform_device_count=3"}, 3),
        (("running",), {}, 1),
    ],
    ids=["one per core", "chosen", "chosen for XLA", "running"],
)
def test_a_command_has_a_device_per_core_unless_somebody_chose(arguments, environment, devices):
    assert python(_SET_UP, *arguments, **environment) == f"{devices}\n"


def test_a_config_that_comes_with_the_package_is_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    packaged = str(ROOT / "launch" / "configs" / "quickstart.py")
    for name in ("quickstart", "launch/configs/quickstart.py"):
        assert app.find_config(name) == packaged
    own = tmp_path / "quickstart.py"
    own.touch()
    assert app.find_config("quickstart.py") == "quickstart.py"
    assert app.find_config(f"{own}:fast") == f"{own}:fast"


def test_a_config_that_is_nowhere_names_the_nearest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="did you mean 'quickstart'"):
        app.find_config("quickstrat")
    with pytest.raises(FileNotFoundError, match="no such file"):
        app.find_config("mine/quickstart.py")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_asks_to_stop_and_a_second_one_stops(number, capsys):
    before = signal.getsignal(number)
    with app.StopSignal() as should_stop:
        assert not should_stop()
        signal.raise_signal(number)
        assert should_stop()
        assert "once more to stop at once" in capsys.readouterr().err
        with pytest.raises(stopping.TerminatedError) as terminated:
            signal.raise_signal(number)
        assert terminated.value.code == 128 + number
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_a_config_file_is_valid_and_tells_its_command_and_result(path):
    spec = importlib.util.spec_from_file_location("config", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    validation.validate(training.to_settings(module.get_config()))
    assert f"python -m launch.train --config=launch/configs/{path.name}" in module.__doc__
    assert re.search(r"\d+ seeds", module.__doc__), "the measured result is missing"
