"""Training or test data at rest: arrays, most of them mapped from the cache."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class ImageSplit:
    """Images and their classes.

    Args:
        images: (N, C, H, W) uint8, mapped from the cache.
        labels: (N,) int64, likewise.
        mean: mean of the training set by channel, where 255 counts as 1.
        std: its standard deviation, likewise; 1 for a channel that never changes.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class TextSplit:
    """A run of tokens.

    Args:
        tokens: (N,) int32, each the index of a character in the vocabulary.
        context: tokens that a model sees at once.
    """

    tokens: npt.NDArray[np.int32]
    context: int

    @property
    def labels(self) -> npt.NDArray[np.int32]:
        """The tokens: each is the class of the place before it."""
        return self.tokens

    def __len__(self) -> int:
        return len(self.tokens)


Split = ImageSplit | TextSplit
