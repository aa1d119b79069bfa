"""The corpus that the embedded checkpoint is trained on: generated text, made anew from a seed.

Every document has its own key (seed, split and number), so that any part of the corpus can be
made again without the rest. "train" and "heldout" are two such parts; a held-out document whose
text also occurs in the training part is for the trainer to drop.
"""

import random
from collections.abc import Iterator

from launch.pretraining import household, kitchen, walks
from launch.pretraining.phrases import Document, pick

MIXTURE = (
    (kitchen.cooking, 0.35),
    (kitchen.questions, 0.11),
    (kitchen.shopping, 0.055),
    (kitchen.recipe_text, 0.03),
    (kitchen.advice, 0.025),
    (household.errand, 0.31),
    (household.habits, 0.02),
    (walks.walk, 0.06),
    (walks.questions, 0.025),
    (walks.advice, 0.015),
)


def document(seed: int, split: str, number: int) -> Document:
    """The document with the given number: same arguments, same text."""
    rng = random.Random(f"{seed}/{split}/{number}")
    return pick(rng, MIXTURE)(rng)


def documents(seed: int, split: str, count: int) -> Iterator[Document]:
    """The first `count` documents of a split ("train" or "heldout")."""
    if split not in ("train", "heldout"):
        raise ValueError(f"split must be 'train' or 'heldout', got {split!r}.")
    return (document(seed, split, number) for number in range(count))
