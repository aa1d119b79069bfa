"""Pictures of how an agent decides: a scene, and an episode as an animation and as a web page.

A decision is drawn as three bars for each action: what the language model would do (the prior),
what was learned (Q), and what the agent acts by (the posterior).
"""

from __future__ import annotations

import base64
import functools
import html
import io
import pathlib
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from llmprior_jax.files import replaced

if TYPE_CHECKING:
    from llmprior_jax.envs import Scene
    from llmprior_jax.play import Decision

PRIOR, VALUE, POSTERIOR = "#8a94a6", "#d98b2b", "#2563b8"  # distinct without color vision, too
_TILE = 72  # pixels
_TILES = {
    "floor": "#f4efe6", "counter": "#c9b79c", "board": "#e2c48d", "hatch": "#a9c4e0",
    "ice": "#e6f2fa", "start": "#e6f2fa", "hole": "#33506b", "goal": "#f2cf5b",
    "wall": "#77808f",
}  # fmt: skip
_PLAIN = ("floor", "counter", "ice", "wall")  # tiles that everybody knows without their name
_THINGS = {
    "cook": "#2563b8", "agent": "#2563b8", "bowl": "#ffffff", "tomato": "#d64545",
    "lettuce": "#5c9e4a", "onion": "#b58ac0",
}  # fmt: skip
_OTHER = "#dddddd"
# Things that come in colors are told apart by their shape, and those that look somewhere, too.
_COLORS = {
    "red": "#d64545", "green": "#3f9b57", "blue": "#2f6fd0", "purple": "#8450b8",
    "yellow": "#dcb51e", "grey": "#9aa0aa",
}  # fmt: skip
_TURNS = {"right": 0, "down": 1, "left": 2, "up": 3}
_GLYPHS = {"ball": "\u25cf", "box": "\u25a0", "key": "\u25c6", "door": "\u25ae", "agent": "\u25b6"}
_HEADS = {"prior": "prior", "Q": "Q", "posterior": "post."}
_MOST_BARS = 12  # actions in an animation's frame; a web page has room for all


def draw_scene(scene: Scene) -> Image.Image:
    """Draws tiles, and on each the things that stand there; things are named by their letter."""
    rows, columns = len(scene.tiles), len(scene.tiles[0])
    image = Image.new("RGB", (columns * _TILE, rows * _TILE), "white")
    draw = ImageDraw.Draw(image)
    for row, kinds in enumerate(scene.tiles):
        for column, kind in enumerate(kinds):
            corner = column * _TILE, row * _TILE
            box = (*corner, corner[0] + _TILE - 2, corner[1] + _TILE - 2)
            draw.rectangle(box, fill=_TILES.get(kind, _OTHER))
            if kind not in _PLAIN:
                ink = "white" if kind == "hole" else "#555555"
                top = corner[0] + _TILE / 2, corner[1] + 3
                draw.text(top, kind, fill=ink, font=_font(15), anchor="ma")
    places: dict[tuple[int, int], list[str]] = {}
    for thing in scene.things:
        places.setdefault((thing.row, thing.column), []).append(thing.name)
    for (row, column), names in places.items():
        for index, name in enumerate(names):
            _draw_thing(draw, name, row, column, index, len(names))
    return image


def _draw_thing(draw, name: str, row: int, column: int, index: int, count: int) -> None:
    """One of `count` things on a tile: in a ring around its center, or in the center alone."""
    angle = 2 * np.pi * index / count
    off = _TILE * (0.22 if count > 1 else 0.0)
    x = (column + 0.5) * _TILE - 1 + off * np.sin(angle)
    y = (row + 0.58) * _TILE - 1 - off * np.cos(angle)
    radius = _TILE * (0.27 if count == 1 else 0.19)
    kind = name.split()[-1]
    if _has_shape(name):
        _draw_shape(draw, name.split(), x, y, radius)
        return
    box = (x - radius, y - radius, x + radius, y + radius)
    draw.ellipse(box, fill=_THINGS.get(kind, _OTHER), outline="#333333", width=2)
    if name.startswith("chopped"):
        draw.line((x - radius, y + radius, x + radius, y - radius), fill="white", width=3)
    ink = "#333333" if kind == "bowl" else "white"
    draw.text((x, y), kind[0].upper(), fill=ink, font=_font(int(radius * 1.1)), anchor="mm")


def _has_shape(name: str) -> bool:
    """Whether a thing is told by its shape, and not by its letter."""
    return not {*_COLORS, *_TURNS}.isdisjoint(name.split())


