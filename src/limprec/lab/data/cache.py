"""Decoded images on disk: written whole or not at all, mapped into memory ever after.

A cache is one folder: ``{train,test}_images.npy`` (N, C, H, W) uint8, ``{train,test}_labels.npy``
(N,) int64, and ``meta.json``. It is built in a temporary folder that is renamed when complete, and
built anew when the source or the layout has changed.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.lib.format import open_memmap

from ...errors import DataError
from .progress import Progress, slow_bar
from .source import Part, Pixels, Source
from .splits import ImageSplit

LAYOUT = 1
"""Counts up whenever this file writes something else."""


class Cached(NamedTuple):
    """A data set from the cache: class names, (C, H, W), and the two splits."""

    class_names: tuple[str, ...]
    shape: tuple[int, int, int]
    train: ImageSplit
    test: ImageSplit


def cached(source: Source, root: Path, progress: Progress | None = None) -> Cached:
    """Return the images of a source, decoded on the first call only.

    Args:
        source: where the images come from.
        root: the folder of all caches; it is made.
        progress: called with (images done, images in all) while decoding; None shows a bar on a
            terminal when decoding takes more than two seconds.

    Raises:
        DataError: if the source is damaged, or the cache cannot be written.
    """
    from filelock import FileLock

    folder = root / source.cache_name
    found = _read(folder, source)
    if found is not None:
        return found
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{folder.name}.lock"):
            found = _read(folder, source)  # another process may have built it meanwhile
            if found is None:
                _build(folder, source, progress)
                found = _read(folder, source)
    except OSError as error:
        raise DataError(
            "load_data",
            f"cannot build the cache {folder}: {error}",
            "name another place with LIMPREC_CACHE or cache_dir",
        ) from error
    if found is None:
        raise DataError(
            "load_data", f"{folder} does not hold what was written", "check the disk it lies on"
        )
    return found


def _read(folder: Path, source: Source) -> Cached | None:
    """Return a cache, or None where it is missing, damaged or of another source or layout."""
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        if meta["layout"] != LAYOUT or meta["fingerprint"] != source.fingerprint:
            return None
        splits = [_split(folder, part, meta) for part in ("train", "test")]
        return Cached(tuple(meta["class_names"]), tuple(meta["shape"]), *splits)
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        return None


def _split(folder: Path, part: str, meta: dict[str, Any]) -> ImageSplit:
    images = np.load(folder / f"{part}_images.npy", mmap_mode="r")
    labels = np.load(folder / f"{part}_labels.npy", mmap_mode="r")
    if images.shape != (len(labels), *meta["shape"]):
        raise ValueError(images.shape)
    return ImageSplit(images, labels, tuple(meta["mean"]), tuple(meta["std"]))


def _build(folder: Path, source: Source, progress: Progress | None) -> None:
    """Decode into ``folder``; the caller holds its lock, so what lies in the way is nobody's."""
    part, old = (folder.with_name(f".{folder.name}.{end}") for end in ("part", "old"))
    for leftover in (part, old):
        shutil.rmtree(leftover, ignore_errors=True)
    part.mkdir()
    try:
        with slow_bar(f"decoding {source.name}", progress) as step:
            meta = _write(part, source, step)
        (part / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")
        if folder.exists():
            folder.rename(old)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _write(part: Path, source: Source, step: Progress) -> dict[str, Any]:
    """Write the arrays of both halves and return what ``meta.json`` is to say."""
    decoded = source.read()
    halves = {"train": decoded.train, "test": decoded.test}
    total = sum(len(half.labels) for half in halves.values())
    needed, free = total * math.prod(decoded.shape), shutil.disk_usage(part).free
    if needed > free:  # writing mapped files to a full disk would kill the process
        raise OSError(f"it takes {needed / 2**30:.2f} GiB and {free / 2**30:.2f} are free")
    done = 0
    step(done, total)
    histograms = {name: np.zeros((decoded.shape[0], 256), dtype=np.int64) for name in halves}
    for name, half in halves.items():
        _check_labels(half, len(decoded.class_names), f"{name} set of {source.place}")
        np.save(part / f"{name}_labels.npy", half.labels)
        file, shape = part / f"{name}_images.npy", (len(half.labels), *decoded.shape)
        images = open_memmap(file, mode="w+", dtype=np.uint8, shape=shape)
        start = 0
        for chunk in half.chunks:
            if chunk.shape[1:] != decoded.shape:
                raise DataError(
                    "load_data",
                    f"{source.place} has images {decoded.shape} and {chunk.shape[1:]}",
                    "give image_size to bring them to one size",
                )
            images[start : start + len(chunk)] = chunk
            histograms[name] += _histogram(chunk)
            start += len(chunk)
            step(done + start, total)
        images.flush()
        done += start
    mean, std = _moments(histograms["train"])
    return {
        "layout": LAYOUT,
        "name": source.name,
        "place": source.place,
        "fingerprint": source.fingerprint,
        "class_names": decoded.class_names,
        "shape": decoded.shape,
        "mean": mean,
        "std": std,
    }


def _check_labels(half: Part, classes: int, where: str) -> None:
    if not len(half.labels):
        raise DataError("load_data", f"the {where} is empty", "put images into it")
    low, high = int(half.labels.min()), int(half.labels.max())
    if low < 0 or high >= classes:
        raise DataError(
            "load_data",
            f"the {where} has labels from {low} to {high} for {classes} classes",
            "get the files anew",
        )


def _histogram(images: Pixels) -> npt.NDArray[np.int64]:
    """Return how often each value occurs, (C, 256), of images (K, C, H, W)."""
    channels = images.swapaxes(0, 1).reshape(images.shape[1], -1)
    return np.stack([np.bincount(channel, minlength=256) for channel in channels])


def _moments(histogram: npt.NDArray[np.int64]) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation by channel, where 255 counts as 1."""
    share = histogram / histogram.sum(axis=1, keepdims=True)
    values = np.arange(256) / 255
    mean = share @ values
    variance = (share * (values - mean[:, None]) ** 2).sum(axis=1)
    return mean.tolist(), np.sqrt(np.where(variance > 0, variance, 1.0)).tolist()
