"""Cached scoring: the store first, then the model.

The model is loaded only when there is something to ask, or to fit a history into its context: a run
without histories whose prompts are all in the store never loads it. Prompts are asked in batches
that are made up before the store is looked into: what is computed then has the same bits with a
store as without.
"""

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging

from llmprior_jax import models, progress
from llmprior_jax.priors.features import encode_actions
from llmprior_jax.priors.prompts import Prompt, room_for
from llmprior_jax.priors.sampling.generation import Sampling
from llmprior_jax.priors.sampling.proposals import Proposals, propose
from llmprior_jax.priors.scoring.score import TextScores, score_texts
from llmprior_jax.priors.store import PriorStore, StoredScores, StoreError
from llmprior_jax.priors.tokens import count_tokens

HIDDEN = "hidden"
_PROMPTS_PER_BATCH = 32
_PATIENCE = 0.5  # seconds; what takes less needs no bar


class Queries(NamedTuple):
    """How much a language model was asked; a query is one prompt with the actions asked about.

    Examples:
      >>> priors.Queries(made=100, seconds=4.0).per_second
      25.0

    Attributes:
      made: queries that the model answered.
      saved: queries that the store answered.
      not_kept: queries made whose answers the store could not take.
      seconds: what the queries made took, the store's part included.
    """

    made: int = 0
    saved: int = 0
    not_kept: int = 0
    seconds: float = 0.0

    @property
    def per_second(self) -> float:
        """Queries made per second."""
        return self.made / self.seconds if self.seconds else 0.0


