"""What the parts of a run take: a small frozen dataclass for each, None where nothing is set.

`training.default_config()` has the same fields under the same names, and `training.config` alone
turns a configuration into settings: all else takes settings, so it can be used without one.

Examples:
  >>> from llmprior_jax import settings
  >>> loop = settings.LoopSettings(num_envs=4)
  >>> loop.batch_size, settings.OfflineSettings().dataset is None
  (32, True)
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class GamesSettings:
    """The games of an environment that takes them from files.

    Attributes:
      train: games to train on, each a game or a directory of games (`envs.engines.list_games`).
      unseen: games that agents are only evaluated on.
    """

    train: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()


@dataclass(frozen=True)
class EngineSettings:
    """Games played on engines of the host (`envs.engines`), each in a process of its own.

    Attributes:
      num_actions: action slots of a state; more admissible commands are an error.
      max_steps: time limit of an episode, in steps.
      timeout: seconds after which a process that does not answer is given up.
      describe: whether TextWorld describes the state (the room and what is carried) instead of
        answering the last command.
    """

    num_actions: int = 64
    max_steps: int = 50
    timeout: float = 300.0
    describe: bool = False


@dataclass(frozen=True)
class FreeFormSettings:
    """Free-form actions on engines: texts that are proposed, where nobody lists the actions.

    Attributes:
      k: texts proposed for a state at a time; None: the engine lists the actions.
      source: who proposes, "language_model" or, as a baseline, "vocabulary": verbs and words of the
        observation.
      verbs: what the vocabulary begins a command with.
      max_new_tokens: of an answer of the language model (`priors.Sampling`).
      temperature: of its sampling.
      top_p: of its sampling.
      stop: texts that end an answer.
    """

    k: int | None = None
    source: str = "language_model"
    verbs: tuple[str, ...] = ("look", "go", "open", "close", "take", "drop", "put", "eat")
    max_new_tokens: int = 16
    temperature: float = 1.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ("\n",)


@dataclass(frozen=True)
class EnvironmentSettings:
    """What is acted in.

    Attributes:
      env: name of the environment, as `envs.make` takes it; "engine" for games on host engines.
      games: its games, where it takes any.
      history: earlier (observation, action) pairs that an observation, and so the prompt, holds.
      engine: of games on host engines.
      freeform: of their actions, where nobody lists them.
    """

    env: str = "Overcooked-TomatoLettuceSalad"
    games: GamesSettings = GamesSettings()
    history: int = 0
    engine: EngineSettings = EngineSettings()
    freeform: FreeFormSettings = FreeFormSettings()


@dataclass(frozen=True)
class ExamplesSettings:
    """Episodes that the prompt "few_shot" shows; they are copied into the run's work directory.

    They are successes of an agent of another run, or stand in a file that somebody wrote. Where
    neither is named, they are the environment's own (`TextEnvironment.examples`).

    Attributes:
      file: JSON Lines (`priors.prompts.read_examples`), all of which is shown.
      workdir: the other run's work directory.
      agent: which of its agents.
      count: how many episodes of it.
    """

    file: str | None = None
    workdir: str | None = None
    agent: str = "dqn_prior"
    count: int = 1


@dataclass(frozen=True)
class ProposalSettings:
    """A prior estimated from sampled answers (`priors.estimate`).

    Attributes:
      k: answers sampled for each state.
      temperature: of sampling.
      top_p: of sampling.
      max_new_tokens: of an answer.
      no_match: what an answer counts for that names no action, "drop" or "uniform".
      pseudo_count: added to each action's count; 0 makes what was not proposed impossible.
    """

    k: int = 16
    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 24
    no_match: str = "drop"
    pseudo_count: float = 0.1


@dataclass(frozen=True)
class OtherPriorSettings:
    """A further language model that is asked for a prior, or the same one asked in another way.

    It is scored (the method "score"); what is not named here is as in `PriorSettings`.

    Attributes:
      model: the language model.
      normalization: of its scores.
      uniform_share: of the uniform prior that is mixed in.
      prompt: what it is asked.
    """

    model: str
    normalization: str = "sum"
    uniform_share: float = 0.0
    prompt: str = "plain"


@dataclass(frozen=True)
class RefineSettings:
    """Refinement of the prior, before any of a run's agents is trained.

    In each round an agent learns under the prior as it is, and what it would do in the states of
    its successful episodes is distilled into the language model (`learning.refining`), by a
    low-rank adaptation of all its linear layers. Agents are then trained with the prior of the last
    round. Unseen games take no part in that.

    Attributes:
      rounds: how many there are; None is none, the language model as it is.
      agent: the agent that learns Q in each round.
      num_steps: environment steps of each of its seeds; None: as many as the run's own agents take.
      episodes: episodes of the trained agent, per seed, whose states are learned from.
      updates: of the language model, in each round.
      batch_states: states of an update.
      rank: of the low-rank adaptation.
      learning_rate: of Adam, for the language model.
      leash: price of each nat by which the prior departs from what it was
        (`refine.distillation_loss`).
    """

    rounds: int | None = None
    agent: str = "dqn_prior"
    num_steps: int | None = None
    episodes: int = 64
    updates: int = 200
    batch_states: int = 16
    rank: int = 8
    learning_rate: float = 2e-3
    leash: float = 0.1


def _default_store() -> str:
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return f"{cache}/llmprior_jax/priors.sqlite"


@dataclass(frozen=True)
class PriorSettings:
    """Where priors come from, and what Q sees of a state.

    Attributes:
      model: the language model: "tiny", a directory, a GGUF file, or a hub id.
      method: the source (`priors.sources`): "score", the probability of each action's text;
        "propose", the share of sampled answers that mean the action; "imitate", the share of
        demonstrations that show it; one that was registered, or an import path `my_module:make`.
      normalization: how the log-probabilities of an action's tokens become its score, "sum",
        "token" or "word" (`priors.score_actions`). A configuration that leaves it, the share
        or the prompt unset has what suits the model; the defaults here are the embedded one's.
      temperature: scores are divided by it before they are normalized.
      uniform_share: for agents that learn Q, the share of the uniform prior mixed in, 0 to 1, as a
        limit to how sure the prior may be (`agents.prior_transforms`).
      reversed: for agents that learn Q, gives the likeliest action the smallest probability: the
        worst prior there is.
      quantize: "int8" keeps a decoder's weight matrices in 8 bits; None leaves weights as they are.
      features: what Q sees: "hidden", the model's hidden states, or a text encoder (a BERT's or
        MiniLM's directory or hub id).
      num_features: whitened features per action that Q sees.
      store: file of what language models said, shared by all runs; None keeps nothing.
      prompt: what the model is asked (`priors.prompts.make`): a body and what is put around it,
        such as "options+few_shot+chat"; a body may be an import path `my_module:builder`.
      others: further priors of the same actions, each of which agents learn how far to trust
        (`agents.trust`). In a configuration, each is a model or `MODEL@PROMPT`, asked as suits it.
      examples: what the prompt "few_shot" shows.
      system: what the prompt "chat" tells the model before all; empty for nothing.
      history: earlier (observation, action) pairs that the language model alone is told, as in the
        paper, where Q sees those of the environment's `history`, which are fewer; None: the same.
      demonstrations: dataset that "imitate" counts actions in.
      propose: of the method "propose".
      refine: how the language model learns from what agents learned.
      extra: what only a source of your own takes.
    """

    model: str = "tiny"
    method: str = "score"
    normalization: str = "sum"
    temperature: float = 1.0
    uniform_share: float = 0.0
    reversed: bool = False
    quantize: str | None = None
    features: str = "hidden"
    num_features: int = 64
    store: str | None = field(default_factory=_default_store)
    prompt: str = "plain"
    others: tuple[OtherPriorSettings, ...] = ()
    examples: ExamplesSettings = ExamplesSettings()
    system: str = (
        "You act in a world that is described to you in words. Answer with what you do next, in "
        "the words of the world's own actions, and with nothing else."
    )
    history: int | None = None
    demonstrations: str | None = None
    propose: ProposalSettings = ProposalSettings()
    refine: RefineSettings = RefineSettings()
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class AgentSettings:
    """Agents that learn Q (`agents.dqn_prior`, `agents.cql_prior`); each takes what it knows.

    Attributes:
      alpha: temperature of the posterior, in units of reward; the last one of a schedule, the first
        one of an adapted temperature.
      alpha_from: alpha at first, for a schedule that falls in a line to `alpha` ...
      alpha_updates: ... over so many updates.
      target_kl: adapt alpha until the posterior is so many nats away from the prior.
      trust: in the prior, "learned" from what it leads to (`agents.trust`), or "fixed", which takes
        the prior as it is, as the paper does.
      beta: weight of the CQL agents' penalty.
      penalty_temperature: temperature of that penalty; None is alpha.
      backup: value of the next state, "posterior", "soft" or "max".
      num_candidates: candidates drawn from the prior to act on and back up over; None is the exact
        posterior over all actions.
      keep_candidates: draw them once per visit of a state, as the paper does, and not anew whenever
        they are needed; in environments in JAX, with a fixed trust.
      double_q: Q chooses what is done in the next state, and the target Q says what that is worth.
      epsilon: probability of a random action while an agent learns online, which otherwise takes
        the best one by Q; None samples the posterior.
      discount: per decision. In the kitchens, longer-sighted agents learn to spoil the dish and
        chop again, since each chop is paid.
      learning_rate: of Adam.
      weight_decay: of AdamW.
      target_rate: share of the online parameters mixed into the target parameters per update.
      max_grad_norm: gradients are clipped to this global norm.
      hidden_sizes: of the Q head.
      extra: what only an agent of your own takes.
    """

    alpha: float = 0.03
    alpha_from: float | None = None
    alpha_updates: int | None = None
    target_kl: float | None = None
    trust: str = "learned"
    beta: float = 0.03
    penalty_temperature: float | None = None
    backup: str = "posterior"
    num_candidates: int | None = None
    keep_candidates: bool = False
    double_q: bool = True
    epsilon: float | None = None
    discount: float = 0.95
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    target_rate: float = 0.01
    max_grad_norm: float = 10.0
    hidden_sizes: tuple[int, ...] = (64, 64)
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class SearchSettings:
    """Tree search in environments in JAX, which are stepped from their true states (`play.search`).

    Attributes:
      simulations: of each search. None: `search_prior` searches, with 32, and no other agent does.
        A number: all agents do in evaluations and in episodes that are shown, and `search_prior`
        while it learns, too.
      tree_policy: what simulations try, "gumbel" or "puct".
      rollout_steps: steps of the agent's own policy from each leaf.
    """

    simulations: int | None = None
    tree_policy: str = "gumbel"
    rollout_steps: int = 16


@dataclass(frozen=True)
class PolicySettings:
    """Agents whose policy is a language model (`agents.gflan_prior`), and their rollouts.

    Attributes:
      model: the policy's language model, which may be another than the prior's. A configuration
        that leaves it unset has the prior's.
      lora_rank: rank of the low-rank adaptation that is learned; None is full fine-tuning.
      alpha: price of departing from the prior, reward per nat.
      kl_in: where it is charged, "reward" or "loss".
      trust: in the prior, "learned" or "fixed", see `AgentSettings`. Whatever it is, nothing of the
        uniform prior is mixed into the priors themselves (`PriorSettings.uniform_share`).
      clip_epsilon: of PPO's probability ratio.
      discount: per decision.
      gae_lambda: of the generalized advantages.
      learning_rate: of Adam, for the language model.
      value_learning_rate: of Adam, for the value head.
      value_coefficient: weight of the value loss.
      max_grad_norm: gradients of the language model are clipped to this global norm.
      epochs: passes over a rollout.
      minibatch_states: states per minibatch, at most.
      hidden_sizes: of the value head.
      num_envs: environments of a rollout, per seed.
      rollout_steps: steps of each of them between two updates.
      extra: what only an agent of your own takes.
    """

    model: str = "tiny"
    lora_rank: int | None = None
    alpha: float = 0.01
    kl_in: str = "reward"
    trust: str = "learned"
    clip_epsilon: float = 0.2
    discount: float = 0.95
    gae_lambda: float = 0.95
    learning_rate: float = 1e-4
    value_learning_rate: float = 1e-3
    value_coefficient: float = 0.5
    max_grad_norm: float = 1.0
    epochs: int = 4
    minibatch_states: int = 32
    hidden_sizes: tuple[int, ...] = (64,)
    num_envs: int = 20
    rollout_steps: int = 50
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class LoopSettings:
    """Sizes of the training loop of agents that learn Q, per seed.

    Attributes:
      num_envs: environments stepped side by side.
      replay_capacity: transitions kept.
      warmup_steps: iterations before the first update; each adds `num_envs` transitions.
      batch_size: transitions per update.
      updates_per_step: updates after each step of all environments, that is, whenever `num_envs`
        transitions were added.
    """

    num_envs: int = 8
    replay_capacity: int = 20_000
    warmup_steps: int = 16
    batch_size: int = 32
    updates_per_step: int = 1


@dataclass(frozen=True)
class OfflineSettings:
    """Learning from a dataset. Then a step is an update, of `LoopSettings.batch_size` transitions.

    Attributes:
      dataset: the file (`llmprior_jax.datasets`); None is learning online.
      size: how much of it each seed learns from, in `unit`s; None is all.
      unit: "transition" or "episode".
    """

    dataset: str | None = None
    size: int | None = None
    unit: Literal["transition", "episode"] = "transition"


@dataclass(frozen=True)
class RunSettings:
    """How long one agent is trained, how often it is evaluated, and with how many seeds.

    Attributes:
      seed: of everything drawn.
      num_seeds: trained side by side, as a vmapped axis.
      num_steps: environment steps of each seed (offline: updates).
      eval_every: steps between two evaluations; before the last one there may be fewer.
      eval_episodes: episodes of an evaluation, per seed.
      eval_modes: how agents act in evaluations, of which each has one for each of these: "sample"
        draws from their policy, as they do when they learn; "greedy" takes its likeliest action;
        "candidates" draws `AgentSettings.num_candidates` from the prior, or 5, as the paper in the
        kitchens, and takes the one of largest Q. In episodes that are shown, agents act as in the
        first. Metrics of the others have the mode before their names, `greedy_success_rate`.
      mesh: devices, such as "data:4,model:2" (`distributed.make_mesh`): seeds are shared out over
        `data`, the language model's weights over `model`. None is as many as divide the seeds.
    """

    seed: int = 0
    num_seeds: int = 8
    num_steps: int = 36_000
    eval_every: int = 1_000
    eval_episodes: int = 64
    eval_modes: tuple[str, ...] = ("sample",)
    mesh: str | None = None


@dataclass(frozen=True)
class CheckpointSettings:
    """Checkpoints of a run.

    Attributes:
      every: evaluations between two checkpoints.
      keep: how many checkpoints stay.
    """

    every: int = 6
    keep: int = 2


@dataclass(frozen=True)
class Settings:
    """All of a work directory's runs.

    Attributes:
      environment: what is acted in.
      agents: names of the agents to compare, trained one after another.
      prior: where priors come from.
      agent: of agents that learn Q.
      policy: of agents whose policy is a language model.
      search: of agents that search.
      loop: sizes of the training loop.
      offline: the dataset, where one is learned from.
      run: how long, how often, how many.
      checkpoint: how often, how many.
      wandb_project: project of Weights & Biases that gets what TensorBoard gets; None is none.
    """

    environment: EnvironmentSettings = EnvironmentSettings()
    agents: tuple[str, ...] = ("dqn_prior",)
    prior: PriorSettings = field(default_factory=PriorSettings)
    agent: AgentSettings = field(default_factory=AgentSettings)
    policy: PolicySettings = field(default_factory=PolicySettings)
    search: SearchSettings = SearchSettings()
    loop: LoopSettings = LoopSettings()
    offline: OfflineSettings = OfflineSettings()
    run: RunSettings = RunSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    wandb_project: str | None = None
