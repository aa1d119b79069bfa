"""JSON from files: read where that is harmless, refused with the place where it is not."""

import json

import jax
import pytest
from test_datasets import rows

from launch.common import app
from llmprior_jax import datasets, files


@pytest.mark.parametrize(
    ("content", "kind", "value"),
    [
        (b"\xef\xbb\xbf7.0", int, 7),
        (b"7", float, 7.0),
        (b"[1, 2.0]", tuple[int, ...], (1, 2)),
        (b"null", str | None, None),
        (b'"\\ud83d\\ude00"', str, "\U0001f600"),
        (b'{"a": 1, "a": 2}', dict, {"a": 2}),
    ],
)
def test_what_is_harmless_is_read(content, kind, value):
    assert files.parse_json(content, "it", kind) == value


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        ("7".encode("utf-16"), int, "it: this is not UTF-8 .*; save the file in UTF-8"),
        (b"[" * 100_000, list, "it: this is nested too deeply"),
        (b"9" * 5000, int, "it: Exceeds the limit"),
        (b"9" * 400, float, "it: this is 9.*9, too large a number"),
        (b"7.5", int, "it: this is 7.5, and no whole number"),
        (b"true", int, "it: this is True, and no whole number"),
        (b"1", bool, "it: this is 1, and no truth value"),
        (b"[]", dict, r"it: this is \[\], and no object"),
        (b"[[1], [null]]", list[list[int]], r"it: \[1\]\[0\] is None, and no whole number"),
        (b'{"a": {"b": 3}}', dict[str, dict[str, str]], r"it: a\.b is 3, and no text"),
        (b'["\\udc00"]', list, "it: a text has half of a character"),
        (json.dumps(files.sealed({"a": 1})).replace("1", "2", 1).encode(), dict, "the hash"),
    ],
)
def test_what_is_not_is_refused_with_the_place(content, kind, message):
    with pytest.raises(ValueError, match=message):
        files.parse_json(content, "it", kind)


def test_a_text_that_cannot_be_written_leaves_the_file_as_it_is(tmp_path):
    files.write_atomically(tmp_path / "page.html", "before")
    with pytest.raises(ValueError, match=r"page\.html has half of a character"):
        files.write_atomically(tmp_path / "page.html", "after \ud800")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]


def test_a_dataset_is_read_with_a_mark_blank_lines_and_whole_floats(tmp_path):
    plain, other = tmp_path / "plain.jsonl", tmp_path / "other.jsonl"
    lines = [json.dumps(row) for row in rows()]
    plain.write_text("\n".join(lines))
    other.write_text(
        "\ufeff" + "\r\n".join(lines).replace('"episode": 7', '"episode": 7.0') + "\n\n"
    )
    assert datasets.digest(datasets.read(other)) == datasets.digest(datasets.read(plain))


def test_a_line_of_a_dataset_that_was_changed_is_read_and_named(tmp_path, caplog):
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(map(json.dumps, rows())))
    datasets.write(path, datasets.read(path))
    path.write_text(path.read_text().replace("-0.25", "-0.75"))
    with caplog.at_level("WARNING"):
        assert datasets.read(path).reward.tolist() == [0.5, 1.0, -0.75]
    assert f"{path}, row 3: its content does not match the hash" in caplog.text


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 7.11 PiB"),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes"),
        jax.errors.JaxRuntimeError("INTERNAL: Out of memory"),
        OverflowError("Python int too large to convert to C long"),
        PermissionError(13, "Permission denied", "runs/a"),
    ],
)
def test_what_a_machine_cannot_do_is_said_in_a_line(error):
    def fail() -> None:
        raise error

    with pytest.raises(SystemExit, match=r"^error: ") as end:
        app.guard(fail)
    assert "\n" not in str(end.value)


def test_another_error_of_the_runtime_is_no_mistake_of_a_user():
    def fail() -> None:
        raise jax.errors.JaxRuntimeError("INTERNAL: a program is wrong")

    with pytest.raises(jax.errors.JaxRuntimeError):
        app.guard(fail)
