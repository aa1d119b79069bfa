"""Documents as rows of tokens, each with how much the prediction of a token counts."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from launch.pretraining.phrases import Document

ROW_TOKENS = 512
# The words of a decision are few, and what the model is for.
DECISION_WEIGHT = 4.0


class Rows(NamedTuple):
    """Documents packed into rows, every document with positions and attention of its own.

    Attributes:
      tokens: i32[N, L].
      positions: i32[N, L], the position within the document.
      segments: i32[N, L], which document of its row a token belongs to, from 1; 0 is padding.
      weights: f32[N, L], how much the prediction of the token counts; 0 for a document's first.
    """

    tokens: np.ndarray
    positions: np.ndarray
    segments: np.ndarray
    weights: np.ndarray


def encode(
    tokenizer: PreTrainedTokenizerBase, documents: Sequence[Document]
) -> list[tuple[list[int], list[float]]]:
    """Tokens, end of text included, and weights of every document."""
    encoded = tokenizer([document.text for document in documents], return_offsets_mapping=True)
    end = tokenizer.eos_token_id
    result = []
    for document, tokens, offsets in zip(
        documents, encoded["input_ids"], encoded["offset_mapping"], strict=True
    ):
        weight = np.ones(len(document.text))
        start = 0
        for piece in document.pieces:
            if piece.decision:
                weight[start : start + len(piece.text)] = DECISION_WEIGHT
            start += len(piece.text)
        weights = [0.0, *(float(weight[first]) for first, _ in offsets[1:]), 1.0]
        result.append(([*tokens, end], weights))
    return result


def pack(encoded: Sequence[tuple[list[int], list[float]]], length: int) -> Rows:
    """Packs documents into rows, best fit, longest first; any longer than a row is left out."""
    rows: list[list[int]] = []
    room: list[int] = []
    by_room: dict[int, list[int]] = {}
    order = sorted(range(len(encoded)), key=lambda i: -len(encoded[i][0]))
    for i in order:
        size = len(encoded[i][0])
        if size > length:
            continue
        best = next((r for r in range(size, length + 1) if by_room.get(r)), None)
        row = by_room[best].pop() if best is not None else len(rows)
        if row == len(rows):
            rows.append([])
            room.append(length)
        rows[row].append(i)
        room[row] -= size
        by_room.setdefault(room[row], []).append(row)
    shape = (len(rows), length)
    tokens, positions, segments = (np.zeros(shape, np.int32) for _ in range(3))
    weights = np.zeros(shape, np.float32)
    for row, members in enumerate(rows):
        start = 0
        for number, i in enumerate(members, 1):
            ids, weight = encoded[i]
            span = slice(start, start + len(ids))
            tokens[row, span], weights[row, span] = ids, weight
            positions[row, span], segments[row, span] = np.arange(len(ids)), number
            start += len(ids)
    return Rows(tokens, positions, segments, weights)
