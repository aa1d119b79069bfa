"""Shows what a language model makes of the states of an environment, as a web page.

    python -m launch.inspect_prior --env=Overcooked-TomatoLettuceSalad --match="You hold"
    python -m launch.inspect_prior --workdir=runs/quickstart --agent=dqn_prior

For each state: the prompt with the boundaries of its tokens, the log-probability of every token of
every action, the ranking, and the entropy. With --workdir the states are those of an episode of a
trained agent, and a chart compares the prior with what the agent does in all states that the run
has met: of the actions that the model gives p, the agent takes a share of p if the model is
calibrated.
"""

import html
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import numpy as np
from matplotlib.figure import Figure

from launch.common import app, pictures
from llmprior_jax import models, priors, progress, training
from llmprior_jax.files import write_atomically
from llmprior_jax.training.calibration import Calibration, calibration
from llmprior_jax.types import TextState

if TYPE_CHECKING:
    from llmprior_jax.learning import Run

FLAGS = app.Flags()
_ENV = FLAGS.string("env", "Overcooked-TomatoLettuceSalad", "Environment, by name.")
_PRIOR = FLAGS.string("prior", "tiny", "Language model: tiny, a directory, or a hub id.")
_MATCH = FLAGS.string("match", "", "Only states whose observation has this text.")
_STATES = FLAGS.integer("states", 6, "How many states to show.", lower_bound=1)
_NORMALIZATION = FLAGS.enum(
    "normalization", "sum", ["sum", "token", "word"], "How an action's tokens become its score."
)
_WORKDIR = FLAGS.string("workdir", None, "A run, to show its states and its agent beside.")
_AGENT = FLAGS.string("agent", "dqn_prior", "Which of the run's agents.")
_OUT = FLAGS.string("out", "prior.html", "File to write.")

_STYLE = """\
h1 { margin: 0 0 .5rem }
section { border-top: 1px solid var(--line); padding: 1rem 0 }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .8rem; line-height: 1.7;
  margin: 0 0 .6rem }
pre span:nth-child(odd), td.tokens span:nth-child(odd) { background: var(--hit) }
thead th:last-child { width: 50% }
td.tokens span { display: inline-block; white-space: pre }
td.tokens b { white-space: nowrap }
td.tokens sub { opacity: .65; font-size: .65rem }
img { max-width: 100%; height: auto }
"""


def main(argv: Sequence[str]) -> None:
    del argv
    chart = ""
    if _WORKDIR.value is None:
        model, normalization, temperature = _PRIOR.value, _NORMALIZATION.value, 1.0
        build_prompt = priors.prompts.plain
        states = _states_of_environment()
    else:
        run = training.restore(_WORKDIR.value, _AGENT.value, eval_episodes=1, should_stop=app.never)
        build_prompt = run.scored.build_prompt
        prior = training.read_config(pathlib.Path(_WORKDIR.value)).prior
        model, normalization, temperature = prior.model, prior.normalization, prior.temperature
        states = [decision.text for decision in run.play(0, jax.random.key(0))]
        chart = _chart(_calibration(run))
    states = [state for state in states if _MATCH.value in state.observation][: _STATES.value]
    if not states:
        raise ValueError(f"no state's observation has the text {_MATCH.value!r}; change --match")
    lm = models.load(model)
    sections = [
        _section(lm, state, build_prompt(state), normalization, temperature)
        for state in progress.bar(states, desc="inspecting", unit="state")
    ]
    title = f"The prior of {model}"
    body = f"<h1>{html.escape(title)}</h1>{chart}{''.join(sections)}"
    write_atomically(_OUT.value, pictures.document(title, body, _STYLE))
    print(f"{len(states)} states are in {_OUT.value}")


def _states_of_environment() -> list[TextState]:
    from llmprior_jax import envs

    env, _ = envs.make(_ENV.value)
    observations = env.list_observations()
    if observations is None:
        raise ValueError(f"{_ENV.value} cannot list its states; name a run's --workdir instead")
    # Every so many, not the first ones, which are all alike.
    texts = [env.text_state(observation) for observation in observations]
    texts = [text for text in dict.fromkeys(texts) if _MATCH.value in text.observation]
    return texts[:: max(1, len(texts) // _STATES.value)]


def _section(
    lm, state: TextState, prompt: priors.Prompt, normalization: str, temperature: float
) -> str:
    read = priors.inspect(lm, prompt.text, prompt.actions)
    log_probs = np.asarray(
        priors.score_actions(lm, [prompt.text], [prompt.actions], normalization, temperature)[0]
    )
    entropy = -np.sum(np.exp(log_probs) * log_probs)
    rows = "".join(
        f"<tr><th>{rank}. {html.escape(state.actions[a])}"
        f'<td><i class=p style="width:{94 * np.exp(log_probs[a]):.1f}%"></i>'
        f"<b>{np.exp(log_probs[a]):.3f}</b><td class=tokens>{_tokens(read.actions[a])}</tr>"
        for rank, a in enumerate(np.argsort(-log_probs, kind="stable"), start=1)
    )
    pieces = "".join(f"<span>{html.escape(token)}</span>" for token in read.prompt)
    return (
        f"<section><pre>{pieces}</pre><p>{len(read.prompt)} tokens; entropy {entropy:.2f} of at "
        f"most {np.log(len(log_probs)):.2f} nats</p><table><thead><tr><th>action<th>prior"
        f"<th>tokens, with log-probabilities</tr></thead>{rows}</table></section>"
    )


def _tokens(tokens: Sequence[priors.Token]) -> str:
    pieces = (
        f"<span>{html.escape(token.text)}<sub>{token.log_prob:.2f}</sub></span>" for token in tokens
    )
    total = sum(token.log_prob for token in tokens)
    return f"{''.join(pieces)} <b>= {total:.2f}</b>"


def _calibration(run: "Run") -> Calibration:
    """The prior against what the agent of seed 0 does, over all states that the run has met."""
    prior, policy = run.player.policies(run.state.agent, seed=0)
    admissible = np.isfinite(prior.log_probs)
    return calibration(np.exp(prior.log_probs)[admissible], np.exp(policy.log_probs)[admissible])


def _chart(curve: Calibration) -> str:
    figure = Figure(figsize=(5, 4), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=pictures.PRIOR, linestyle="--", label="calibrated")
    full = curve.count > 0
    axes.plot(curve.predicted[full], curve.observed[full], "o-", color=pictures.POSTERIOR)
    for x, y, count in zip(curve.predicted, curve.observed, curve.count, strict=True):
        if count:
            axes.annotate(f"{count:,}", (x, y), (4, -10), textcoords="offset points", fontsize=7)
    axes.set(xlabel="prior of an action", ylabel=f"how often {_AGENT.value} takes it")
    axes.legend(loc="upper left")
    alt = "how often the agent takes an action, against the prior of the action"
    chart = pictures.embedded_png(pictures.rendered(figure), alt)
    return (
        f"{chart}<p>What the model would do, against "
        f"what {html.escape(_AGENT.value)} does: expected calibration error {curve.error:.3f} over "
        f"{curve.count.sum():,} pairs of state and action (their number stands at each point).</p>"
    )


if __name__ == "__main__":
    app.run(main, FLAGS)
