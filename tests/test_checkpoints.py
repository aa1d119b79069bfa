"""Checkpoints: exact, kept to the newest, and a damaged one never used."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from llmprior_jax.training import Checkpoints, RestoreError


def state_of(number: int):
    return {
        "key": jax.random.split(jax.random.key(number), 3),
        "float": jnp.linspace(0.0, 1.0, 1000) + number,
        "int": jnp.arange(5, dtype=jnp.int32) * number,
        "bool": jnp.array([True, False]),
        "empty": (),
    }


def assert_same(left, right) -> None:
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert a.dtype == b.dtype
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)


def save(directory: pathlib.Path, *numbers: int, keep: int = 3) -> None:
    with Checkpoints(directory, keep) as checkpoints:
        for number in numbers:
            checkpoints.save(number, state_of(number), {"number": number})


def data_files(directory: pathlib.Path, step: int) -> list[pathlib.Path]:
    """Files with array data, the largest first."""
    files = [path for path in (directory / str(step) / "state").rglob("*") if path.is_file()]
    return sorted(files, key=lambda path: -path.stat().st_size)


def test_the_newest_checkpoint_comes_back_exactly(tmp_path):
    save(tmp_path, 1, 2)
    with Checkpoints(tmp_path, 3) as checkpoints:
        step, state, meta = checkpoints.restore_latest(state_of(0))
    assert (step, meta) == (2, {"number": 2})
    assert_same(state, state_of(2))


@pytest.mark.parametrize("axis", range(3))
def test_what_was_shared_out_over_an_axis_is_whole_on_one_device(tmp_path, axis):
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    over = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*[None] * axis, "data"))
    # More than a block of the digest, and blocks that the devices' parts do not end with.
    state = {"array": jnp.arange(6 * 4 * 5000, dtype=jnp.float32).reshape(6, 4, 5000)}
    with Checkpoints(tmp_path, 1) as checkpoints:
        checkpoints.save(1, jax.device_put(state, over), {})
    with Checkpoints(tmp_path, 1) as checkpoints:
        _, restored, _ = checkpoints.restore_latest(jax.tree.map(jnp.zeros_like, state))
    assert_same(restored, state)


def test_nothing_saved_restores_nothing(tmp_path):
    with Checkpoints(tmp_path, 3) as checkpoints:
        assert checkpoints.restore_latest(state_of(0)) is None


def test_only_the_newest_stay(tmp_path):
    save(tmp_path, 1, 2, 3, 4, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["3", "4"]


def remove_arrays(directory: pathlib.Path) -> None:
    data_files(directory, 2)[0].unlink()


def truncate_arrays(directory: pathlib.Path) -> None:
    path = data_files(directory, 2)[0]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(directory: pathlib.Path) -> None:
    path = data_files(directory, 2)[0]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def remove_meta(directory: pathlib.Path) -> None:
    (directory / "2" / "meta" / "data.json").unlink()


@pytest.mark.parametrize("damage", [remove_arrays, truncate_arrays, flip_a_bit, remove_meta])
def test_a_damaged_checkpoint_is_set_aside_for_the_one_before(tmp_path, caplog, damage):
    directory = tmp_path / "checkpoints"
    save(directory, 1, 2)
    damage(directory)
    with caplog.at_level("WARNING"), Checkpoints(directory, 3) as checkpoints:
        step, state, _ = checkpoints.restore_latest(state_of(0))
        assert step == 1
        assert_same(state, state_of(1))
        checkpoints.save(2, state_of(2), {})
    assert "checkpoint 2" in caplog.text
    assert "falling back" in caplog.text
    assert (tmp_path / "checkpoints-broken" / "2").is_dir(), "the damaged one must not be lost"
    with Checkpoints(directory, 3) as checkpoints:
        assert checkpoints.restore_latest(state_of(0))[0] == 2


def test_if_no_checkpoint_can_be_read_it_says_so_every_time(tmp_path):
    directory = tmp_path / "checkpoints"
    save(directory, 2)
    remove_arrays(directory)
    for _ in range(2):
        check_refused(directory)


def check_refused(directory: pathlib.Path) -> None:
    with (
        Checkpoints(directory, 3) as checkpoints,
        pytest.raises(RestoreError, match=r"none of the checkpoints \[2\].*--noresume"),
    ):
        checkpoints.restore_latest(state_of(0))


def test_a_reader_leaves_a_damaged_checkpoint_where_it_is(tmp_path):
    directory = tmp_path / "checkpoints"
    save(directory, 1, 2)
    remove_arrays(directory)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with Checkpoints(directory, 3, read_only=True) as checkpoints:
        assert checkpoints.restore_latest(state_of(0))[0] == 1
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert (directory / "2").is_dir()


def save_as_before(directory: pathlib.Path, about: dict) -> None:
    """Saves a state as version 0.1 did, by orbax's older interface."""
    state = state_of(1)
    arrays = state | {"key": jax.random.key_data(state["key"])}
    arrays = jax.tree.map(np.asarray, arrays)
    with ocp.CheckpointManager(directory) as manager:
        parts = {"state": ocp.args.StandardSave(arrays), "meta": ocp.args.JsonSave(about)}
        manager.save(1, args=ocp.args.Composite(**parts))


def test_a_checkpoint_of_orbaxs_older_interface_is_read_and_checked(tmp_path, caplog):
    save(tmp_path / "new", 1)
    about = json.loads((tmp_path / "new" / "1" / "meta" / "data.json").read_text())
    save_as_before(tmp_path / "old", about)
    with caplog.at_level("WARNING"), Checkpoints(tmp_path / "old", 3) as checkpoints:
        step, restored, meta = checkpoints.restore_latest(state_of(0))
    assert (step, meta) == (1, {"number": 1})
    assert_same(restored, state_of(1))
    assert "damage" not in caplog.text
    save_as_before(tmp_path / "wrong", about | {"hash": "0" * 16})
    with (
        Checkpoints(tmp_path / "wrong", 3) as checkpoints,
        pytest.raises(RestoreError, match=r"none of the checkpoints \[1\]"),
    ):
        checkpoints.restore_latest(state_of(0))


def test_a_checkpoint_of_another_version_is_read_unchecked_and_said_to_be(tmp_path, caplog):
    save_as_before(tmp_path, {"digest": "another way to weigh", "meta": {"number": 1}})
    with caplog.at_level("WARNING", logger="absl"), Checkpoints(tmp_path, 3) as checkpoints:
        step, restored, meta = checkpoints.restore_latest(state_of(0))
    assert (step, meta) == (1, {"number": 1})
    assert "cannot be checked for damage" in caplog.text
    assert_same(restored, state_of(1))
