"""The pictures of the README: made from what was measured, and each as large as a page is wide."""

import itertools
import pathlib

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from launch.paper import draw

ROOT = pathlib.Path(__file__).parent.parent


def test_the_curves_are_those_of_the_reports():
    known = draw.curves(ROOT / "launch" / "results")
    for of_agents in known.values():
        assert set(of_agents) == {"DQN-Prior", "DQN", "prior alone"}
        for steps, success in of_agents.values():
            assert success.shape[0] == len(steps)
            assert np.all((success >= 0) & (success <= 1))
    steps, success = known["embedded"]["DQN"]
    assert steps[0] == 0
    assert np.mean(success[0]) < 0.1, "nothing is learned before the first step"


def test_the_numbers_below_the_curves_do_not_touch():
    figure = draw.learning(draw.curves(draw._RESULTS))
    FigureCanvasAgg(figure).draw()
    for axes in figure.axes:
        low, high = axes.get_xlim()
        ticks = [tick for tick in axes.xaxis.get_major_ticks() if low <= tick.get_loc() <= high]
        boxes = [tick.label1.get_window_extent() for tick in ticks]
        assert len(boxes) > 2
        for left, right in itertools.pairwise(boxes):
            assert left.x1 + left.height < right.x0


def test_pictures_are_drawn(tmp_path):
    pictures = {"a.png": draw.overview(), "b.png": draw.learning(draw.curves(draw._RESULTS))}
    for name, figure in pictures.items():
        figure.savefig(tmp_path / name)
        width, height = Image.open(tmp_path / name).size
        assert 800 < width < 2_000
        assert height < width / 2
