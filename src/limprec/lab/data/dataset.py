"""A loaded data set: its two splits, and batches of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from .batches import Batches, ImageBatches, TextBatches
from .splits import ImageSplit, Split


@dataclass(frozen=True, eq=False)
class DataSet:
    """Data to train and test on.

    Args:
        name: as given to ``load_data``.
        kind: ``image`` (one class an image) or ``text`` (the class of a place is the next token).
        num_classes: classes, or tokens of the vocabulary.
        input_shape: of one input: (C, H, W), or (context,).
        class_names: name of each class; for text, its character.
        train: what is trained on.
        test: what is tested on.
        augment: whether training batches vary what a row shows each epoch.
    """

    name: str
    kind: Literal["image", "text"]
    num_classes: int
    input_shape: tuple[int, ...]
    class_names: tuple[str, ...]
    train: Split
    test: Split
    augment: bool

    def train_batches(self, batch_size: int, seed: int) -> Batches[Any]:
        """Return full batches in random order, a function of the seed and of ``set_epoch``.

        Raises:
            DataError: if the batch size is below 1 or above the training set, or the seed below 0.
        """
        return _batches(self.train)(
            batch_size, shuffle=True, augment=self.augment, seed=seed, drop_last=True
        )

    def test_batches(self, batch_size: int) -> Batches[Any]:
        """Return batches in order, the last one perhaps smaller.

        Raises:
            DataError: if the batch size is below 1.
        """
        return _batches(self.test)(batch_size)

    def class_counts(self) -> tuple[int, ...]:
        """Return how often each class occurs in the training set."""
        counts: list[int] = np.bincount(self.train.labels, minlength=self.num_classes).tolist()
        return tuple(counts)


def _batches(split: Split) -> Callable[..., Batches[Any]]:
    if isinstance(split, ImageSplit):
        return partial(ImageBatches, split)
    return partial(TextBatches, split)
