"""The language model as proposer: asked what it would do, k times, instead of scoring a list.

For action sets too large to list, or without a list. "Efficient Reinforcement Learning with Large
Language Model Priors" (Yan et al., ICLR 2025, arXiv 2410.07927) samples k answers o and projects
each onto an action by P(a|o), so that p(a|s) is what the samples say. `propose` samples, `project`
is P(a|o), and `estimate` counts.

A projection is a stated rule and never a guess: an answer that names no action, or two equally
well, is 'no match', which is an outcome of its own.
"""

import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from llmprior_jax.models import LanguageModel
from llmprior_jax.priors.prompts import Prompt
from llmprior_jax.priors.sampling.generation import (
    DEFAULT_SAMPLING,
    Completion,
    Sampling,
    generate,
    prompt_keys,
)
from llmprior_jax.priors.tokens import literal, visible
from llmprior_jax.ranges import NOT_NEGATIVE

EXACT, MENTION, OVERLAP, NO_MATCH = "exact", "mention", "overlap", "no_match"
_RULES: tuple[str, ...] = (EXACT, MENTION, OVERLAP, NO_MATCH)
NO_MATCH_POLICIES = ("drop", "uniform")

# Below this F1 two texts share too few words to mean the same.
_LEAST_OVERLAP = 0.5


class Proposals(NamedTuple):
    """A language model's distinct answers to one prompt, with how often each one came.

    Plain values, so that they can be stored.

    Examples:
      >>> proposals = priors.Proposals(("wait", "go"), (3, 1), thoughts=((), ()), num_unfinished=0)
      >>> sum(proposals.counts)  # k
      4

    Attributes:
      answers: the distinct answers, most frequent first, then by which came first. White space is
        collapsed. An answer may be empty.
      counts: how often each of them came; their sum is k.
      thoughts: for each answer the thoughts that led to it, one for each time it came; none where
        the prompt asks for no thought.
      num_unfinished: how many of the k samples `Sampling.max_new_tokens` cut, thought or answer.
    """

    answers: tuple[str, ...]
    counts: tuple[int, ...]
    thoughts: tuple[tuple[str, ...], ...]
    num_unfinished: int

    @classmethod
    def from_json(cls, fields: Sequence[Any]) -> "Proposals":
        """Reads back what `json.dumps` wrote; JSON has lists where these are tuples.

        Raises:
          TypeError, ValueError: it is something else.
        """
        answers, counts, thoughts, num_unfinished = fields
        if not len(answers) == len(counts) == len(thoughts):
            raise ValueError(f"{len(answers)} answers have {len(counts)} counts")
        if not all(isinstance(text, str) for text in [*answers, *itertools.chain(*thoughts)]):
            raise ValueError("an answer or a thought is no text")
        if not all(type(count) is int and count > 0 for count in counts):
            raise ValueError(f"counts of answers are {counts!r}; each must be at least 1")
        return cls(tuple(answers), tuple(counts), tuple(map(tuple, thoughts)), num_unfinished)


class Projection(NamedTuple):
    """What an answer means.

    Attributes:
      action: index in the list of actions, -1 for no match.
      rule: "exact", "mention", "overlap" or "no_match".
    """

    action: int
    rule: str


class Estimate(NamedTuple):
    """p(a|s) as the samples say.

    Attributes:
      log_probs: f32[A]; `-inf` for an action that no sample proposed, unless each has a
        pseudo-count or 'no match' is spread uniformly.
      counts: i32[A], samples that were projected onto each action.
      num_by_rule: samples by the rule that projected them, "no_match" among them.
    """

    log_probs: np.ndarray
    counts: np.ndarray
    num_by_rule: dict[str, int]


