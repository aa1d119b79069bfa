"""Files of examples that people write: read as they are meant, or refused with the line."""

import json

import pytest

from llmprior_jax.priors.prompts import Example, read_examples, write_examples

TEA = '{"task": "make tea", "observations": ["Empty.", "Full."], "actions": ["fill it", "boil it"]}'
WITH_OPTIONS = json.loads(TEA) | {"options": [["fill it", "wait"], []]}
READ = Example("make tea", (("Empty.", "fill it"), ("Full.", "boil it")))


def write(path, content):
    path = path / "shown.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("content", "examples"),
    [
        (TEA, [READ]),
        (f"\ufeff\n{TEA}\r\n  \n{TEA}\n\n", [READ, READ]),
        (json.dumps(WITH_OPTIONS), [READ._replace(options=(("fill it", "wait"), ()))]),
        (
            TEA.replace("Empty", "Caf\u00e9\u2028\u00fc"),
            [Example("make tea", (("Caf\u00e9\u2028\u00fc.", "fill it"), READ.steps[1]))],
        ),
    ],
    ids=["a line", "a mark and blank lines", "options", "any characters"],
)
def test_what_people_write_is_read(tmp_path, content, examples):
    assert read_examples(write(tmp_path, content)) == examples


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "Expecting property name"),
        ("[" * 100_000, "line 2: "),
        ("[]", r"this is \[\], and no object"),
        ('{"task": "x", "observations": []}', "there is no field actions"),
        (TEA.replace('"task"', '"tusk"'), "no field 'tusk'; did you mean 'task'"),
        (TEA.replace('"make tea"', "3"), "task is 3, and no text"),
        (TEA.replace('"Empty."', "null"), r"observations\[0\] is None, and no text"),
        (TEA.replace('"fill it", ', ""), "there are 2 observations and 1 actions"),
        (TEA.replace("fill it", ""), "action 1 is empty"),
        (TEA.replace("fill it", "\\ud800"), r"a text has half of a character \('\\ud800'\)"),
        ('{"task": "", "observations": [], "actions": []}', "there are no 'actions'"),
        (json.dumps(WITH_OPTIONS | {"options": [["wait"], []]}), "action 1, 'fill it', is none of"),
        (json.dumps(WITH_OPTIONS | {"options": [[]]}), "options for 1 steps and 2 actions"),
        (json.dumps(WITH_OPTIONS | {"options": "all"}), "options is 'all', and no list"),
    ],
)
def test_a_wrong_line_is_named_with_what_is_wanted(tmp_path, line, message):
    path = write(tmp_path, f"{TEA}\n{line}\n")
    with pytest.raises(ValueError, match=message) as caught:
        read_examples(path)
    assert str(caught.value).startswith(f"{path}, line 2: ")
    assert 'a line is an episode, such as {"task": ' in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_another_encoding_is_refused(tmp_path, encoding):
    path = write(tmp_path, f"{TEA}\n".encode(encoding) + "{é".encode(encoding))
    with pytest.raises(ValueError, match=r"shown\.jsonl, line \d: this is not UTF-8 .* save"):
        read_examples(path)


def test_a_file_that_is_not_there_or_empty_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*nowhere\.jsonl"):
        read_examples(tmp_path / "nowhere.jsonl")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_examples(tmp_path)
    with pytest.raises(ValueError, match="holds no examples"):
        read_examples(write(tmp_path, "\n"))


def test_what_is_written_is_read(tmp_path):
    examples = [READ, READ._replace(task="caf\u00e9\n", options=(("fill it",), ()))]
    write_examples(tmp_path / "shown.jsonl", examples)
    assert read_examples(tmp_path / "shown.jsonl") == examples