def _draw_shape(draw, words: Sequence[str], x: float, y: float, radius: float) -> None:
    """Draws what the words name, such as a closed red door, around a point."""
    kind = words[-1]
    fill = next((_COLORS[word] for word in words if word in _COLORS), _THINGS.get(kind, _OTHER))
    corners = {
        "key": ((0, -1), (0.7, 0), (0, 1), (-0.7, 0)),
        "agent": ((1, 0), (-0.8, -0.8), (-0.4, 0), (-0.8, 0.8)),
    }
    if kind in corners:
        for _ in range(next((_TURNS[word] for word in words if word in _TURNS), 0)):
            corners[kind] = tuple((-down, right) for right, down in corners[kind])
        points = [(x + right * radius, y + down * radius) for right, down in corners[kind]]
        draw.polygon(points, fill=fill, outline="#333333", width=2)
    elif kind == "door":
        middle = y - 0.08 * _TILE + 1, 0.45 * _TILE
        box = (x - middle[1], middle[0] - middle[1], x + middle[1], middle[0] + middle[1])
        draw.rectangle(box, fill=None if "open" in words else fill, outline=fill, width=6)
        if "locked" in words:
            draw.ellipse((x - 7, middle[0] - 7, x + 7, middle[0] + 7), fill="#222222")
    else:
        box = (x - radius, y - radius, x + radius, y + radius)
        (draw.ellipse if kind == "ball" else draw.rectangle)(
            box, fill=fill, outline="#333333", width=2
        )


@functools.cache
def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def overruled(decision: Decision) -> bool:
    """Whether what was learned prefers another action than the prior does.

    A uniform prior prefers none.
    """
    return bool(decision.prior[np.argmax(decision.posterior)] < decision.prior.max())


def write_gif(decisions: Sequence[Decision], path: pathlib.Path, seconds: float = 1.5) -> None:
    """Writes an episode as an animation, `seconds` per decision."""
    drawn = _drawn(decisions)
    frames = [_frame(number, decision, drawn) for number, decision in enumerate(decisions, start=1)]
    milliseconds = int(1000 * seconds)
    durations = [milliseconds] * (len(frames) - 1) + [3 * milliseconds]
    with replaced(path) as temporary:
        frames[0].save(
            temporary,
            "GIF",
            save_all=True,
            append_images=frames[1:],
            duration=durations,
            loop=0,
        )


def _drawn(decisions: Sequence[Decision]) -> tuple[str, ...]:
    """The bars of an action; an agent that has learned no Q has none but zeros."""
    has_q = any(decision.q_values.any() for decision in decisions)
    return ("prior", "Q", "posterior") if has_q else ("prior", "posterior")


def _frame(number: int, decision: Decision, drawn: Sequence[str]) -> Image.Image:
    figure = Figure(figsize=(10, 4.8), dpi=80, layout="constrained")
    if decision.scene is None:
        panel = figure.subplots(1, 1)
    else:
        picture, panel = figure.subplots(1, 2, width_ratios=(1, 1.25))
        picture.imshow(draw_scene(decision.scene))
        picture.axis("off")
    order = np.argsort(-decision.posterior[: len(decision.text.actions)], kind="stable")
    shown = order[:_MOST_BARS].tolist()
    if decision.action not in shown:
        shown[-1] = decision.action
    y = np.arange(len(shown))
    bars = {
        "prior": (PRIOR, decision.prior),
        "Q": (VALUE, _positions(decision.q_values[: len(decision.text.actions)])),
        "posterior": (POSTERIOR, decision.posterior),
    }
    for place, label in enumerate(drawn):
        color, values = bars[label]
        offset = 0.27 * (place - (len(drawn) - 1) / 2)
        panel.barh(y + offset, np.asarray(values)[shown], 0.25, color=color, label=label)
    panel.set(yticks=y, xlim=(0, 1.02), ylim=(len(shown) - 0.4, -0.6))
    panel.set_yticklabels([_escape(decision.text.actions[index]) for index in shown])
    for index, label in zip(shown, panel.get_yticklabels(), strict=True):
        label.set_fontweight("bold" if index == decision.action else "normal")
    panel.legend(loc="lower right", fontsize="small")
    panel.spines[["top", "right"]].set_visible(False)
    words = " ".join(decision.text.observation.split())
    said = "\n".join(textwrap.wrap(words, 96, break_on_hyphens=False)[:4])
    note = "  (learning overrules the model)" if overruled(decision) else ""
    figure.suptitle(_escape(f"{number}. {said}{note}"), fontsize=10, ha="left", x=0.01)
    return rendered(figure).quantize(128)


