"""The table of data sets, and the door to them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from ...errors import DataError
from .cache import cached
from .dataset import DataSet
from .digits import find_digits
from .pictures import find_folder
from .progress import Progress
from .source import Source
from .text import read_text
from .vision_sets import find_cifar, find_idx


@dataclass(frozen=True)
class _Images:
    """An entry of the table: what help texts say, and how (DIR, data folder, size) is found."""

    about: str
    find: Callable[[str, Path, int | None], Source]


@dataclass(frozen=True)
class _Text:
    """The entry for text."""

    about: str


_TABLE: Mapping[str, _Images | _Text] = {
    "digits": _Images(
        "1797 handwritten digits, 32x32 grey, 10 classes; comes with scikit-learn",
        lambda _, root, size: find_digits(size),
    ),
    "mnist": _Images(
        "70,000 handwritten digits, 28x28 grey, 10 classes",
        lambda _, root, size: find_idx("mnist", "MNIST", root, size),
    ),
    "fashion-mnist": _Images(
        "70,000 pictures of clothes, 28x28 grey, 10 classes",
        lambda _, root, size: find_idx("fashion-mnist", "FashionMNIST", root, size),
    ),
    "cifar10": _Images(
        "60,000 photographs, 32x32 colour, 10 classes",
        lambda _, root, size: find_cifar("cifar10", "CIFAR10", root, size),
    ),
    "cifar100": _Images(
        "60,000 photographs, 32x32 colour, 100 classes",
        lambda _, root, size: find_cifar("cifar100", "CIFAR100", root, size),
    ),
    "imagefolder:DIR": _Images(
        "your pictures: DIR/train/CLASS/* and DIR/test/CLASS/* (or DIR/val/CLASS/*)",
        lambda place, root, size: find_folder("imagefolder", _place(place, root), size),
    ),
    "text:FILE": _Text(
        "your text, character by character: nine tenths to train on, the rest to test"
    ),
}

DATASETS: Mapping[str, str] = MappingProxyType({name: e.about for name, e in _TABLE.items()})
"""Every name that ``load_data`` takes, with one line about it."""


def load_data(
    name: str,
    *,
    data_dir: str | Path | None = None,
    cache_dir: str | Path | None = None,
    image_size: int | None = None,
    context: int = 128,
    progress: Progress | None = None,
) -> DataSet:
    """Load a data set; images are decoded the first time only.

    Args:
        name: one of ``DATASETS``, with your folder or file for DIR or FILE; it is looked for from
            the working directory first, then from the data folder.
        data_dir: the data folder; by default what LIMPREC_DATA says, else ``data`` in the cache.
            A well-known set that is not there is downloaded into it.
        cache_dir: where decoded images are kept; by default what LIMPREC_CACHE says, else
            ``~/.cache/limprec``.
        image_size: side to bring images to; by default their own (32 for digits, that of the first
            picture for your pictures). Pictures are scaled and cropped around their middle.
        context: tokens of one input, for text.
        progress: called with (images done, images in all) while decoding; by default a bar shows
            after two seconds if standard error is a terminal.

    Returns:
        The data set.

    Raises:
        DataError: for an unknown name, a number out of range, or data that is missing, damaged or
            of the wrong layout.
    """
    for option, value in (("image_size", image_size), ("context", context)):
        if value is not None and value < 1:
            raise DataError("load_data", f"{option} is {value}", "give 1 or more")
    entry, argument = _find_entry(name)
    cache = _folder(cache_dir, "LIMPREC_CACHE", Path("~/.cache/limprec"))
    root = _folder(data_dir, "LIMPREC_DATA", cache / "data")
    if isinstance(entry, _Text):
        class_names, train, test = read_text(_place(argument, root), context)
        return _checked(
            DataSet(name, "text", len(class_names), (context,), class_names, train, test, True)
        )
    source = entry.find(argument, root, image_size)
    images = cached(source, cache, progress)
    return _checked(
        DataSet(
            name,
            "image",
            len(images.class_names),
            images.shape,
            images.class_names,
            images.train,
            images.test,
            source.augment,
        )
    )


def _find_entry(name: str) -> tuple[_Images | _Text, str]:
    """Return the entry of a name and what stands after its colon."""
    kind, colon, argument = name.partition(":")
    for known, entry in _TABLE.items():
        known_kind, wants, what = known.partition(":")
        if kind == known_kind and colon == wants and bool(argument) == bool(what):
            return entry, argument
    raise DataError("load_data", f"unknown data set {name!r}", f"use one of {', '.join(_TABLE)}")


def _folder(given: str | Path | None, variable: str, default: Path) -> Path:
    """Return the folder that was given, or the variable names, or the default."""
    return Path(given or os.environ.get(variable) or default).expanduser()


def _place(argument: str, root: Path) -> Path:
    """Return a user's file or folder: as it stands, or in the data folder if only there."""
    path = Path(argument).expanduser()
    return root / path if not path.exists() and (root / path).exists() else path


def _checked(data: DataSet) -> DataSet:
    if data.num_classes < 2:
        raise DataError(
            "load_data",
            f"{data.name} has one class only",
            "there must be two or more to tell apart",
        )
    return data
