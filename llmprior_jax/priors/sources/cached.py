"""Cached scoring: the store first, then the model.

The model is loaded only when there is something to ask, or to fit a history into its context: a run
without histories whose prompts are all in the store never loads it. Prompts are asked in batches
that are made up before the store is looked into: what is computed then has the same bits with a
store as without. Only where scoring was stopped amid a batch, the rest of it is asked apart, and
sums are rounded in another order (1e-6 of a log-probability).

An answer is known by a prompt and an action, whatever list the action comes in. So a prompt is
asked as `tokens.align` leaves it, without the end that tokens of its actions swallow.
"""

import concurrent.futures
import functools
import time
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from llmprior_jax import models, progress, stopping
from llmprior_jax.errors import InterruptedRunError, InterruptedScoringError
from llmprior_jax.models import language_model
from llmprior_jax.priors.features import encode_actions
from llmprior_jax.priors.prompts import Prompt, room_for
from llmprior_jax.priors.sampling.generation import Sampling
from llmprior_jax.priors.sampling.proposals import Proposals, propose
from llmprior_jax.priors.scoring.score import TextScores, score_in_passes
from llmprior_jax.priors.store import ModelUsage, PriorStore, StoreError
from llmprior_jax.priors.stored_scores import StoredScores
from llmprior_jax.priors.tokens import align, begins_plainly, count_tokens

HIDDEN = "hidden"
# Prompts that are asked together share what they begin with, and an accelerator's passes are large.
_PROMPTS_PER_BATCH, _ON_ACCELERATORS = 128, 1024
_PROPOSALS_PER_BATCH = 32
_KEEP_EVERY = 1.0  # seconds; a process that is killed loses as much, and its pass
_PATIENCE = 0.5  # seconds; what takes less needs no bar

_Result = TypeVar("_Result")
# A prompt's text and one list of its actions.
_List = tuple[str, tuple[str, ...]]


