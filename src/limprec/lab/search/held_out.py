"""Splitting the training set, so that plans are not chosen by the samples they are judged on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..data import DataSet, ImageSplit

EVERY = 6
"""One sample in so many is held out: 10,000 of MNIST's 60,000."""


def hold_out(data: DataSet) -> DataSet:
    """Return the data with a sixth of the training set in place of the test set.

    Of images it is each sixth one, so that sets in the order of their classes keep all of them;
    they are copied. Of text it is the last sixth.
    """
    split = data.train
    if isinstance(split, ImageSplit):
        held = np.arange(len(split)) % EVERY == EVERY - 1
        parts = [
            replace(split, images=split.images[which], labels=split.labels[which])
            for which in (~held, held)
        ]
        return replace(data, train=parts[0], test=parts[1])
    cut = len(split) - len(split) // EVERY
    return replace(
        data,
        train=replace(split, tokens=split.tokens[:cut]),
        test=replace(split, tokens=split.tokens[cut:]),
    )
