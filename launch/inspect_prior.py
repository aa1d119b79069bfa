"""Shows a language model's prior in the states of an environment, as a web page.

    python -m launch.inspect_prior --env=Overcooked-TomatoLettuceSalad --match="You hold"
    python -m launch.inspect_prior --env=FrozenLake-4x4 --prompt=options --normalization=token
    python -m launch.inspect_prior --workdir=runs/quickstart --agent=dqn_prior

For each state: the prompt with its token boundaries, the log-probability of every token of every
action and their total score, the ranking, and the entropy. --prompt is any that a run can have,
such as `options+few_shot+chat` with --examples=shown.jsonl (`priors.prompts.read_examples`), or one
of your own, `my_module:builder`; flags that are not set have the defaults of a run of that model.
If the model thinks first, or proposes, the page shows its answers, and the tokens follow one of its
thoughts.

With --workdir, model and prompt are the run's, and the states are those of an episode of a trained
agent. A chart compares the prior with the agent's policy in all states that the run has met: if the
model is calibrated, the agent takes a share p of the actions to which the model gives p.
"""

import dataclasses
import html
import pathlib
import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from launch.common import app, pictures
from llmprior_jax import priors, progress, training
from llmprior_jax.files import check_writable, write_atomically
from llmprior_jax.priors.prompts import FEW_SHOT
from llmprior_jax.priors.scoring.score import divisor
from llmprior_jax.settings import AgentSettings, PriorSettings
from llmprior_jax.training import build_agent, work_directory
from llmprior_jax.training.calibration import Calibration, calibration
from llmprior_jax.training.config import asked as asked_how
from llmprior_jax.types import ActionPrior, TextState

if TYPE_CHECKING:
    from llmprior_jax.envs import TextEnvironment
    from llmprior_jax.learning import Run

FLAGS = app.Flags()
_ENV = FLAGS.string("env", "Overcooked-TomatoLettuceSalad", "Environment, by name.")
_PRIOR = FLAGS.string(
    "prior", "tiny", "Language model: tiny, a directory, a GGUF file, or a hub id."
)
_MATCH = FLAGS.string("match", "", "Only states whose observation has this text.")
_STATES = FLAGS.integer("states", 6, "How many states to show.", lower_bound=1)
_PROMPT = FLAGS.string(
    "prompt", None, "What the model is asked, e.g. options+few_shot+chat; what suits it if unset."
)
_EXAMPLES = FLAGS.string("examples", None, "File of episodes that few_shot shows, JSON Lines.")
_NORMALIZATION = FLAGS.enum(
    "normalization",
    None,
    ["sum", "token", "word"],
    "How an action's tokens become its score; what suits the model if unset.",
)
_TEMPERATURE = FLAGS.float("temperature", None, "What scores are divided by.")
_WORKDIR = FLAGS.string("workdir", None, "A run, to show its states and its agent beside.")
_AGENT = FLAGS.string("agent", "dqn_prior", "Which of the run's agents.")
_OUT = FLAGS.string("out", "prior.html", "File to write.")

# How the model is asked, by the field of a configuration.
_OF_PRIOR = {
    "prompt": _PROMPT,
    "normalization": _NORMALIZATION,
    "temperature": _TEMPERATURE,
}
# What a run brings itself.
_OF_RUN = {"env": _ENV, "prior": _PRIOR, "examples": _EXAMPLES, **_OF_PRIOR}
# Of a longer prompt the beginning is folded away: examples, mostly, which all prompts share.
_MOST_TOKENS, _TOKENS_SHOWN = 150, 100
_MOST_ANSWERS = 6

_STYLE = """\
h1 { margin: 0 0 .5rem }
section { border-top: 1px solid var(--line); padding: 1rem 0 }
pre { white-space: pre-wrap; font-size: .8rem; line-height: 1.7;
  margin: .5rem 0 .6rem }
pre span:nth-child(odd), td.tokens span:nth-child(odd) { background: var(--hit) }
tr { border-bottom: 1px solid var(--line) }
thead th:last-child { width: 50% }
thead th:last-child, td.tokens { text-align: left; padding: .2rem .3rem }
td.tokens span { display: inline-block; max-width: 100%; white-space: pre-wrap }
td.tokens sub { opacity: .8; font-size: .7rem }
img { max-width: 100%; height: auto }
"""


