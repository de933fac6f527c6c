"""Batches of a split, made a batch at a time: one gather, and a few operations on the whole batch.

Order, crops and flips are a function of (seed, epoch) and nothing else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...errors import DataError
from .splits import ImageSplit, Split, TextSplit

PADDING = 4
"""Black border, in pixels, in which a crop of the original size is placed at random."""

SplitType = TypeVar("SplitType", bound=Split)


class Batches(ABC, Generic[SplitType]):
    """What batches of images and of text have in common; iterate as often as you like.

    Args:
        split: the data; its rows are images, or blocks of text.
        batch_size: rows of a batch, 1 or more.
        shuffle: draw rows in a new order each epoch, rather than in their own.
        augment: vary what a row shows each epoch.
        seed: of order and augmentation, 0 or more.
        drop_last: leave out the last batch where it is not full.

    Raises:
        DataError: for a batch size or a seed out of range.
    """

    def __init__(
        self,
        split: SplitType,
        batch_size: int,
        *,
        shuffle: bool = False,
        augment: bool = False,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        self.split, self.batch_size = split, batch_size
        self.shuffle, self.augment, self.seed, self.drop_last = shuffle, augment, seed, drop_last
        self.epoch = 0
        if batch_size < 1 or (drop_last and batch_size > self.rows):
            raise DataError("batches", f"batch_size is {batch_size}", f"give 1 to {self.rows}")
        if seed < 0:
            raise DataError("batches", f"seed is {seed}", "give 0 or more")

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, 0 or more, that the next iteration shows.

        Raises:
            DataError: if it is below 0.
        """
        if epoch < 0:
            raise DataError("batches", f"epoch is {epoch}", "give 0 or more")
        self.epoch = epoch

    def __len__(self) -> int:
        full, rest = divmod(self.rows, self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    @abstractmethod
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (x, y) batch by batch."""

    @property
    @abstractmethod
    def rows(self) -> int:
        """Rows that an epoch draws from."""

    def _generator(self) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.epoch])

    def _draws(self, generator: np.random.Generator) -> Iterator[npt.NDArray[np.int64]]:
        """Yield the row numbers of each batch."""
        order = generator.permutation(self.rows) if self.shuffle else np.arange(self.rows)
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            yield order[start : start + self.batch_size]


class ImageBatches(Batches[ImageSplit]):
    """Normalised images and their classes.

    Yields x, (B, C, H, W) float32 with mean 0 and deviation 1 by channel over the training set, and
    y, (B,) int64. With ``augment``, each image is padded by 4 black pixels, cropped back to its
    size at a random place, and mirrored with probability 1/2. Arguments and errors are those of
    :class:`Batches`.
    """

    @property
    def rows(self) -> int:
        """Images of the split."""
        return len(self.split)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (x, y) batch by batch."""
        mean, std = torch.tensor([self.split.mean, self.split.std], dtype=torch.float64)
        factor = (1 / (255 * std)).float()[:, None, None]
        shift = (-mean / std).float()[:, None, None]
        generator = self._generator()
        for draw in self._draws(generator):
            images = np.take(self.split.images, draw, axis=0)
            if self.augment:
                images = crop_and_flip(images, generator)
            x = torch.from_numpy(images).float().mul_(factor).add_(shift)
            yield x, torch.from_numpy(np.take(self.split.labels, draw))


class TextBatches(Batches[TextSplit]):
    """Blocks of tokens and the tokens that follow.

    Yields x and y, both (B, context) int64, where y is x moved on by one token. Blocks do not
    overlap. With ``augment``, all borders move by one random offset below ``context`` each epoch.
    Arguments and errors are those of :class:`Batches`.
    """

    @property
    def rows(self) -> int:
        """Blocks of the split, after the largest offset and with a target for the last token."""
        context = self.split.context
        return (len(self.split) - (context if self.augment else 1)) // context

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (x, y) batch by batch."""
        context = self.split.context
        generator = self._generator()
        offset = int(generator.integers(context)) if self.augment else 0
        for draw in self._draws(generator):
            places = (offset + draw * context)[:, None] + np.arange(context + 1)
            tokens = torch.from_numpy(np.take(self.split.tokens, places)).long()
            yield tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


def crop_and_flip(
    images: npt.NDArray[np.uint8], generator: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Return images (B, C, H, W) uint8, each shifted by up to 4 pixels and mirrored or not."""
    count, channels, height, width = images.shape
    edge = 2 * PADDING
    padded = np.zeros((count, channels, height + edge, width + edge), dtype=np.uint8)
    padded[:, :, PADDING:-PADDING, PADDING:-PADDING] = images
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(2, 3))
    top, left = generator.integers(edge + 1, size=(2, count))
    cropped: npt.NDArray[np.uint8] = windows[np.arange(count), :, top, left]
    mirrored = generator.random(count) < 0.5
    cropped[mirrored] = cropped[mirrored, :, :, ::-1]
    return cropped