def propose(
    lm: LanguageModel,
    prompts: Sequence[Prompt],
    key: jax.Array,
    k: int,
    sampling: Sampling = DEFAULT_SAMPLING,
) -> list[Proposals]:
    """Asks a language model k times what it would do in each state.

    k may be larger than the number of actions: samples are independent, and more of them give a
    better estimate.

    Examples:
      >>> lm, prompt = models.load("tiny"), priors.Prompt("Task: wash the cup. Do:", ())
      >>> sampling = priors.Sampling(max_new_tokens=4)
      >>> (proposals,) = priors.propose(lm, [prompt], jax.random.key(0), 4, sampling)
      >>> sum(proposals.counts)
      4

    Args:
      lm: the language model.
      prompts: what it is asked; their actions are not used. Where a prompt asks for a thought
        (`Prompt.after_thought`), each sample is a thought and then an answer that follows from it.
      key: PRNG key. What is proposed to a prompt depends on the model, the key, the prompt and the
        arguments, not on the other prompts (but see `generate` about rounding).
      k: samples for each prompt.
      sampling: how they are drawn; thought and answer may each have `max_new_tokens`.

    Returns:
      The proposals for each prompt.

    Raises:
      TypeError, ValueError: see `generate`.
    """
    texts = [prompt.text for prompt in prompts]
    keys = prompt_keys(key, texts)
    answers = generate(lm, texts, keys, k, sampling)
    thoughts: list[list[Completion]] = [[] for _ in prompts]
    thinking = [b for b, prompt in enumerate(prompts) if prompt.after_thought is not None]
    if thinking:
        for b in thinking:
            # What a model writes out in letters is text, too.
            thoughts[b] = [
                thought._replace(text=literal(lm.tokenizer, thought.text)) for thought in answers[b]
            ]
        # After its thought every sample has a prompt of its own, and so needs a key of its own.
        acting = [
            prompts[b].with_thought(collapse(thought.text)).text
            for b in thinking
            for thought in thoughts[b]
        ]
        own = jax.vmap(lambda key: jax.random.split(key, k))(keys[np.array(thinking)])
        acted = iter(generate(lm, acting, own.reshape(-1), 1, sampling))
        for b in thinking:
            answers[b] = [next(acted)[0] for _ in range(k)]
    return [_gather(*said) for said in zip(answers, thoughts, strict=True)]


def _gather(answers: Sequence[Completion], thoughts: Sequence[Completion]) -> Proposals:
    """Counts the answers to one prompt; `thoughts` holds one for each of them, or none."""
    said = [collapse(answer.text) for answer in answers]
    thought = [collapse(thought.text) for thought in thoughts]
    ordered = Counter(said).most_common()  # Equal counts stay in the order of the samples.
    pairs = zip(answers, thoughts or answers, strict=True)
    return Proposals(
        answers=tuple(answer for answer, _ in ordered),
        counts=tuple(count for _, count in ordered),
        thoughts=tuple(
            tuple(before for before, text in zip(thought, said, strict=False) if text == answer)
            for answer, _ in ordered
        ),
        num_unfinished=sum(not all(part.finished for part in pair) for pair in pairs),
    )


def project(answer: str, actions: Sequence[str]) -> Projection:
    """Which action an answer means, P(a|o): one of the actions, or none.

    Words are compared: case, punctuation, white space and Unicode variants of a character do not
    matter. The first rule that finds an action decides.

    1. Exact: the answer is the action.
    2. Mention: the answer has the words of the action in a row, as "I would go to the sink now" has
       those of "go to the sink". The action with the most words wins, then the one with the most
       letters, then the one mentioned first.
    3. Overlap: the action with the largest F1 score of words in common with the answer (repeated
       words count), if the score is at least 0.5 and no other action has the same.

    If two actions of a list have the same words, the first of them is returned for both.

    Examples:
      >>> priors.project("Go to the sink!", ["wait", "go to the sink"])
      Projection(action=1, rule='exact')
      >>> priors.project("dance", ["wait", "go to the sink"])
      Projection(action=-1, rule='no_match')

    Args:
      answer: what a language model said.
      actions: the text of each action.
    """
    said = words(answer)
    listed = [words(action) for action in actions]
    if not said:
        return Projection(-1, NO_MATCH)
    if said in listed:
        return Projection(listed.index(said), EXACT)

    mentioned = [
        ((len(action), sum(map(len, action)), -place, -i), i)
        for i, action in enumerate(listed)
        if action and (place := _find(action, said)) >= 0
    ]
    if mentioned:
        return Projection(max(mentioned)[1], MENTION)

    # Of actions with the same words only the first can be chosen, or be tied with.
    scores = {action: _f1(action, said) for action in dict.fromkeys(listed)}
    best = max(scores.values(), default=0.0)
    closest = [action for action, score in scores.items() if score == best]
    if best >= _LEAST_OVERLAP and len(closest) == 1:
        return Projection(listed.index(closest[0]), OVERLAP)
    return Projection(-1, NO_MATCH)


