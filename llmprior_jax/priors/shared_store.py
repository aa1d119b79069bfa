"""A store for a run of several processes: one of them opens it, and tells the others."""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import safetensors.numpy

from llmprior_jax.distributed.processes import from_first, is_first
from llmprior_jax.priors.store import PriorStore
from llmprior_jax.priors.stored_scores import StoredScores


class SharedStore(PriorStore):
    """A store that the first process alone opens; all get what is found in it."""

    def __init__(self, path: str | os.PathLike[str]):
        """See `PriorStore`."""

        def open_it() -> bytes:
            super(SharedStore, self).__init__(path)
            return b"read only" if self.read_only else b""

        self.read_only = bool(from_first(open_it))

    def close(self) -> None:
        """Closes the file."""
        if is_first():
            super().close()

    def get_scores(self, fingerprint: str, prompts: Sequence[str]) -> list[StoredScores | None]:
        """See `PriorStore.get_scores`."""
        get = super().get_scores

        def found() -> bytes:
            scores = dict(enumerate(get(fingerprint, prompts)))
            known = {b: score for b, score in scores.items() if score is not None}
            actions = json.dumps({b: score.actions for b, score in known.items()}).encode()
            arrays: dict[str, Any] = {
                f"{name} {b}": known[b][i] for b in known for i, name in _ARRAYS
            }
            return safetensors.numpy.save(arrays | {"actions": np.frombuffer(actions, np.uint8)})

        answer = safetensors.numpy.load(from_first(found))
        answers: list[StoredScores | None] = [None] * len(prompts)
        for b, actions in json.loads(answer["actions"].tobytes()).items():
            answers[int(b)] = StoredScores(
                tuple(actions), *(answer[f"{name} {b}"] for _, name in _ARRAYS)
            )
        return answers

    def put_scores(self, fingerprint: str, name: str, scores: Mapping[str, StoredScores]) -> None:
        """See `PriorStore.put_scores`."""
        if is_first():
            super().put_scores(fingerprint, name, scores)

    def get_proposals(
        self, fingerprint: str, prompts: Sequence[str], settings: Mapping[str, Any]
    ) -> list[Any]:
        """See `PriorStore.get_proposals`."""
        get = super().get_proposals
        return json.loads(
            from_first(lambda: json.dumps(get(fingerprint, prompts, settings)).encode())
        )

    def put_proposals(
        self,
        fingerprint: str,
        name: str,
        settings: Mapping[str, Any],
        answers: Mapping[str, Any],
    ) -> None:
        """See `PriorStore.put_proposals`."""
        if is_first():
            super().put_proposals(fingerprint, name, settings, answers)

    def count(self, fingerprint: str, name: str, found: int, not_found: int) -> None:
        """See `PriorStore.count`."""
        if is_first():
            super().count(fingerprint, name, found, not_found)


# The arrays of stored scores, by their place.
_ARRAYS = tuple(enumerate(StoredScores._fields))[1:]
