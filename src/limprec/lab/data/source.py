"""What a data set is before it is decoded: where it lies, and how to read it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]

CHUNK = 256
"""Images that are decoded and written at once."""


class Part(NamedTuple):
    """The training or the test half of decoded images.

    Args:
        labels: (N,) int64.
        chunks: uint8 arrays (K, C, H, W) that make up N images together; read once.
    """

    labels: Labels
    chunks: Iterable[Pixels]


class Decoded(NamedTuple):
    """A data set as it comes from its reader: class names, (C, H, W), and the two halves."""

    class_names: tuple[str, ...]
    shape: tuple[int, int, int]
    train: Part
    test: Part


@dataclass(frozen=True)
class Source:
    """Images that were found and not decoded yet.

    Args:
        name: the data set, e.g. ``cifar10``; it begins the name of the cache folder.
        place: the file or folder the images come from.
        image_size: side to bring images to, None for their own.
        fingerprint: plain values that change when the files change.
        read: opens the source; called only where no cache answers.
        augment: whether training batches are cropped and flipped.
    """

    name: str
    place: str
    image_size: int | None
    fingerprint: Mapping[str, Any]
    read: Callable[[], Decoded]
    augment: bool

    @property
    def cache_name(self) -> str:
        """Name of the cache folder: one for each data set, place and image size."""
        identity = json.dumps([self.name, self.place, self.image_size])
        return f"{self.name}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"


def fingerprint(files: Iterable[Path]) -> dict[str, Any]:
    """Return number, bytes and a digest of the paths, sizes and modification times of files."""
    digest, count, size = hashlib.sha256(), 0, 0
    for path in files:
        stat = path.stat()
        digest.update(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
        count, size = count + 1, size + stat.st_size
    return {"files": count, "bytes": size, "sha256": digest.hexdigest()}


def files_below(folder: Path) -> Iterator[Path]:
    """Yield every file below a folder, in a fixed order; links are followed."""
    for where, folders, names in os.walk(folder, followlinks=True):
        folders.sort()
        yield from (Path(where, name) for name in sorted(names))


def part_of_arrays(images: Pixels, labels: npt.ArrayLike, image_size: int | None) -> Part:
    """Return decoded images (N, C, H, W) uint8 as a part, resized where a size is asked for."""
    chunks = (images[i : i + CHUNK] for i in range(0, len(images), CHUNK))
    if image_size is not None and images.shape[2:] != (image_size, image_size):
        chunks = (_resize(chunk, image_size) for chunk in chunks)
    return Part(np.asarray(labels, dtype=np.int64), chunks)


def _resize(images: Pixels, size: int) -> Pixels:
    x = torch.from_numpy(images).float()
    x = F.interpolate(x, size=(size, size), mode="bilinear", antialias=True)
    resized: Pixels = x.round_().clamp_(0, 255).to(torch.uint8).numpy()
    return resized