class CachedModel:
    """A language model that is asked each thing once, and the store of what it said.

    Examples:
      >>> model = priors.CachedModel("tiny")
      >>> prompt = priors.Prompt("Task: wash the cup. Do:", (" go to the sink", " wait"))
      >>> scores = model.score([prompt])
      >>> scores.log_probs.shape, model.queries.made
      ((1, 2), 1)

    Attributes:
      name: of the model, as `llmprior_jax.models.load` takes it.
      queries: how much it was asked.
    """

    def __init__(
        self,
        name: str,
        store: PriorStore | None = None,
        mesh: jax.sharding.Mesh | None = None,
        features: str = HIDDEN,
        quantize: str | None = None,
    ):
        """Nothing is loaded or scored yet.

        Args:
          name: the language model, as `llmprior_jax.models.load` takes it.
          store: where answers are kept, this object's to close; None keeps none. When it takes no
            more (a full disk, no permission), a warning says so, and scoring goes on.
          mesh: devices over whose axis "model" the weights are shared out (`models.partition`), and
            over whose axis "data" the prompts are; None for one device.
          features: "hidden", the language model's hidden states, or the text encoder that makes
            features instead (`encode_actions`), as `llmprior_jax.models.load_encoder` takes it.
          quantize: see `llmprior_jax.models.load`.
        """
        self.name = name
        self.queries = Queries()
        self._features = features
        self._quantize = quantize
        self._store = store
        self._mesh = mesh
        self._room_kept = 0
        self._keeps = store is not None
        # As many for each device.
        self._prompts_per_batch = _PROMPTS_PER_BATCH * (1 if mesh is None else mesh.shape["data"])

    @functools.cached_property
    def language_model(self) -> models.LanguageModel:
        """The language model, loaded when it is first needed."""
        if self._mesh is None or self._mesh.size == 1:
            return models.load(self.name, quantize=self._quantize)
        # Read where there is room for all of it.
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            lm = models.load(self.name, quantize=self._quantize)
        return models.partition(lm, self._mesh)

    @functools.cached_property
    def tokenizer(self) -> Any:
        """The language model's tokenizer, read when it is first needed, without the weights."""
        if "language_model" in self.__dict__:
            return self.language_model.tokenizer
        return models.load_tokenizer(self.name)

    @functools.cached_property
    def text_encoder(self) -> models.TextEncoder | None:
        """What makes features of texts, loaded when it is first needed; None if the model does."""
        return None if self._features == HIDDEN else models.load_encoder(self._features)

    @property
    def identity(self) -> str:
        """What identifies log-probs and features: the fingerprints of all that make them."""
        encoder = self.text_encoder
        return self.fingerprint if encoder is None else f"{self.fingerprint} {encoder.fingerprint}"

    @functools.cached_property
    def fingerprint(self) -> str:
        """What identifies the model's numbers; the model is not loaded for it."""
        if "language_model" in self.__dict__:
            return self.language_model.fingerprint
        return models.fingerprint(self.name, quantize=self._quantize)

    def load(self) -> None:
        """Loads the language model (and the text encoder) now, to see whether it can be."""
        _ = self.language_model, self.text_encoder

    def keep_room(self, num_tokens: int) -> None:
        """Keeps so many tokens of the context free, for what the model is to write."""
        self._room_kept = max(self._room_kept, num_tokens)

    def fits(self, prompt: Prompt) -> bool:
        """Whether the model has room for a prompt with each of its actions.

        So must the text encoder have, where that makes the features.
        """
        lm, encoder = self.language_model, self.text_encoder
        context = lm.config.max_position_embeddings - self._room_kept
        if not room_for(prompt, context, functools.partial(count_tokens, lm.tokenizer)):
            return False
        if encoder is None:
            return True
        # Prompt and action are a pair there, with a mark between them; it reads a thought, too.
        thought = self._room_kept if prompt.after_thought is not None else 0
        count = functools.partial(count_tokens, encoder.tokenizer)
        return room_for(prompt, encoder.max_tokens - 1 - thought, count)

    def score(self, prompts: Sequence[Prompt]) -> TextScores:
        """What the model makes of each prompt's actions, as `llmprior_jax.priors.score_texts` does.

        Args:
          prompts: B prompts, A actions at most; those that come twice are asked once.

        Returns:
          Scores [B, A] on the host; `features` are the text encoder's where there is one.

        Raises:
          TypeError, ValueError: see `llmprior_jax.priors.score`; or the store is damaged.
        """
        wanted: dict[str, dict[str, None]] = {}
        for prompt in prompts:
            wanted.setdefault(prompt.text, {}).update(dict.fromkeys(prompt.actions))
        answers: dict[str, StoredScores] = {}
        texts = list(wanted)
        before = self.queries
        with _bar(len(texts), "prior") as bar:
            for start in range(0, len(texts), self._prompts_per_batch):
                batch = texts[start : start + self._prompts_per_batch]
                answers |= self._answer({text: tuple(wanted[text]) for text in batch})
                bar.update(len(batch))
        found = self.queries.saved - before.saved
        if self._store is not None and not self._store.read_only:
            self._keep(lambda store: store.count(*self._name, found, len(texts) - found), 0)
        scores = _in_order(prompts, answers)
        if self.text_encoder is None:
            return scores
        actions = [prompt.actions for prompt in prompts]
        texts = [prompt.text for prompt in prompts]
        features = np.asarray(encode_actions(self.text_encoder, texts, actions))
        return scores._replace(features=features)

    def propose(
        self, prompts: Sequence[Prompt], seed: int, k: int, sampling: Sampling
    ) -> list[Proposals]:
        """What the model would do, sampled; see `llmprior_jax.priors.propose`.

        Args:
          prompts: B prompts; those that come twice are asked once.
          seed: of the samples.
          k: samples for each prompt.
          sampling: how they are drawn.

        Raises:
          TypeError, ValueError: see `llmprior_jax.priors.propose`; or the store is damaged.
        """
        # An answer depends on all of these, and never on the actions that are listed. However many
        # devices there are, batches are the same ones, and so is how their sums are rounded.
        asked = list(dict.fromkeys((prompt.text, prompt.after_thought) for prompt in prompts))
        answers: dict[tuple[str, str | None], Proposals] = {}
        with _bar(len(asked), "proposals") as bar:
            for start in range(0, len(asked), _PROMPTS_PER_BATCH):
                batch = asked[start : start + _PROMPTS_PER_BATCH]
                for after_thought in dict.fromkeys(after for _, after in batch):
                    texts = [text for text, after in batch if after == after_thought]
                    found = self._propose(texts, after_thought, seed, k, sampling)
                    answers |= {(text, after_thought): found[text] for text in texts}
                bar.update(len(batch))
        return [answers[prompt.text, prompt.after_thought] for prompt in prompts]

    def close(self) -> None:
        """Closes the store."""
        if self._store is not None:
            self._store.close()

    @property
    def _name(self) -> tuple[str, str]:
        return self.fingerprint, self.name

    def _answer(self, wanted: dict[str, tuple[str, ...]]) -> dict[str, StoredScores]:
        """Answers one batch of queries, from the store as far as it goes."""
        start = time.perf_counter()
        known: dict[str, StoredScores] = {}
        if self._store is not None:
            held = self._store.get_scores(self.fingerprint, list(wanted))
            known = {
                text: answer
                for text, answer in zip(wanted, held, strict=True)
                if answer is not None
            }
        missing = {
            text: tuple(a for a in actions if text not in known or a not in known[text].actions)
            for text, actions in wanted.items()
        }
        # A prompt without any actions is asked about, too: that is an error which says so.
        missing = {
            text: actions for text, actions in missing.items() if actions or not wanted[text]
        }
        if missing:
            scores = score_texts(self.language_model, list(missing), list(missing.values()))
            new = {
                text: StoredScores(actions, *(leaf[b, : len(actions)] for leaf in scores))
                for b, (text, actions) in enumerate(missing.items())
            }
            self._keep(lambda store: store.put_scores(*self._name, new), len(new))
            known |= {
                text: known[text].merge(answer) if text in known else answer
                for text, answer in new.items()
            }
        made, saved, not_kept, seconds = self.queries
        if missing:
            seconds += time.perf_counter() - start
        self.queries = Queries(
            made + len(missing), saved + len(wanted) - len(missing), not_kept, seconds
        )
        return known

    def _propose(
        self,
        texts: list[str],
        after_thought: str | None,
        seed: int,
        k: int,
        sampling: Sampling,
    ) -> dict[str, Proposals]:
        """Samples for one batch of texts, from the store as far as it goes."""
        start = time.perf_counter()
        settings = sampling._asdict() | {"seed": seed, "k": k, "after_thought": after_thought}
        known: dict[str, Proposals] = {}
        if self._store is not None:
            held = self._store.get_proposals(self.fingerprint, texts, settings)
            known = {
                text: Proposals.from_json(answer)
                for text, answer in zip(texts, held, strict=True)
                if answer is not None
            }
        missing = [text for text in texts if text not in known]
        seconds = 0.0
        if missing:
            asked = [Prompt(text, (), after_thought) for text in missing]
            key = jax.random.key(seed)
            new = dict(
                zip(missing, propose(self.language_model, asked, key, k, sampling), strict=True)
            )
            self._keep(lambda store: store.put_proposals(*self._name, settings, new), len(new))
            known |= new
            seconds = time.perf_counter() - start
        self.queries = self.queries._replace(
            made=self.queries.made + len(missing),
            saved=self.queries.saved + len(texts) - len(missing),
            seconds=self.queries.seconds + seconds,
        )
        return known

    def _keep(self, write: Callable[[PriorStore], None], answers: int) -> None:
        """Writes to the store, if there is one and it takes anything."""
        if self._store is None:
            return
        if self._keeps:
            try:
                write(self._store)
                return
            except StoreError as error:
                self._keeps = False
                logging.warning("what the language model says is not kept any more: %s", error)
        self.queries = self.queries._replace(not_kept=self.queries.not_kept + answers)


def _in_order(prompts: Sequence[Prompt], answers: dict[str, StoredScores]) -> TextScores:
    """The answers in the order of the prompts and of their actions."""
    B, A = len(prompts), max((len(prompt.actions) for prompt in prompts), default=0)
    D = max((answer.features.shape[1] for answer in answers.values()), default=0)
    scores = TextScores(
        log_probs=np.full((B, A), -np.inf, np.float32),
        num_tokens=np.zeros((B, A), np.int32),
        features=np.zeros((B, A, D), np.float32),
    )
    for b, prompt in enumerate(prompts):
        answer = answers[prompt.text]
        place = {action: a for a, action in enumerate(answer.actions)}
        rows = [place[action] for action in prompt.actions]
        for leaf, values in zip(scores, answer[1:], strict=True):
            leaf[b, : len(rows)] = values[rows]
    return scores


def _bar(states: int, what: str) -> Any:
    return progress.bar(total=states, desc=what, unit="state", delay=_PATIENCE)