class Queries(NamedTuple):
    """How often a language model was asked; a query is one prompt with some of its actions.

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


class _Batch(NamedTuple):
    """Queries that are answered together.

    Attributes:
      asked: what is asked instead of each list (`tokens.align`).
      missing: the actions by prompt that the model is to be asked about.
      saved: how many prompts the store has answered.
      passes: gives what the model says of them, as `score_in_passes`.
    """

    asked: dict[_List, _List]
    missing: dict[str, tuple[str, ...]]
    saved: int
    passes: Iterable[tuple[np.ndarray, TextScores]] = ()


class CachedModel:
    """A language model with a store of its answers: each query is computed only once.

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
        should_stop: Callable[[], bool] | None = None,
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
          should_stop: asked all the time while the model is loaded and asked, which another thread
            then does, so that Ctrl-C and SIGTERM are heard, too (`llmprior_jax.stopping`). What was
            scored until then is kept. None: nobody is asked, as in several processes.
        """
        self.name = name
        self.queries = Queries()
        self._features = features
        self._quantize = quantize
        self._store = store
        self._mesh = mesh
        self._room_kept = 0
        self._keeps = store is not None
        self._should_stop = should_stop
        self._unfinished: dict[str, StoredScores] = {}  # Of a call that was stopped.

    @functools.cached_property
    def _prompts_per_batch(self) -> int:
        """As many for each device."""
        at_once = _PROMPTS_PER_BATCH if jax.default_backend() == "cpu" else _ON_ACCELERATORS
        return at_once * (1 if self._mesh is None else self._mesh.shape["data"])

    @functools.cached_property
    def language_model(self) -> models.LanguageModel:
        """The language model, loaded when it is first needed."""
        return self._loaded(self.name, self._load)

    @functools.cached_property
    def tokenizer(self) -> Any:
        """The language model's tokenizer, read when it is first needed, without the weights."""
        if "language_model" in self.__dict__:
            return self.language_model.tokenizer
        return self._loaded(self.name, lambda: models.load_tokenizer(self.name))

    @functools.cached_property
    def text_encoder(self) -> models.TextEncoder | None:
        """What makes features of texts, loaded when it is first needed; None if the model does."""
        name = self._features
        return None if name == HIDDEN else self._loaded(name, lambda: models.load_encoder(name))

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
        return self._loaded(
            self.name, lambda: models.fingerprint(self.name, quantize=self._quantize)
        )

    def load_again(self, name: str, dtype: Any) -> models.LanguageModel:
        """A language model on one device, as `llmprior_jax.models.load` gives it.

        It is this one, and loaded once for both, where that is no different.
        """
        is_own = name == self.name and self._quantize is None
        is_whole = self._mesh is None or self._mesh.size == 1
        # On CPUs it is in float32, as learning needs it, and so loaded once for both.
        is_at_hand = "language_model" in self.__dict__ or jax.default_backend() == "cpu"
        if is_own and is_whole and is_at_hand:
            lm = self.language_model
            if {leaf.dtype for leaf in jax.tree.leaves(lm.params)} == {jnp.dtype(dtype)}:
                return lm
        return self._loaded(name, lambda: models.load(name, dtype))

    def _loaded(self, name: str, load: Callable[[], _Result]) -> _Result:
        """What is read of a model's files, or of the hub, which may take minutes."""
        loaded: list[_Result] = []
        try:
            self._stoppable(lambda: [load()], loaded.append)
        except stopping.StoppedError as error:
            raise InterruptedRunError(
                f"stopped while {name} was loaded; the same command begins again"
            ) from error
        return loaded[0]

    def _load(self) -> models.LanguageModel:
        if self._mesh is None or self._mesh.size == 1:
            return models.load(self.name, quantize=self._quantize)
        # Read where there is room for all of it.
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            lm = models.load(self.name, quantize=self._quantize)
        return models.partition(lm, self._mesh)

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

        Features are the hidden states made short (`priors.features.shorten`), to what is kept.

        Args:
          prompts: B prompts, A actions at most; those that come twice are asked once.

        Returns:
          Scores [B, A] on the host; `features` are the text encoder's where there is one.

        Raises:
          TypeError, ValueError: see `llmprior_jax.priors.score`; or the store is damaged.
          InterruptedScoringError: `should_stop` said so. What was scored is in the store, and this
            object gives it once more.
        """
        wanted: dict[str, dict[tuple[str, ...], None]] = {}
        for prompt in prompts:
            wanted.setdefault(prompt.text, {})[prompt.actions] = None
        answers: dict[str, StoredScores] = {}
        asked: dict[_List, _List] = {}
        texts = list(wanted)
        before, not_found = self.queries, 0
        try:
            with _bar(len(texts), "prior") as bar:
                began, end = time.perf_counter(), 0
                upcoming = self._begin(texts[: self._prompts_per_batch], wanted, answers)
                while end < len(texts):
                    batch = upcoming.result()
                    end += self._prompts_per_batch
                    # While the model is asked about a batch, the next is made tokens of.
                    following = texts[end : end + self._prompts_per_batch]
                    upcoming = self._begin(following, wanted, answers, batch.missing)
                    asked |= batch.asked
                    not_found += len(batch.missing)
                    self.queries = self.queries._replace(saved=self.queries.saved + batch.saved)
                    if batch.missing:
                        self._ask(batch, answers, bar, began)
                    bar.update(min(end, len(texts)) - bar.n)
                    began = time.perf_counter()
        except stopping.StoppedError as error:
            self._unfinished |= answers
            answered = [_is_answered(prompt, asked, answers) for prompt in prompts]
            made = self.queries.made - before.made
            lost = self.queries.not_kept - before.not_kept if self._store is not None else made
            raise InterruptedScoringError(
                f"stopped after scoring {sum(answered):,} of {len(prompts):,} states: "
                f"{made:,} queries made, {made - lost:,} of them kept in the store; the same "
                "command goes on from there",
                done=[*answered, False].index(False),
            ) from error
        finally:
            self._count(self.queries.saved - before.saved, not_found)
        scores = _in_order([asked[prompt.text, prompt.actions] for prompt in prompts], answers)
        encoder = self.text_encoder
        if encoder is None:
            return scores
        return scores._replace(features=self._encode(encoder, prompts))

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
            for start in range(0, len(asked), _PROPOSALS_PER_BATCH):
                batch = asked[start : start + _PROPOSALS_PER_BATCH]
                for after_thought in dict.fromkeys(after for _, after in batch):
                    texts = [text for text, after in batch if after == after_thought]
                    try:
                        found = self._propose(texts, after_thought, seed, k, sampling)
                    except stopping.StoppedError as error:
                        raise InterruptedScoringError(
                            f"stopped after asking for proposals in {len(answers):,} of "
                            f"{len(asked):,} states; the same command goes on from there"
                        ) from error
                    answers |= {(text, after_thought): found[text] for text in texts}
                bar.update(len(batch))
        return [answers[prompt.text, prompt.after_thought] for prompt in prompts]

    def usage(self) -> ModelUsage | None:
        """What the store holds of this model; None without a store, or where it holds nothing.

        Where several processes share a run, ask in the first.

        Raises:
          StoreError: the file cannot be read.
        """
        held = [] if self._store is None else self._store.usage(self.fingerprint)
        return held[0] if held else None

    def close(self) -> None:
        """Closes the store."""
        if self._store is not None:
            self._store.close()

    @property
    def _name(self) -> tuple[str, str]:
        return self.fingerprint, self.name

    def _begin(
        self,
        texts: Sequence[str],
        wanted: Mapping[str, Iterable[tuple[str, ...]]],
        answers: dict[str, StoredScores],
        under_way: Mapping[str, tuple[str, ...]] = types.MappingProxyType({}),
    ) -> "concurrent.futures.Future[_Batch]":
        """Answers one batch as far as the store goes, and begins to make tokens of the rest.

        Args:
          texts: its prompts.
          wanted: the lists of actions that each is asked with.
          answers: gets the answers by prompt.
          under_way: the actions by prompt that the model is asked about before.

        Returns:
          The batch, or the error that befell it, for the time when it is its turn.
        """
        begun: concurrent.futures.Future[_Batch] = concurrent.futures.Future()
        if not texts:
            begun.set_result(_Batch({}, {}, 0))
            return begun
        try:
            lists = [(text, actions) for text in texts for actions in wanted[text]]
            batch = self._find(lists, answers, under_way)
            if batch.missing:
                groups = list(batch.missing.values())
                lm = self.language_model
                passes = score_in_passes(lm, list(batch.missing), groups, short=True)
                batch = batch._replace(passes=passes)
            begun.set_result(batch)
        except Exception as error:
            begun.set_exception(error)
        return begun

    def _find(
        self,
        lists: Sequence[_List],
        answers: dict[str, StoredScores],
        under_way: Mapping[str, tuple[str, ...]],
    ) -> _Batch:
        """Answers one batch of queries, lists that come once each, as far as the store goes."""
        asked = [each if begins_plainly(*each) else self._align(*each) for each in lists]
        wanted = _by_prompt(asked)
        missing = self._look_up(wanted, answers, under_way)
        if missing:
            # The model is needed, so its tokenizer can be asked about all.
            aligned = [self._align(*each) for each in lists]
            if aligned != asked:
                asked, wanted = aligned, _by_prompt(aligned)
                missing = self._look_up(wanted, answers, under_way)
        # What a call that was stopped left here was made by this object, and is counted so.
        saved = wanted.keys() - missing.keys() - self._unfinished.keys()
        return _Batch(dict(zip(lists, asked, strict=True)), missing, len(saved))

    def _align(self, text: str, actions: tuple[str, ...]) -> _List:
        return (text, actions) if self._reads_apart else align(self.tokenizer, text, actions)

    @functools.cached_property
    def _reads_apart(self) -> bool:
        """Whether the model is an encoder-decoder; it is not loaded for it."""
        if "language_model" in self.__dict__:
            return isinstance(self.language_model.config, models.EncoderDecoderConfig)
        return self._loaded(self.name, lambda: language_model.reads_apart(self.name))

    def _look_up(
        self,
        wanted: Mapping[str, tuple[str, ...]],
        answers: dict[str, StoredScores],
        under_way: Mapping[str, tuple[str, ...]],
    ) -> dict[str, tuple[str, ...]]:
        """Adds to the answers what is known, and returns what is not, and is not being asked."""
        held: Iterable[StoredScores | None] = [None] * len(wanted)
        if self._store is not None:
            held = self._store.get_scores(self.fingerprint, list(wanted))
        for text, answer in zip(wanted, held, strict=True):
            for known in (answer, self._unfinished.get(text)):
                _add(answers, text, known)
        missing: dict[str, tuple[str, ...]] = {}
        for text, actions in wanted.items():
            known = {*(answers[text].actions if text in answers else ()), *under_way.get(text, ())}
            unknown = tuple(action for action in actions if action not in known)
            # A prompt without any actions is asked about, too: that is an error which says so.
            if unknown or not actions:
                missing[text] = unknown
        return missing

    def _ask(
        self,
        batch: _Batch,
        answers: dict[str, StoredScores],
        bar: Any,
        began: float,
    ) -> None:
        """Asks the model; what it answers before it is stopped, or fails, is kept and counted.

        Args:
          batch: what is asked.
          answers: gets the answers by prompt.
          bar: gets ahead with what the model does.
          began: when work on the batch began.
        """
        texts, lists = list(batch.missing), list(batch.missing.values())
        new: dict[str, StoredScores] = {}
        kept_at, made = time.perf_counter(), 0

        def keep() -> None:
            nonlocal kept_at, made
            in_order = {text: new[text] for text in texts if text in new}
            self._keep(lambda store: store.put_scores(*self._name, in_order), len(in_order))
            for text, answer in in_order.items():
                _add(answers, text, answer)
            new.clear()
            kept_at, made = time.perf_counter(), made + len(in_order)

        def take(part: tuple[np.ndarray, TextScores]) -> None:
            done, scores = part
            for row, b in enumerate(done.tolist()):
                kept = (leaf[row, : len(lists[b])] for leaf in scores)
                new[texts[b]] = StoredScores(lists[b], *kept)
            bar.update(len(done))
            if time.perf_counter() - kept_at > _KEEP_EVERY:
                keep()

        try:
            self._stoppable(lambda: batch.passes, take)
        finally:
            if new:
                keep()
            self._count_made(made, began)

    def _encode(self, encoder: models.TextEncoder, prompts: Sequence[Prompt]) -> np.ndarray:
        """The text encoder's features of prompts."""
        texts = [prompt.text for prompt in prompts]
        actions = [prompt.actions for prompt in prompts]
        features: list[np.ndarray] = []
        try:
            self._stoppable(
                lambda: [np.asarray(encode_actions(encoder, texts, actions))], features.append
            )
        except stopping.StoppedError as error:
            raise InterruptedScoringError(
                f"stopped while features of {len(prompts):,} states were made; the same command "
                "goes on, with what was scored until now"
            ) from error
        return features[0]

    def _count_made(self, made: int, began: float) -> None:
        seconds = self.queries.seconds + time.perf_counter() - began
        self.queries = self.queries._replace(made=self.queries.made + made, seconds=seconds)

    def _count(self, found: int, not_found: int) -> None:
        """Counts in the store what was asked of it, if anything was."""
        if found + not_found and self._store is not None and not self._store.read_only:
            self._keep(lambda store: store.count(*self._name, found, not_found), 0)

    def _stoppable(
        self, work: Callable[[], Iterable[_Result]], take: Callable[[_Result], None]
    ) -> None:
        """Takes each result of some work; raises a `StoppedError` if that is to stop."""
        if self._should_stop is not None and jax.process_count() == 1:
            stopping.run(work, take, self._should_stop)
            return
        for result in work():
            take(result)

    def _propose(
        self,
        texts: list[str],
        after_thought: str | None,
        seed: int,
        k: int,
        sampling: Sampling,
    ) -> dict[str, Proposals]:
        """Samples for one batch of texts, from the store as far as it goes."""
        began = time.perf_counter()
        settings = sampling._asdict() | {"seed": seed, "k": k, "after_thought": after_thought}
        known: dict[str, Proposals] = {}
        if self._store is not None:
            held = self._store.get_proposals(self.fingerprint, texts, settings)
            known = {
                text: Proposals.from_json(answer)
                for text, answer in zip(texts, held, strict=True)
                if answer is not None
            }
        self.queries = self.queries._replace(saved=self.queries.saved + len(known))
        missing = [text for text in texts if text not in known]
        if missing:
            asked = [Prompt(text, (), after_thought) for text in missing]
            lm, key = self.language_model, jax.random.key(seed)
            new: dict[str, Proposals] = {}
            try:
                self._stoppable(
                    lambda: [propose(lm, asked, key, k, sampling)],
                    lambda said: new.update(zip(missing, said, strict=True)),
                )
            finally:
                if new:
                    self._keep(
                        lambda store: store.put_proposals(*self._name, settings, new), len(new)
                    )
                self._count_made(len(new), began)
            known |= new
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


