"""What refined priors are worth: where they are refined and judged, and how that is told."""

import json
import pathlib

import pytest

from launch.paper import refinement
from launch.paper.refinement import Pair
from llmprior_jax import training
from llmprior_jax.files import sealed

SEEDS = range(7, 9)
ELSEWHERE = Pair(refined="TomatoSalad", judged="TomatoLettuceSalad")
WORKDIR = pathlib.Path("/work directory")


@pytest.mark.parametrize("pair", refinement.PAIRS, ids="-".join)
def test_every_run_is_valid_and_refines_in_its_own_place_alone(pair):
    first = dict(refinement._first(WORKDIR, pair, SEEDS))
    assert len(first) == 2 * len(SEEDS)
    refining = {name for name, config in first.items() if config.prior.refine.rounds}
    assert refining == {f"{pair.refined}-{pair.refined}-{seed}" for seed in SEEDS}
    assert {config.seed for config in first.values()} == set(SEEDS)
    for config in first.values():
        training.to_settings(config)


def test_a_prior_is_judged_elsewhere_by_the_adapter_of_its_own_seed():
    judged = dict(refinement._afterwards(WORKDIR, ELSEWHERE, SEEDS))
    assert {name: config.prior.model for name, config in judged.items()} == {
        f"TomatoLettuceSalad-TomatoSalad-{seed}": (
            f"{WORKDIR}/TomatoSalad-TomatoSalad-{seed}/prior_rounds/1/adapter"
        )
        for seed in SEEDS
    }
    assert {config.env for config in judged.values()} == {"Overcooked-TomatoLettuceSalad"}
    assert not any(config.prior.refine.rounds for config in judged.values())
    assert not dict(refinement._afterwards(WORKDIR, Pair("pick", "pick"), SEEDS))


def test_a_prior_is_one_sample_of_the_last_evaluation(tmp_path):
    """Means over two seeds, by hand; the metric that does not judge here is 1."""
    for place, last in (("as-it-is", (0.0, 0.5)), ("pick", (0.5, 1.0))):
        for number, seed in enumerate(SEEDS, start=1):
            unseen = ([1, 1], [value * number / 2 for value in last])
            records = [
                {"segment": i, "step": i, "success_rate": [1, 1], "unseen_success_rate": unseen[i]}
                for i in range(2)
            ]
            for agent in ("prior", "dqn_prior"):
                folder = tmp_path / f"pick-{place}-{seed}" / agent
                folder.mkdir(parents=True)
                lines = "".join(json.dumps(sealed(record)) + "\n" for record in records)
                (folder / "metrics.jsonl").write_text(lines)
    measured = refinement.measure(tmp_path, Pair("pick", "pick"), SEEDS)
    assert measured == {
        "as it is": {"alone": [0.125, 0.25], "DQN-Prior": [0.125, 0.25]},
        "refined": {"alone": [0.375, 0.75], "DQN-Prior": [0.375, 0.75]},
    }
    report = refinement.describe({"a place": measured}, "a command")
    assert "| a place | 2 | refined | 0.56 [0.38, 0.75] | 0.56 [0.38, 0.75] |" in report
