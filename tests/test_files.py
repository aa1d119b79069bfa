"""Files that are whole, and what is said where they cannot be written."""

import errno
import os
import pathlib
import subprocess
import sys

import pytest

from launch.common import app
from llmprior_jax import files

LONG = "a" * 250  # Itself no longer than names may be, but with what is put around it.


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("file/report.md", errno.ENOTDIR),
        ("file/deeper/report.md", errno.ENOTDIR),
        ("folder", errno.EISDIR),
        (LONG, errno.ENAMETOOLONG),
        (f"{LONG}{LONG}/report.md", errno.ENAMETOOLONG),
    ],
    ids=["file", "deeper", "folder", "name", "folder's name"],
)
def test_what_cannot_be_written_is_named_in_a_line(tmp_path, path, number):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for write in (files.check_writable, lambda path: files.write_atomically(path, "text")):
        with pytest.raises(OSError, match=str(tmp_path)) as error:
            write(tmp_path / path)
        assert error.value.errno in (number, errno.EEXIST)
        said = app.told(error.value)
        assert said.startswith(str(tmp_path))
        assert "\n" not in said
        assert ".partial" not in said
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "folder"]


def test_trying_leaves_nothing_and_spoils_nothing(tmp_path):
    (tmp_path / "there").write_text("mine")
    files.check_writable(tmp_path / "there")
    files.check_writable(tmp_path / "new" / "deep" / "file")
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]
    assert (tmp_path / "there").read_text() == "mine"


def test_a_read_only_file_system_is_seen_when_it_is_tried(tmp_path, monkeypatch):
    def refuse(path: pathlib.Path, *arguments: object, **more: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(pathlib.Path, "open", refuse)
    with pytest.raises(OSError, match="Read-only") as error:
        files.check_writable(tmp_path / "out" / "report.md")
    assert error.value.filename == str(tmp_path / "out" / "report.md")
    assert app.told(error.value).endswith("; name another place")
    assert not list(tmp_path.iterdir())


_FILL = """
import pathlib, resource, signal, sys
from launch.common import app
from llmprior_jax import files
path = pathlib.Path(sys.argv[1])
full = bytes(10_000)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
for write in (files.write_atomically, lambda path, _: files.append(path, "a" * 10_000)):
    try:
        write(path, full)
    except OSError as error:
        print(app.told(error))
"""


def test_a_full_disk_is_named_and_what_was_there_stays(tmp_path):
    path = tmp_path / "report.md"
    path.write_text("before")
    result = subprocess.run(
        [sys.executable, "-B", "-c", _FILL, path],
        env=os.environ | {"PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.splitlines() == [f"{path}: File too large"] * 2
    assert path.read_bytes().startswith(b"before")
    assert [each.name for each in tmp_path.iterdir()] == ["report.md"]


def test_a_full_device_is_named():
    with pytest.raises(OSError, match="No space left") as error:
        files.append(pathlib.Path("/dev/full"), "line")
    assert app.told(error.value).startswith("/dev/full: No space left on device; make room")


def test_what_has_no_name_is_nobody_s_mistake():
    assert app.told(BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))) is None
    assert app.told(KeyError("a")) is None
    assert app.told(FileNotFoundError("there is no dataset a")) == "there is no dataset a"
    named = FileNotFoundError(errno.ENOENT, "Failed to open local file 'a'")
    assert app.told(named) == "Failed to open local file 'a'"
