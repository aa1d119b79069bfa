"""Playing episodes with agents: stepping, rollouts, evaluation, collecting, scored states."""

from llmprior_jax.play.evaluation import Decision, Episodes, metrics, register_metric

__all__ = ["Decision", "Episodes", "metrics", "register_metric"]
