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
from .source import Part, Source
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
            f"cannot write the cache {folder}: {error}",
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
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _split(folder: Path, part: str, meta: dict[str, Any]) -> ImageSplit:
    images = np.load(folder / f"{part}_images.npy", mmap_mode="r")
    labels = np.load(folder / f"{part}_labels.npy", mmap_mode="r")
    if images.shape != (len(labels), *meta["shape"]):
        raise ValueError(images.shape)
    return ImageSplit(images, labels, tuple(meta["mean"]), tuple(meta["std"]))


def _build(folder: Path, source: Source, progress: Progress | None) -> None:
    """Decode into ``folder``; the caller holds its lock, so a leftover part is nobody's."""
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        with slow_bar(f"decoding {source.name}", progress) as step:
            decoded = source.read()
            halves = {"train": decoded.train, "test": decoded.test}
            for half in halves.values():
                _check_labels(half, decoded.class_names, source)
            total = sum(len(half.labels) for half in halves.values())
            needed, free = total * math.prod(decoded.shape), shutil.disk_usage(part).free
            if needed > free:  # a full disk would kill the process: the files are mapped
                raise OSError(f"it takes {needed / 2**30:.2f} GiB, {free / 2**30:.2f} are free")
            step(0, total)
            histograms, done = [], 0
            for name, half in halves.items():
                np.save(part / f"{name}_labels.npy", half.labels)
                shape = (len(half.labels), *decoded.shape)
                file = part / f"{name}_images.npy"
                histogram = np.zeros((decoded.shape[0], 256), dtype=np.int64)
                images = open_memmap(file, mode="w+", dtype=np.uint8, shape=shape)
                start = 0
                for chunk in half.chunks:
                    images[start : start + len(chunk)] = chunk
                    start += len(chunk)
                    histogram += _histogram(chunk)
                    step(done + start, total)
                images.flush()
                done += start
                histograms.append(histogram)
        mean, std = _moments(histograms[0])
        meta = {
            "layout": LAYOUT,
            "name": source.name,
            "place": source.place,
            "fingerprint": source.fingerprint,
            "class_names": decoded.class_names,
            "shape": decoded.shape,
            "mean": mean,
            "std": std,
        }
        (part / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")
        old = folder.with_name(f".{folder.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        part.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(part, ignore_errors=True)
