"""The experiments in kitchens: the paper's, and what each part of its method is worth."""

from collections.abc import Mapping
from typing import Any

from launch.common.yardstick import SALAD
from launch.configs import paper_dqn, paper_dqn_prior
from launch.paper.experiments import (
    BOTH_MODES,
    NAMES,
    POLICY_AGENTS,
    Claim,
    Experiment,
    Inputs,
    Maker,
    Scale,
)
from llmprior_jax import training

# What a prior that is not to be trusted is mixed with.
ROBUST_SHARE = 0.9
_SEARCHERS = {"random": "uniform", "prior": "prior alone", "dqn_prior": "DQN-Prior"}
_MEMORY_ALONE = "Mem-Q, uniform prior"
_LEARNERS = ("dqn", "dqn_prior")
_TOMATO_SALAD = "Overcooked-TomatoSalad"
_ONLINE = {SALAD: "online-salad", _TOMATO_SALAD: "online-tomato-salad"}


def for_claims(scale: Scale, inputs: Inputs) -> Maker:
    """Makes runs of which something is claimed."""
    return _maker(scale, inputs, scale.num_seeds, 16)


def for_variations(scale: Scale, inputs: Inputs) -> Maker:
    """Makes runs that differ in one setting."""
    return _maker(scale, inputs, scale.num_varied_seeds, 16 if scale.is_quick else 32)


def _maker(scale: Scale, inputs: Inputs, num_seeds: int, eval_episodes: int) -> Maker:
    """Makes runs in the kitchen, or in another environment whose states can be listed."""

    def default() -> training.Config:
        config = training.default_config()
        config.num_seeds = num_seeds
        config.num_steps = scale.online_steps
        # Evaluation takes most of the time of a run.
        config.eval_every, config.eval_episodes = 2_000, eval_episodes
        return config

    return Maker(inputs, default)


def make(scale: Scale, inputs: Inputs) -> dict[str, Experiment]:
    """The experiments by name."""
    return {
        **_online(scale, inputs),
        **_history(scale, inputs),
        "published-salad": _published(scale, inputs),
        "offline-salad": _offline(scale, inputs),
        **_ablations(scale, inputs),
        "ablation-quality": _quality(scale, inputs),
        "ablation-bad-prior": _bad_prior(scale, inputs),
        "search-salad": _search(scale, inputs),
    }


def _online(scale: Scale, inputs: Inputs) -> dict[str, Experiment]:
    maker, varied = for_claims(scale, inputs), for_variations(scale, inputs)
    policy: dict[str, Any] = {
        "num_seeds": scale.num_policy_seeds,
        "num_steps": scale.policy_steps,
        "eval_every": 1_000,
        "eval_episodes": scale.pick((64,), (32,))[0],
    }
    experiments = {}
    for env in _ONLINE:
        values = [
            maker.best(agent, env=env, **_closely(scale, env))
            for agent in ("random", "prior", *_LEARNERS)
        ]
        without_prior = {**_remembering(scale, capacity=4_000), "prior__uniform_share": 1.0}
        memories = [
            maker.run("mem_q", env=env, **BOTH_MODES, **_remembering(scale)),
            varied.run("mem_q", _MEMORY_ALONE, env=env, **BOTH_MODES, **without_prior),
        ]
        policies = [
            maker.best(agent, env=env, **BOTH_MODES, **policy)
            for agent in scale.pick(POLICY_AGENTS, POLICY_AGENTS if env == SALAD else ())
        ]
        experiments[_ONLINE[env]] = Experiment(
            f"Online: {env}",
            "How many environment steps does a prior save an agent that learns online? Mem-Q "
            "remembers what pairs of state and action were worth, in place of a network.",
            (*values, *memories, *policies),
            claims=(
                Claim("DQN-Prior", "DQN"),
                Claim("Mem-Q", "DQN"),
                Claim("Mem-Q", _MEMORY_ALONE),
                *([Claim("GFlan-Prior", "GFlan")] if policies else []),
            ),
            tried="Mem-Q has its default settings, but that it learns from the first step on, with "
            "four updates in each, as many as the search chose for DQN. Four were tried on 16 "
            "seeds of that search, and reached 90% success in 600 steps; one, on eight seeds from "
            "0 on, in at most 1,000. It is evaluated more often than the others.",
        )
    return experiments


def _closely(scale: Scale, env: str) -> Mapping[str, Any]:
    """How agents that learn Q are evaluated: often in the kitchen that the headline is about."""
    return scale.closely if env == SALAD else BOTH_MODES


def _remembering(scale: Scale, capacity: int = 1_000) -> dict[str, Any]:
    """The fields of an agent that remembers so many pairs of state and action at most."""
    # A memory needs no transitions to begin with. With the prior it gets to hold at most 550 pairs
    # of a kitchen, so that more room would change nothing but the time.
    return {
        "loop__warmup_steps": 1,
        "loop__updates_per_step": 4,
        "agent__extra__capacity": capacity,
        "num_steps": scale.memory_steps,
        "eval_every": scale.memory_steps // 20,
    }


