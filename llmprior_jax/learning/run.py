"""What training one agent looks like from outside, whatever it learns from and however.

An experiment (`experiment`) trains, evaluates and checkpoints agents through `Run` alone. How steps
are taken is each run's own: `online.OnlineRun` learns from environments in JAX.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from llmprior_jax.distributed.mesh import DATA, make_mesh, shares_seeds
from llmprior_jax.envs import Scene
from llmprior_jax.models.partition import place
from llmprior_jax.training.config import Config
from llmprior_jax.types import TextState


class Decision(NamedTuple):
    """One step of an episode, for people: what was seen, weighed, done and gained.

    Examples:
      >>> run = training.restore("runs/lake", "random", eval_episodes=4)
      >>> decision = next(iter(run.play(seed=0, key=jax.random.key(0))))
      >>> decision.text.actions[decision.action] in decision.text.actions, len(decision.prior)
      (True, 4)

    Attributes:
      text: the state.
      prior: f32[A], probabilities that the language model gives the actions.
      q_values: f32[A].
      posterior: f32[A], probabilities that the agent acts by.
      action: what it did.
      reward: what it got for it.
      success: whether this solved the task.
      truncated: whether the time limit ended the episode here.
      scene: what a picture of the state shows, where the environment can be drawn.
    """

    text: TextState
    prior: np.ndarray
    q_values: np.ndarray
    posterior: np.ndarray
    action: int
    reward: float
    success: bool
    truncated: bool
    scene: Scene | None = None


class Run(Protocol):
    """Training one agent: all seeds, a segment at a time.

    Examples:
      >>> run = training.restore("runs/lake", "random", eval_episodes=4)
      >>> run.evaluate()["success_rate"].shape  # [S]
      (2,)

    Attributes:
      state: all that training needs to continue, a pytree of arrays with a leading axis of seeds.
      segments: segments trained so far.
      unit: what a step is, "environment steps" or "updates".
    """

    state: Any
    segments: int
    unit: str

    @property
    def steps(self) -> int:
        """Steps, in `unit`, that every seed has taken."""
        ...

    @property
    def num_steps(self) -> int:
        """Steps after which training is finished; 0 for agents that do not learn."""
        ...

    def train(self) -> dict[str, np.ndarray]:
        """One segment of all seeds; returns their metrics [S]."""
        ...

    def evaluate(self, fresh: bool = False) -> dict[str, np.ndarray]:
        """Success rate, return and length of episodes of all seeds [S].

        Args:
          fresh: take other episodes than those by which training was watched.
        """
        ...

    def meta(self) -> dict[str, Any]:
        """What a checkpoint needs beside the arrays of `state`."""
        ...

    def restore(self, step: int, state: Any, meta: dict[str, Any]) -> None:
        """Goes back to a checkpoint."""
        ...

    def play(self, seed: int, key: jax.Array) -> Iterator[Decision]:
        """Plays one episode with the agent of one seed, a decision at a time (host side).

        Args:
          seed: index of the seed, `0 .. num_seeds - 1`.
          key: randomness of the environment and of the agent.
        """
        ...


def step_unit(config: Config) -> str:
    """What the steps of a configuration's runs are: "environment steps" or "updates"."""
    return "updates" if config.offline.dataset else "environment steps"


def seed_keys(config: Config) -> jax.Array:
    """One key per seed; seed i has the same one however many there are.

    Examples:
      >>> config = training.default_config()
      >>> config.num_seeds = 3
      >>> training.seed_keys(config).shape
      (3,)
    """
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(
        jax.random.key(config.seed), jnp.arange(config.num_seeds)
    )


def fold_in(keys: jax.Array, number: int) -> jax.Array:
    """Keys [S] that follow from other keys [S] and a number."""
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, number)


def over_seeds(
    function: Callable[..., Any],
    in_axes: tuple[int | None, ...],
    num_seeds: int,
    one_by_one: bool = False,
    mesh: str = "",
    num_envs: int = 1,
) -> Callable[..., Any]:
    """Maps a function of one seed over all seeds, and jits it.

    The seeds are shared out evenly among the devices, which need nothing of one another: each runs
    its part of the batch on its own. Where there are too few seeds, all devices run all of them,
    and share out what the function itself says (`mesh.share_environments`).

    With several processes, each must hold all values that are not yet on the mesh, the same ones.

    Examples:
      >>> double = training.over_seeds(lambda x, scale: scale * x, (0, None), num_seeds=2)
      >>> print(double(jnp.arange(2.0), jnp.float32(2.0)))
      [0. 2.]

    Args:
      function: takes and returns pytrees of arrays.
      in_axes: for each argument, 0 if it has a leading axis of seeds, None if all seeds share it.
      num_seeds: S.
      one_by_one: a device takes its seeds one after the other, where a batch of them would need too
        much memory, or would compute both branches of every condition.
      mesh: the devices, see `mesh.make_mesh`; as many as divide the seeds by default.
      num_envs: see `mesh.make_mesh`.
    """
    mapped = _one_by_one(function, in_axes) if one_by_one else jax.vmap(function, in_axes=in_axes)
    devices = make_mesh(mesh, num_seeds, num_envs)
    by_seed = shared = jax.sharding.PartitionSpec()
    if shares_seeds(devices, num_seeds):
        by_seed = jax.sharding.PartitionSpec(DATA)
        mapped = jax.shard_map(
            mapped,
            mesh=devices,
            in_specs=tuple(shared if axis is None else by_seed for axis in in_axes),
            out_specs=by_seed,
            check_vma=False,
        )
    jitted = jax.jit(mapped)
    if jax.process_count() == 1:
        return jitted

    def on_all(*arguments: Any) -> Any:
        return jitted(
            *(
                place(argument, devices, shared if axis is None else by_seed)
                for argument, axis in zip(arguments, in_axes, strict=True)
            )
        )

    return on_all


def _one_by_one(
    function: Callable[..., Any], in_axes: tuple[int | None, ...]
) -> Callable[..., Any]:
    """As `vmap`, in a loop."""

    def mapped(*arguments: Any) -> Any:
        batched = [x for x, axis in zip(arguments, in_axes, strict=True) if axis is not None]

        def of_one(own: list[Any]) -> Any:
            rest = iter(own)
            return function(
                *(
                    x if axis is None else next(rest)
                    for x, axis in zip(arguments, in_axes, strict=True)
                )
            )

        return jax.lax.map(of_one, batched)

    return mapped
