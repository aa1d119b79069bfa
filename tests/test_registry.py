"""Things by name: registered once, found by an import path, and refused with the nearest name."""

import math

import pytest

from llmprior_jax.registry import Registry, nearest


@pytest.fixture
def units():
    return Registry("unit", {"second": 1, "minute": 60})


def test_what_is_registered_is_found_and_listed(units):
    units.register("hour", 3600)
    assert units["hour"] == 3600
    assert list(units) == ["second", "minute", "hour"]
    assert "hour" in units
    assert "day" not in units


def test_the_same_entry_may_be_registered_again_and_another_may_not(units):
    units.register("minute", 60)
    with pytest.raises(ValueError, match="the unit 'minute' is there already"):
        units.register("minute", 61)
    assert units["minute"] == 60


def test_an_import_path_names_what_it_imports(units):
    assert units["math:sqrt"] is math.sqrt


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("minuet", "no unit 'minuet'; did you mean 'minute'. There are second, minute"),
        ("MINUTES", "did you mean 'minute'"),
        ("nowhere:day", "unit 'nowhere:day' cannot be imported: there is no module 'nowhere'"),
        ("minuet", "One of your own is named by its import path, my_module:name"),
        ("math:pi", r"unit 'math:pi' is 3\.14.*, which cannot be called; name a function"),
        ("math:day", "the module math has no 'day'"),
    ],
)
def test_what_is_not_there_is_named_with_what_to_do(units, name, message):
    with pytest.raises(ValueError, match=message):
        units[name]


def test_a_name_that_looks_like_an_import_path_is_not_registered(units):
    with pytest.raises(ValueError, match="names with a colon are import paths"):
        units.register("my:unit", 1)


def test_the_nearest_name_is_found_whatever_its_case():
    assert nearest("frozenlake-4X4", ["FrozenLake-4x4", "FrozenLake-8x8"]) == "FrozenLake-4x4"
