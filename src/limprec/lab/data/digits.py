"""The handwritten digits that scikit-learn carries with it: 1797 images, no download."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import numpy as np

from ...errors import DataError
from .source import Decoded, Source, part_of_arrays

SIZE = 32
"""Default side of the images, which are 8x8 at the source."""

TESTS = 360
"""Test images; the other 1437 are for training."""


def find_digits(image_size: int | None) -> Source:
    """Return the digits, grey, 32x32 unless another size is asked for.

    Raises:
        DataError: if scikit-learn is not installed.
    """
    try:
        release = version("scikit-learn")
    except PackageNotFoundError:
        raise DataError(
            "load_data",
            "digits needs scikit-learn, which is not installed",
            "install it: pip install 'limprec[lab]'",
        ) from None
    size = image_size or SIZE
    return Source(
        name="digits",
        place="scikit-learn",
        image_size=size,
        fingerprint={"version": release},
        read=lambda: _read(size),
        augment=False,
    )


def _read(size: int) -> Decoded:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = np.rint(digits.images[:, None] * (255 / 16)).astype(np.uint8)
    rows = train_test_split(
        np.arange(len(images)), test_size=TESTS, stratify=digits.target, random_state=0
    )
    train, test = (part_of_arrays(images[r], digits.target[r], size) for r in map(np.sort, rows))
    return Decoded(tuple(str(n) for n in digits.target_names), (1, size, size), train, test)