def rendered(figure: Figure) -> Image.Image:
    """A figure as an RGB image."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    rgba = Image.frombuffer("RGBA", canvas.get_width_height(), bytes(canvas.buffer_rgba()))
    return rgba.convert("RGB")


def _positions(values: np.ndarray) -> np.ndarray:
    """Values on the scale of the picture: the lowest at 0, the highest at 1; equal ones at 0."""
    spread = values.max() - values.min()
    return (values - values.min()) / spread if spread > 0 else np.zeros_like(values)


def _escape(text: str) -> str:
    """Keeps matplotlib from reading `$` as mathematics."""
    return text.replace("$", r"\$")


def episode_page(title: str, decisions: Sequence[Decision]) -> str:
    """An episode as one self-contained HTML page, readable on a phone and without JavaScript."""
    drawn = _drawn(decisions)
    scale = "; bars of Q go from the lowest to the highest of the step" if "Q" in drawn else ""
    steps = "\n".join(_step(number, step, drawn) for number, step in enumerate(decisions, start=1))
    chips = "".join(
        f'<a href="#step{number}"{" class=overruled" if overruled(step) else ""}>{number}</a>'
        for number, step in enumerate(decisions, start=1)
    )
    total = sum(decision.reward for decision in decisions)
    end = "solved" if decisions[-1].success else "not solved"
    body = f"""<h1>{html.escape(decisions[0].text.task)}</h1>
<p>{html.escape(title)}: {end} in {len(decisions)} decisions, return {total:.3f}; learning overruled
the model in {sum(map(overruled, decisions))} of them (marked). The action taken is in
bold{scale}.{_legend(decisions)}</p>
<nav aria-label="Decisions"><button type="button" hidden>Play</button>{chips}</nav>
<main>
{steps}
</main>
<script>
{_PLAYER}</script>"""
    return document(f"{title}: {decisions[0].text.task}", body, _EPISODE_STYLE)


def _legend(decisions: Sequence[Decision]) -> str:
    """What the letters in the pictures stand for."""
    names = [thing.name for step in decisions if step.scene for thing in step.scene.things]
    kinds = {name.split()[-1]: _sign(name) for name in names}
    stroke = "; a stroke through it: chopped" if any("chopped" in name for name in names) else ""
    locked = "; with a keyhole: locked" if any("locked" in name for name in names) else ""
    signs = ", ".join(f"{sign} {kind}" for kind, sign in sorted(kinds.items()))
    return f" In the pictures: {html.escape(signs)}{stroke}{locked}." if kinds else ""


def _sign(name: str) -> str:
    """The letter or the shape that a thing is drawn by."""
    kind = name.split()[-1]
    return _GLYPHS[kind] if _has_shape(name) else kind[0].upper()


def document(title: str, body: str, style: str = "") -> str:
    """A self-contained HTML page in the style that all pages share, and some of its own."""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>
:root {{ --prior: {PRIOR}; --value: {VALUE}; --posterior: {POSTERIOR} }}
{_STYLE}{style}</style></head>
<body>
{body}
</body></html>
"""


def embedded_png(image: Image.Image, alt: str) -> str:
    """An image as an HTML element that holds its own data."""
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{data}">'


def _step(number: int, decision: Decision, drawn: Sequence[str]) -> str:
    actions = decision.text.actions
    order = np.argsort(-decision.posterior[: len(actions)], kind="stable")
    heights = _positions(decision.q_values[: len(actions)])
    rows = [_bars(decision, index, float(heights[index]), drawn) for index in order]
    head = "".join(f"<th>{_HEADS[name]}" for name in drawn)
    table = f"<table><thead><tr><th>action{head}</tr></thead>{{}}</table>".format
    more = ""
    if len(rows) > _MOST_BARS:
        rest = "".join(rows[_MOST_BARS:])
        unlikely = len(rows) - _MOST_BARS
        more = f"<details><summary>{unlikely} less likely actions</summary>{table(rest)}</details>"
    picture = ""
    if decision.scene is not None:
        room = draw_scene(decision.scene).quantize(32)
        picture = embedded_png(room, f"the room at step {number}")
    badge = "<span class=badge>learning overrules the model</span>" if overruled(decision) else ""
    counted = "" if decision.trust is None else f", the prior counts {decision.trust:.0%} here"
    history = "".join(
        f"<li>{html.escape(seen)} <b>{html.escape(done)}</b></li>"
        for seen, done in decision.text.history
    )
    if history:
        count = len(decision.text.history)
        history = f"<details><summary>history ({count})</summary><ol>{history}</ol></details>"
    return (
        f'<section id="step{number}"><h2>{number}. {badge}</h2>{picture}<div class=right>{history}'
        f"<p class=seen>{html.escape(decision.text.observation)}</p>"
        f"{table(''.join(rows[:_MOST_BARS]))}{more}"
        f"<p>did: <b>{html.escape(actions[decision.action])}</b>, reward {decision.reward:.3f}"
        f"{counted}</p>"
        "</div></section>"
    )