def main(argv: Sequence[str]) -> None:
    del argv
    check_writable(_OUT.value)
    with (
        tempfile.TemporaryDirectory() as scratch,
        priors.PriorStore(f"{scratch}/said.sqlite") as store,  # so that nothing is asked twice
    ):
        _inspect(store)


def _inspect(store: priors.PriorStore) -> None:
    from llmprior_jax import envs

    chart, history, seed = "", 0, 0
    if _WORKDIR.value is None:
        env, _ = envs.make(_ENV.value)
        shown: Sequence[priors.prompts.Example] = env.examples()
        if _EXAMPLES.value is not None:
            shown = priors.prompts.read_examples(_EXAMPLES.value)
        settings = _settings(has_examples=bool(shown))
        if _EXAMPLES.value is None and FEW_SHOT not in priors.prompts.words(settings.prompt):
            shown = ()
        model = priors.CachedModel(settings.model, store, should_stop=app.never)
        build_prompt = priors.prompts.make(settings.prompt, shown, lambda: model.tokenizer)
        states = _states_of_environment(env)
    else:
        for name, flag in _OF_RUN.items():
            if flag.present:
                raise ValueError(f"--{name} is the run's where there is --workdir; leave it out")
        run = training.restore(_WORKDIR.value, _AGENT.value, eval_episodes=1, should_stop=app.never)
        of_run = work_directory.read_settings(pathlib.Path(_WORKDIR.value))
        settings = build_agent.seen_by(_AGENT.value, of_run.prior)
        build_prompt, seed = run.scored.build_prompt, of_run.run.seed
        model = priors.CachedModel(
            settings.model, store, quantize=settings.quantize, should_stop=app.never
        )
        history = of_run.environment.history if settings.history is None else settings.history
        states = [decision.text for decision in run.play(0, jax.random.key(0))]
        chart = _chart(_calibration(run))
    states = [state for state in states if _MATCH.value in state.observation][: _STATES.value]
    if not states:
        raise ValueError(f"no state's observation has the text {_MATCH.value!r}; change --match")
    asked = [build_prompt(state) for state in states]
    if _WORKDIR.value is None and any(prompt.after_thought is not None for prompt in asked):
        settings = dataclasses.replace(settings, method="propose")
    context = priors.SourceContext(model, settings, build_prompt, history, seed)
    source = priors.make_source(context)
    sections = [
        f"<section><h2>State {number}</h2>{_told(context, source, state, prompt)}</section>"
        for number, (state, prompt) in enumerate(
            progress.bar(list(zip(states, asked, strict=True)), desc="inspecting", unit="state"),
            start=1,
        )
    ]
    title = f"The prior of {_name(settings.model)}, asked: {asked_how(settings)}"
    if settings.others:
        title += f" (the first of {1 + len(settings.others)})"
    body = f"<h1>{html.escape(title)}</h1>{chart}{''.join(sections)}"
    pathlib.Path(_OUT.value).parent.mkdir(parents=True, exist_ok=True)
    write_atomically(_OUT.value, pictures.document(title, body, _STYLE))
    print(f"{len(states)} states are in {_OUT.value}")


def _name(model: str) -> str:
    """What a page calls a model: a file by its name, without its directories."""
    file = pathlib.Path(model)
    return file.name if file.is_file() else model


def _settings(has_examples: bool) -> PriorSettings:
    """What the flags say of the prior; what they leave open is as it suits the model."""
    config = training.default_config()
    config.prior.model = _PRIOR.value
    for name, flag in _OF_PRIOR.items():
        if flag.value is not None:
            config.prior[name] = flag.value
    return training.to_settings(training.settled(config, has_examples=has_examples)).prior