def estimate(
    proposals: Proposals,
    actions: Sequence[str],
    no_match: str = "drop",
    pseudo_count: float = 0.0,
) -> Estimate:
    """p(a|s) from samples: each action's share of the samples that were projected onto an action.

    Examples:
      >>> proposals = priors.Proposals(("wait", "go"), (3, 1), thoughts=((), ()), num_unfinished=0)
      >>> print(np.exp(priors.estimate(proposals, ["go", "wait"]).log_probs))
      [0.25 0.75]

    Args:
      proposals: what was sampled.
      actions: the texts of the A admissible actions, at least one.
      no_match: what a sample without a match counts for: "drop", nothing; "uniform", an equal part
        for every action. Where nothing matches, both say that nothing is known: the estimate is
        uniform.
      pseudo_count: added to the count of every action. 0 gives the frequencies: what was never
        proposed is impossible, as in the paper. More keeps all admissible actions possible.

    Returns:
      See `Estimate`.

    Raises:
      ValueError: there are no actions, or an argument is out of its range.
    """
    check_estimate(no_match, pseudo_count)
    if len(actions) == 0:
        raise ValueError(
            "there are no actions to estimate a prior over; a state needs at least one"
        )
    counts = np.zeros(len(actions), np.int32)
    num_by_rule = dict.fromkeys(_RULES, 0)
    for answer, count in zip(proposals.answers, proposals.counts, strict=True):
        projection = project(answer, actions)
        num_by_rule[projection.rule] += count
        if projection.action >= 0:
            counts[projection.action] += count
    spread = num_by_rule[NO_MATCH] if no_match == "uniform" else 0
    weights = counts + (pseudo_count + spread / len(actions))
    if not weights.any():
        weights = np.ones(len(actions))
    with np.errstate(divide="ignore"):
        log_probs = np.log(weights / weights.sum()).astype(np.float32)
    return Estimate(log_probs, counts, num_by_rule)


def check_estimate(no_match: str, pseudo_count: float) -> None:
    """Raises a ValueError if an argument of `estimate` is unknown or out of its range."""
    if no_match not in NO_MATCH_POLICIES:
        raise ValueError(
            f"no_match is {no_match!r}; there are {' and '.join(map(repr, NO_MATCH_POLICIES))}"
        )
    NOT_NEGATIVE.check("pseudo_count", pseudo_count)


def words(text: str) -> tuple[str, ...]:
    """The words of a text, without case and punctuation."""
    folded = unicodedata.normalize("NFKC", visible(text)).casefold()
    return tuple(re.findall(r"\w+", folded))


def collapse(text: str) -> str:
    """A text with single spaces between words, and none around it."""
    return " ".join(text.split())


def _find(part: tuple[str, ...], whole: tuple[str, ...]) -> int:
    """Where `part` first stands in `whole`, or -1."""
    starts = range(len(whole) - len(part) + 1)
    return next((i for i in starts if whole[i : i + len(part)] == part), -1)


def _f1(a: tuple[str, ...], b: tuple[str, ...]) -> float:
    """Twice the number of words in common over the number of words."""
    common = (Counter(a) & Counter(b)).total()
    return 2 * common / (len(a) + len(b))