def _bars(decision: Decision, index: int, height: float, drawn: Sequence[str]) -> str:
    taken = " class=taken" if index == decision.action else ""
    bars = {
        "prior": ("p", decision.prior[index], decision.prior[index]),
        "Q": ("q", height, decision.q_values[index]),
        "posterior": ("o", decision.posterior[index], decision.posterior[index]),
    }
    cells = "".join(
        f'<td><i class={kind} style="width:{94 * width:.1f}%"></i><b>{value:z.3f}</b>'
        for kind, width, value in map(bars.__getitem__, drawn)
    )
    return f"<tr{taken}><th>{html.escape(decision.text.actions[index])}{cells}</tr>"


_STYLE = """\
:root { color-scheme: light dark; --ink: #1c2330; --paper: #fff; --line: #d8dde6; --hit: #dce8f9 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e7ebf2; --paper: #151a22; --line: #384152; --hit: #22304a }
}
body { font: 16px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 62rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere }
h1 { font-size: 1.3rem; margin: 0 } h2 { font-size: 1.05rem; margin: 0; width: 100% }
table { width: 100%; border-collapse: collapse; font-size: .85rem; table-layout: fixed }
th { text-align: left; font-weight: normal; padding: .2rem .3rem .2rem 0 }
thead th { font-weight: 600; border-bottom: 1px solid var(--line); text-align: right }
thead th:first-child { width: 34%; text-align: left }
td { position: relative; height: 1.5rem; padding: 0 .3rem; vertical-align: middle;
  text-align: right }
td i { position: absolute; left: .2rem; top: calc(50% - .55rem); height: 1.1rem;
  border-radius: .15rem; opacity: .55 }
td b { position: relative; font-weight: normal; font-variant-numeric: tabular-nums;
  white-space: nowrap }
.p { background: var(--prior) } .q { background: var(--value) } .o { background: var(--posterior) }
.taken { background: var(--hit) } .taken th { font-weight: 700 }
"""

_EPISODE_STYLE = """\
nav { position: sticky; top: 0; background: var(--paper); padding: .5rem 0; display: flex;
  flex-wrap: wrap; gap: .25rem; border-bottom: 1px solid var(--line); z-index: 1;
  max-height: 5.5rem; overflow-y: auto }
nav a { min-width: 1.6rem; padding: .15rem .3rem; text-align: center; text-decoration: none;
  color: inherit; border: 1px solid var(--line); border-radius: .3rem }
nav a.overruled { border-color: var(--value); box-shadow: inset 0 -3px var(--value) }
nav a.now { background: var(--posterior); color: #fff }
nav button { font: inherit; padding: .15rem .8rem; position: sticky; top: 0 }
section { display: flex; flex-wrap: wrap; gap: .5rem 1rem; padding: 1rem 0;
  border-bottom: 1px solid var(--line); scroll-margin-top: 6.5rem }
section img { width: 20rem; max-width: 100%; height: auto; align-self: flex-start;
  image-rendering: auto }
.right { flex: 1 1 22rem; min-width: 0 } .right p { margin: .3rem 0 .6rem }
.seen, ol { white-space: pre-line }
.badge { font-size: .8rem; font-weight: normal; border: 1px solid var(--value);
  border-radius: .3rem; padding: .1rem .4rem }
.playing section { display: none } .playing section.now { display: flex }
"""

_PLAYER = """\
const nav = document.querySelector("nav"), button = nav.querySelector("button");
const chips = document.querySelectorAll("nav a"), steps = document.querySelectorAll("section");
const count = steps.length;
let timer = null, at = 0;
function show(index) {
  at = (index + count) % count;
  chips.forEach((chip, i) => chip.classList.toggle("now", i === at));
  steps.forEach((step, i) => step.classList.toggle("now", i === at));
  nav.scrollTop = chips[at].offsetTop - nav.clientHeight / 2;
}
function stop() {
  clearInterval(timer); timer = null; button.textContent = "Play";
  document.body.classList.remove("playing");
}
button.hidden = false;
button.onclick = () => {
  if (timer) return stop();
  document.body.classList.add("playing"); button.textContent = "Show all"; show(at);
  timer = setInterval(() => show(at + 1), 1500);
};
chips.forEach((chip, i) => chip.addEventListener("click", () => { stop(); show(i); }));
addEventListener("keydown", (event) => {
  const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!move || event.altKey || event.ctrlKey || event.metaKey) return;
  event.preventDefault(); show(at + move); if (!timer) steps[at].scrollIntoView();
});
"""
