"""Which setting to train with: the best of those that are better than a uniform policy."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from launch.surveying.measuring import Finding, Survey
from llmprior_jax.priors import prompts
from llmprior_jax.training.prior_alone import RETURN, SUCCESS, verdict, with_interval
from llmprior_jax.training.summary import bounds

Interval = tuple[float, float]
_MIXED_WELL = 0.9


class Recommendation(NamedTuple):
    """What to train with, and why.

    Attributes:
      finding: the setting; None where none is better than uniform.
      why: in words.
      fields: those of `config.prior` that make it, whatever the defaults are; none without one.
    """

    finding: Finding | None
    why: str
    fields: Mapping[str, str | float]


def recommend(survey: Survey) -> Recommendation:
    """Recommends a setting that is better than a uniform policy, if there is one.

    Better is what is better intervals apart: by success, by return where success does not tell, and
    by the likelihood of what was demonstrated (at its best temperature) where neither does. Of
    several, those stay whose success cannot be told from the best one's, of these those whose
    return cannot, and of these the one with the highest likelihood, or else the highest success.
    """
    better = [each for each in survey.findings if gains(each, survey) is not None]
    if not better:
        return Recommendation(None, _none_is_better(survey), {})
    left = better
    for by in (SUCCESS, RETURN):
        if survey.uniform is not None:
            left = _not_told_from_best(left, lambda each, by=by: _played(each, by))

    def rank(each: Finding) -> tuple[float, ...]:
        likelihood = 0.0 if each.likelihood is None else each.likelihood.best
        means = (each.played[by]["mean"] for by in (SUCCESS, RETURN)) if each.played else ()
        return likelihood, *means

    best = max(left, key=rank)
    gain = gains(best, survey)
    assert gain is not None
    why = [f"it is better than uniform by {gain.words}"]
    if len(better) > 1:
        why.append(f"so are {len(better) - 1} of the {len(survey.findings) - 1} others")
    if len(left) > 1:
        why.append(f"{len(left) - 1} cannot be told from it by what they achieve")
    fields: dict[str, str | float] = {"prompt": best.prompt, "method": best.method}
    if best.normalization:
        fields["normalization"] = best.normalization
    fields |= {"temperature": gain.temperature, "uniform_share": best.uniform_share}
    return Recommendation(best, "; ".join(why), fields)


class Gain(NamedTuple):
    """By what a setting is better than a uniform policy, and the temperature at which it is."""

    words: str
    temperature: float


def gains(finding: Finding, survey: Survey) -> Gain | None:
    """By what a setting is better than a uniform policy; None if it is not.

    One that plays worse is not better, however likely it finds what was demonstrated.
    """
    if finding.played is not None and survey.uniform is not None:
        sign, by = verdict(finding.played, survey.uniform)
        if sign:
            ours, theirs = with_interval(finding.played[by]), with_interval(survey.uniform[by])
            words = f"{by.replace('_', ' ')}, {ours} against {theirs}"
            return Gain(words, finding.temperature) if sign > 0 else None
    likelihood = finding.likelihood
    if likelihood is not None and likelihood.gain_ci95[0] > 0:
        return Gain(
            f"the likelihood of what was demonstrated, {likelihood.best:.2f} nats an action at "
            f"temperature {likelihood.temperature:.2g} against {likelihood.uniform:.2f}",
            likelihood.temperature,
        )
    return None


def _played(finding: Finding, by: str) -> tuple[float, Interval]:
    assert finding.played is not None
    return finding.played[by]["mean"], bounds(finding.played[by])


def _not_told_from_best(
    findings: Sequence[Finding], measure: Callable[[Finding], tuple[float, Interval]]
) -> list[Finding]:
    """Those whose interval reaches that of the highest mean."""
    _, (low, _) = max(map(measure, findings))
    return [each for each in findings if measure(each)[1][1] >= low]


def _none_is_better(survey: Survey) -> str:
    """What to do where no setting is better than uniform."""
    worse = 0
    if survey.uniform is not None:
        worse = sum(
            verdict(each.played, survey.uniform).sign < 0
            for each in survey.findings
            if each.played is not None
        )
    of_all = f"{worse} of {len(survey.findings)} are worse, intervals apart. " if worse else ""
    return f"no setting is better than uniform. {of_all}{_advice(survey.findings)}"


def _advice(findings: Sequence[Finding]) -> str:
    """What has not been tried yet."""
    tried = {word for each in findings for word in each.prompt.split("+")}
    advice: list[str] = []
    if bodies := [body for body in ("options", "story") if body not in tried]:
        advice.append(f"other prompts (--prompts={','.join(bodies)})")
    if prompts.FEW_SHOT not in tried:
        advice.append("one with examples of another task (--prompts=few_shot, --examples)")
    advice.append(
        "a larger model (--prior), or more --episodes and --states if the intervals are wide"
    )
    words = f"Try {', '.join(advice)}."
    if min(each.uniform_share for each in findings) < _MIXED_WELL:
        words += (
            " To train all the same, keep the prior from ruling anything out: "
            f"--config.prior.uniform_share={_MIXED_WELL}"
        )
    return words
