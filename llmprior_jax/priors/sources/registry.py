"""The sources of priors by name."""

from llmprior_jax import datasets
from llmprior_jax.priors import prompts
from llmprior_jax.priors.sampling.generation import Sampling
from llmprior_jax.priors.sources.base import PriorSource, SourceContext, SourceFactory
from llmprior_jax.priors.sources.demonstrated import Demonstrated, count_prompts
from llmprior_jax.priors.sources.proposed import Proposed
from llmprior_jax.priors.sources.scored import Scored
from llmprior_jax.registry import Registry


def _scored(context: SourceContext) -> PriorSource:
    return Scored(context.model, context.settings.normalization, context.settings.temperature)


def _proposed(context: SourceContext) -> PriorSource:
    propose = context.settings.propose
    return Proposed(
        context.model,
        propose.k,
        Sampling(propose.max_new_tokens, propose.temperature, propose.top_p),
        propose.no_match,
        propose.pseudo_count,
        context.seed,
    )


def _demonstrated(context: SourceContext) -> PriorSource:
    settings = context.settings
    if settings.demonstrations is None:
        raise ValueError(
            "prior.method is 'imitate', which reads what others did in a state: name a dataset "
            "(prior.demonstrations)"
        )
    shown = datasets.read(settings.demonstrations, context.history)
    counts = count_prompts(shown, context.build or prompts.plain)
    return Demonstrated(context.model, counts, settings.temperature)


_SOURCES: Registry[SourceFactory] = Registry(
    "prior method", {"score": _scored, "propose": _proposed, "imitate": _demonstrated}
)


def register_source(name: str, factory: SourceFactory) -> None:
    """Gives a source of priors a name, for `make_source` and for `PriorSettings.method`.

    Examples:
      >>> def sharper(context):
      ...     return priors.Scored(context.model, temperature=0.5)
      >>> priors.register_source("sharper", sharper)

    Args:
      name: the name, which no source has yet.
      factory: makes the source of a `SourceContext`; mostly its class. See `PriorSource`.

    Raises:
      ValueError: another source has that name, or it has a colon, as import paths have.
    """
    _SOURCES.register(name, factory)


def make_source(context: SourceContext) -> PriorSource:
    """Makes the source that `context.settings.method` names.

    Examples:
      >>> chosen = settings.PriorSettings(normalization="token")
      >>> source = priors.make_source(priors.SourceContext(priors.CachedModel("tiny"), chosen))
      >>> prompt = priors.Prompt("Task: wash the cup. Do:", (" go to the sink", " wait"))
      >>> source.score([prompt]).log_probs.shape
      (1, 2)

    Raises:
      FileNotFoundError, ValueError: there is no such source, or these settings make none.
    """
    return _SOURCES[context.settings.method](context)


def check_method(method: str) -> None:
    """Raises a ValueError, with the nearest name, if there is no such source."""
    _ = _SOURCES[method]