def _by_prompt(lists: Sequence[_List]) -> dict[str, tuple[str, ...]]:
    """All actions that are asked about after each prompt, each once."""
    wanted: dict[str, dict[str, None]] = {}
    for text, actions in lists:
        wanted.setdefault(text, {}).update(dict.fromkeys(actions))
    return {text: tuple(actions) for text, actions in wanted.items()}


def _add(answers: dict[str, StoredScores], text: str, answer: StoredScores | None) -> None:
    if answer is not None:
        answers[text] = answers[text].merge(answer) if text in answers else answer


def _is_answered(
    prompt: Prompt, asked: Mapping[_List, _List], answers: Mapping[str, StoredScores]
) -> bool:
    text, actions = asked.get((prompt.text, prompt.actions), ("", ()))
    return text in answers and set(answers[text].actions).issuperset(actions)


def _in_order(lists: Sequence[_List], answers: Mapping[str, StoredScores]) -> TextScores:
    """The answers in the order of the lists and of their actions."""
    B, A = len(lists), max((len(actions) for _, actions in lists), default=0)
    D = max((answer.features.shape[1] for answer in answers.values()), default=0)
    scores = TextScores(
        log_probs=np.full((B, A), -np.inf, np.float32),
        num_tokens=np.zeros((B, A), np.int32),
        features=np.zeros((B, A, D), np.float32),
    )
    for b, (text, actions) in enumerate(lists):
        answer = answers[text]
        place = {action: a for a, action in enumerate(answer.actions)}
        rows = [place[action] for action in actions]
        for leaf, values in zip(scores, answer[1:], strict=True):
            leaf[b, : len(rows)] = values[rows]
    return scores


def _bar(states: int, what: str) -> Any:
    return progress.bar(total=states, desc=what, unit="state", delay=_PATIENCE)