def _history(scale: Scale, inputs: Inputs) -> dict[str, Experiment]:
    """Where states read alike: agents that see what they did last."""
    claimed, maker = for_claims(scale, inputs), for_variations(scale, inputs)
    experiments = {}
    for env in scale.pick(tuple(_ONLINE), (_TOMATO_SALAD,)):
        without = [claimed.best(agent, env=env, **_closely(scale, env)) for agent in _LEARNERS]
        fields: dict[str, Any] = {
            **BOTH_MODES,
            "env": env,
            "history": 1,
            "num_steps": scale.history_steps,
            "eval_every": scale.history_steps // 40,
        }
        told = [
            maker.best(agent, f"{NAMES[agent]}, last action", **fields)
            for agent in ("prior", *_LEARNERS)
        ]
        # The same pair comes after several others, and is remembered once for each.
        fields |= _remembering(scale, capacity=2_000)
        told.append(maker.run("mem_q", "Mem-Q, last action", **fields))
        experiments[_ONLINE[env].replace("online", "history")] = Experiment(
            f"The last action in the state: {env}",
            "An observation does not say what lies on the cutting board, so states read alike. "
            "What is the last observation and action in the state worth, for prompt and Q alike?",
            (*without, *told),
            claims=(
                Claim("DQN, last action", "DQN", at_most=1.0),
                Claim("DQN-Prior, last action", "DQN, last action"),
                Claim("Mem-Q, last action", "DQN, last action"),
            ),
            tried="On 16 other seeds of TomatoSalad, DQN-Prior and Mem-Q with the last action were "
            "at 1.00 wherever they were evaluated, from 4,000 to 36,000 and from 400 to 2,000 "
            "steps. They are evaluated more often here than agents without it.",
        )
    return experiments


def _published(scale: Scale, inputs: Inputs) -> Experiment:
    """The agents with the settings of the paper's code, beside ours."""

    def default(config: training.Config) -> training.Config:
        config.num_seeds, config.num_steps = scale.num_varied_seeds, scale.online_steps
        config.eval_every, config.eval_episodes = 2_000, 16 if scale.is_quick else 32
        return config

    published = {
        agent: Maker(inputs, lambda config=config: default(config.get_config()))
        for agent, config in (("dqn_prior", paper_dqn_prior), ("dqn", paper_dqn))
    }
    ours = for_claims(scale, inputs)
    published_fields: dict[str, dict[str, Any]] = {
        "": {},
        ", discount 0.95": {"agent__discount": 0.95},
    }
    return Experiment(
        f"The paper's own settings: {SALAD}",
        "Five candidates that are drawn once and kept, the maximum over them, one target network, "
        "a discount of 0.99; and the same with the discount that all others here have. In these "
        "kitchens each chop is paid, and who looks far learns to spoil the dish and chop again.",
        (
            *(
                ours.best(agent, env=SALAD, **{**BOTH_MODES, **scale.closely})
                for agent in published
            ),
            *(
                maker.run(agent, f"{NAMES[agent]}, published{label}", **fields)
                for label, fields in published_fields.items()
                for agent, maker in published.items()
            ),
        ),
    )


def _offline(scale: Scale, inputs: Inputs) -> Experiment:
    claimed = for_claims(scale, inputs)
    makers = {"cql": claimed, "cql_prior": claimed, "bc": for_variations(scale, inputs)}
    return Experiment(
        f"Offline: {SALAD}",
        "How many transitions does a prior save an agent that learns from a dataset?",
        tuple(
            maker.best(
                agent,
                amount=size,
                offline__dataset=str(inputs.dataset),
                offline__size=size,
                num_steps=scale.offline_updates,
                eval_every=scale.offline_updates,
                **BOTH_MODES,
            )
            for agent, maker in makers.items()
            for size in scale.dataset_sizes
        ),
        scarce="transitions",
        claims=(Claim("CQL-Prior", "CQL"),),
        needs=("dataset",),
        tried="Three kinds of data, on four other seeds, and the one kept that leaves a prior the "
        "most to save. Where the expert takes five random actions in ten, 1,000 transitions give "
        "CQL 0.94 and CQL-Prior 0.99, and 250 give 0.48 and 0.57; where it takes three, and a "
        "quarter of the episodes is random, 250 give 0.34 and 0.44.",
    )