def _states_of_environment(env: "TextEnvironment") -> list[TextState]:
    observations = env.list_observations()
    if observations is None:
        raise ValueError(f"{_ENV.value} cannot list its states; name a run's --workdir instead")
    # Every so many, not the first ones, which are all alike.
    texts = [env.text_state(observation) for observation in observations]
    texts = [text for text in dict.fromkeys(texts) if _MATCH.value in text.observation]
    return texts[:: max(1, len(texts) // _STATES.value)]


def _told(
    context: priors.SourceContext,
    source: priors.PriorSource,
    state: TextState,
    prompt: priors.Prompt,
) -> str:
    said, acting = "", prompt
    if context.settings.method == "propose":
        proposals = _propose(context, prompt)
        said = _answers(proposals)
        if prompt.after_thought is not None:
            acting = prompt.with_thought(proposals.thoughts[0][0])
    log_probs = _as_agents_see(source.score([prompt]).log_probs[0], context.settings)
    probs = np.exp(log_probs)
    entropy = -np.sum(probs * np.where(probs > 0, log_probs, 0.0))
    read = priors.inspect(context.model.language_model, acting.text, acting.actions)
    tokens = [
        _tokens(of_action, _divisor(context.settings, action, of_action))
        for action, of_action in zip(acting.actions, read.actions, strict=True)
    ]
    rows = "".join(
        f"<tr><th>{rank}. {html.escape(state.actions[a])}"
        f'<td><i class=p style="width:{94 * probs[a]:.1f}%"></i>'
        f"<b>{probs[a]:.3f}</b><td class=tokens>{tokens[a]}</tr>"
        for rank, a in enumerate(np.argsort(-log_probs, kind="stable"), start=1)
    )
    return (
        f"{_prompt(read.prompt)}{said}<p>{len(read.prompt)} tokens; entropy "
        f"{entropy:.2f} of at most {np.log(len(log_probs)):.2f} nats</p><table><thead><tr>"
        "<th>action<th>prior<th>tokens, with log-probabilities</tr></thead>"
        f"{rows}</table>"
    )


def _propose(context: priors.SourceContext, prompt: priors.Prompt) -> priors.Proposals:
    """What the model said, as the source that proposes asked it."""
    drawn = context.settings.propose
    sampling = priors.Sampling(drawn.max_new_tokens, drawn.temperature, drawn.top_p)
    (proposals,) = context.model.propose([prompt], context.seed, drawn.k, sampling)
    return proposals


def _prompt(tokens: Sequence[str]) -> str:
    """The tokens of a prompt; the beginning of a long one is folded away, whole lines of it."""
    cut = 0
    if len(tokens) > _MOST_TOKENS:
        cut = len(tokens) - _TOKENS_SHOWN
        cut = next((at for at in range(cut, 0, -1) if tokens[at - 1].endswith("\n")), cut)
    before, shown = (
        "".join(f"<span>{html.escape(token)}</span>" for token in part)
        for part in (tokens[:cut], tokens[cut:])
    )
    if cut:
        before = f"<details><summary>the first {cut} tokens</summary><pre>{before}</pre></details>"
    return f"{before}<pre>{shown}</pre>"


def _answers(proposals: priors.Proposals) -> str:
    """What a model said, the most frequent first, and the thought that the tokens come after."""
    counted = list(zip(proposals.answers, proposals.counts, strict=True))
    told = ", ".join(
        f"{html.escape(answer)} <b>({count})</b>" for answer, count in counted[:_MOST_ANSWERS]
    )
    more = f", and {len(counted) - _MOST_ANSWERS} more" if len(counted) > _MOST_ANSWERS else ""
    return f"<p>It said: {told}{more}</p>"


def _as_agents_see(log_probs: np.ndarray, settings: PriorSettings) -> np.ndarray:
    """The prior of one state as agents that learn Q see it."""
    given = ActionPrior(jnp.asarray(log_probs), jnp.zeros((len(log_probs), 1)))
    agent = build_agent.build_agent("prior", AgentSettings(), settings)
    return np.asarray(agent.policy((), given).log_probs)


def _divisor(settings: PriorSettings, action: str, tokens: Sequence[priors.Token]) -> int:
    """What the tokens' sum is divided by before actions are ranked."""
    # Answers are counted, whatever their length.
    normalization = settings.normalization if settings.method == "score" else "sum"
    return divisor(normalization, action, len(tokens))


def _tokens(tokens: Sequence[priors.Token], divided_by: int) -> str:
    """The tokens of an action and its score, which is their sum or a mean."""
    pieces = (
        f"<span>{html.escape(token.text)}<sub>{token.log_prob:.2f}</sub></span>" for token in tokens
    )
    total = sum(token.log_prob for token in tokens)
    mean = f" / {divided_by} = {total / divided_by:.2f}" if divided_by > 1 else ""
    return f"{''.join(pieces)} <b>= {total:.2f}{mean}</b>"


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
            axes.annotate(f"{count:,}", (x, y), (4, -10), textcoords="offset points", fontsize=8)
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