def _ablations(scale: Scale, inputs: Inputs) -> dict[str, Experiment]:
    maker = for_variations(scale, inputs)

    def vary(title: str, question: str, field: str, labels, env: str = SALAD) -> Experiment:
        """A run for each value of a field, by label or for itself."""
        named = labels if isinstance(labels, Mapping) else {str(value): value for value in labels}
        runs = [
            maker.run("dqn_prior", label, env=env, **{field: value})
            for label, value in named.items()
        ]
        return Experiment(f"{title}: {env}, DQN-Prior", question, tuple(runs))

    candidates = {"exact": 0} | {f"k = {k}": k for k in scale.pick((1, 5, 10, 15), (1, 10))}
    features = {"hidden state": "hidden"}
    if inputs.encoder is not None:
        features["sentence encoder"] = str(inputs.encoder)
    alpha = vary(
        "Temperature",
        "How much does the temperature of the posterior matter: fixed, falling over the first half "
        "of training, or adapted to a divergence from the prior in nats?",
        "agent__alpha",
        scale.pick((0.003, 0.01, 0.03, 0.1, 0.3), (0.03, 0.3)),
    )
    falling = {"agent__alpha_from": 0.3, "agent__alpha_updates": scale.online_steps // 16}
    moving = (
        maker.run("dqn_prior", "0.3 to 0.03", **falling),
        maker.run("dqn_prior", "KL of 1", agent__target_kl=1.0),
    )
    return {
        "ablation-candidates": vary(
            "Candidates",
            "The paper draws k candidates from the prior. How good is that beside all actions?",
            "agent__num_candidates",
            candidates,
        ),
        "ablation-alpha": alpha._replace(runs=(*alpha.runs, *moving)),
        "ablation-backup": vary(
            "Backup",
            "Which value of the next state is best backed up?",
            "agent__backup",
            scale.pick(("posterior", "soft", "max"), ("posterior", "max")),
        ),
        "ablation-normalization": vary(
            "Normalization",
            "How should the log-probabilities of an action's tokens become its score?",
            "prior__normalization",
            scale.pick(("sum", "token", "word"), ("sum", "token")),
        ),
        "ablation-features": vary(
            "Features",
            "Q sees the language model's hidden state at the end of an action, or the vectors of a "
            "sentence encoder (MiniLM) for state and action. Which is better?",
            "prior__features",
            features,
            # A sentence encoder reads every action of every state: for minutes in the kitchen, so a
            # quick look is at a lake, which has few states.
            *scale.pick((), ("FrozenLake-4x4",)),
        ),
    }


def _quality(scale: Scale, inputs: Inputs) -> Experiment:
    """A dial from the uniform prior to one near an expert, with the embedded model beside it."""
    maker = for_variations(scale, inputs)
    runs = [maker.run("dqn", "uniform"), maker.run("dqn_prior", "embedded model")]
    runs.append(maker.run("prior", "embedded model alone"))
    for weight in scale.pick((0.1, 0.25, 0.5, 1.0), (1.0,)):
        fields = {
            "prior__method": "imitate",
            "prior__demonstrations": str(inputs.demonstrations),
            "prior__temperature": 1 / weight,
        }
        runs.append(maker.run("dqn_prior", f"expert^{weight}", **fields))
        runs.append(maker.run("prior", f"expert^{weight} alone", **fields))
    return Experiment(
        f"Quality of the prior: {SALAD}, DQN-Prior",
        "A prior cloned from an expert's demonstrations, raised to a power: 0 is the uniform prior "
        "(DQN), 1 the clone. How good must a prior be, and where does the embedded model stand?",
        tuple(runs),
        needs=("demonstrations",),
    )


def _bad_prior(scale: Scale, inputs: Inputs) -> Experiment:
    """An adversarial prior, and what mixing it with the uniform one is worth."""
    claimed, varied = for_claims(scale, inputs), for_variations(scale, inputs)
    mixed = {0.0: "", 0.5: ", half uniform", ROBUST_SHARE: f", {ROBUST_SHARE:.0%} uniform"}
    shares = scale.pick((0.0, 0.5, ROBUST_SHARE), (0.0, ROBUST_SHARE))
    runs = [claimed.best("dqn", **scale.closely)]
    for label, is_reversed in (("DQN-Prior", False), ("reversed", True)):
        for share in shares:
            fields: dict[str, Any] = {"prior__reversed": is_reversed, "prior__uniform_share": share}
            maker = varied if share or is_reversed else claimed
            runs.append(maker.best("dqn_prior", label + mixed[share], **fields, **scale.closely))
    return Experiment(
        f"A bad prior: {SALAD}",
        "The prior's probabilities are reversed: the likeliest action gets the smallest. Mixed "
        "with the uniform prior, can it be overcome, and what does that cost where it is good?",
        tuple(runs),
        claims=(Claim(f"reversed, {ROBUST_SHARE:.0%} uniform", "DQN", 1.5),),
        tried="On eight other seeds, steps to 90% success with the prior reversed, and as it is: "
        "80% uniform 30,000 and 11,000; a share that rises to 80% in 750 updates 31,000 and 7,000, "
        "to 90% in 250 updates 26,000 and 9,000; 90% throughout 22,000 and 11,000; DQN 19,000.",
    )


def _search(scale: Scale, inputs: Inputs) -> Experiment:
    """Agents as they are and with search; those that learn search in evaluations alone."""
    maker = for_variations(scale, inputs)
    runs = [
        maker.run(
            agent,
            label,
            simulations,
            search__simulations=simulations,
            eval_every=scale.online_steps,
        )
        for agent, label in _SEARCHERS.items()
        for simulations in scale.pick((0, 8, 32, 128), (0, 8))
    ]
    return Experiment(
        f"Search: {SALAD}",
        "Before each action the kitchen itself is simulated, from its true state: more than any "
        "agent knows that does not search. What do simulations add to a prior, and to a trained "
        "agent?",
        tuple(runs),
        scarce="simulations",
    )
