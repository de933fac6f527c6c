"""The well-known sets, in the layouts that torchvision reads and writes."""

from __future__ import annotations

import gzip
import shutil
import tarfile
import warnings
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import DataError
from ...integrations.torchvision import import_torchvision
from .download import download
from .pictures import find_archive, find_folder
from .source import Decoded, Source, files_below, fingerprint, part_of_arrays

_IDX_FILES = tuple(
    f"{half}-{what}-ubyte" for half in ("train", "t10k") for what in ("images-idx3", "labels-idx1")
)
_CIFAR_FOLDERS = {"CIFAR10": "cifar-10-batches-py", "CIFAR100": "cifar-100-python"}

# What gzip, tarfile and torchvision's readers raise on damaged files.
_DAMAGE = (
    OSError,
    EOFError,
    zlib.error,
    tarfile.TarError,
    AssertionError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)

Finder = Callable[[], Source | None]


def find_idx(name: str, kind: str, root: Path, image_size: int | None) -> Source:
    """Return MNIST or a set like it: four IDX files, plain or gzip.

    Args:
        name: of the data set; the files may lie in ``root/name``.
        kind: its class in torchvision; they may lie in ``root/kind/raw``, and are downloaded there.
        root: the data folder.
        image_size: side to bring images to, None for their own 28.

    Raises:
        DataError: if the set is neither there nor to be downloaded; reading it, if it is damaged.
    """

    def there() -> Source | None:
        for folder in (root / kind / "raw", root / name):
            files = [_plain_or_gzip(folder / file) for file in _IDX_FILES]
            if all(file.is_file() for file in files):
                return Source(
                    name=name,
                    place=str(folder.resolve()),
                    image_size=image_size,
                    fingerprint=fingerprint(files),
                    read=partial(_read_idx, files, kind, image_size),
                    augment=False,
                )
        return None

    return _find(name, kind, root, f"{name}/*-ubyte.gz or {kind}/raw/*-ubyte", there)


def find_cifar(name: str, kind: str, root: Path, image_size: int | None) -> Source:
    """Return CIFAR-10 or CIFAR-100: torchvision's pickles, or pictures in folders or an archive.

    Args:
        name: of the data set; ``root/name/{train,test}/CLASS/*`` or ``root/name.tar.xz`` may hold
            it as pictures.
        kind: its class in torchvision, whose folder or archive may lie in ``root``; it is
            downloaded there.
        root: the data folder.
        image_size: side to bring images to, None for their own 32.

    Raises:
        DataError: if the set is neither there nor to be downloaded; reading it, if it is damaged.
    """
    pickles = root / _CIFAR_FOLDERS[kind]
    packed = root / f"{pickles.name.replace('-batches-py', '-python')}.tar.gz"
    pictures, archive = root / name, root / f"{name}.tar.xz"

    def there() -> Source | None:
        if pickles.is_dir() or packed.is_file():
            place = pickles if pickles.is_dir() else packed
            return Source(
                name=name,
                place=str(place.resolve()),
                image_size=image_size,
                fingerprint=fingerprint(files_below(place) if place.is_dir() else [place]),
                read=partial(_read_cifar, place, kind, image_size),
                augment=True,
            )
        if (pictures / "train").is_dir():
            return find_folder(name, pictures, image_size)
        return find_archive(name, archive, image_size) if archive.is_file() else None

    looked_for = f"{pickles.name}/, {packed.name}, {name}/train/CLASS/* or {archive.name}"
    return _find(name, kind, root, looked_for, there)


def _find(name: str, kind: str, root: Path, looked_for: str, there: Finder) -> Source:
    """Return what is there, or is there after a download."""
    source = there()
    if source is None:
        failure = download(kind, root)
        source = there()  # even after a failure: another process may have been faster
        if source is None:
            raise DataError(
                "load_data",
                f"{name} is not in {root} (looked for {looked_for}) and could not be downloaded: "
                f"{failure}",
                "name the folder that holds it with --data-dir or LIMPREC_DATA",
            )
    return source


def _plain_or_gzip(path: Path) -> Path:
    return path if path.is_file() else path.with_name(f"{path.name}.gz")


def _read_idx(files: list[Path], kind: str, image_size: int | None) -> Decoded:
    mnist = import_torchvision().datasets.mnist
    classes = getattr(mnist, kind).classes
    readers = [mnist.read_image_file, mnist.read_label_file] * 2
    arrays = [_idx_array(file, reader) for file, reader in zip(files, readers, strict=True)]
    parts = []
    for images, labels, file in zip(arrays[::2], arrays[1::2], files[::2], strict=True):
        if len(images) != len(labels):
            raise DataError(
                "load_data",
                f"{file} has {len(images)} images for {len(labels)} labels",
                "get the files anew",
            )
        parts.append(part_of_arrays(images[:, None], labels, image_size))
    height, width = (image_size, image_size) if image_size else arrays[0].shape[1:]
    return Decoded(tuple(classes), (1, height, width), *parts)


def _idx_array(file: Path, reader: Callable[[str], Any]) -> npt.NDArray[Any]:
    """Read an IDX file with torchvision, which wants it unpacked."""
    try:
        if file.suffix != ".gz":
            return np.asarray(reader(str(file)))
        with TemporaryDirectory() as folder:
            plain = Path(folder, file.stem)
            with gzip.open(file) as packed, plain.open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked)
            return np.asarray(reader(str(plain)))
    except _DAMAGE as error:
        raise _damaged(file, error) from error


def _read_cifar(place: Path, kind: str, image_size: int | None) -> Decoded:
    if place.is_file():
        with TemporaryDirectory() as folder:
            try:
                with tarfile.open(place) as tar:
                    tar.extractall(folder, filter="data")
            except _DAMAGE as error:
                raise _damaged(place, error) from error
            return _read_cifar(Path(folder, _CIFAR_FOLDERS[kind]), kind, image_size)
    try:
        reader = getattr(import_torchvision().datasets, kind)
        with warnings.catch_warnings():  # NumPy 2.4.0 to 2.4.4 frown on old pickles
            warnings.filterwarnings("ignore", message=".*align should be passed")
            train, test = (reader(place.parent, train=train) for train in (True, False))
    except _DAMAGE as error:
        raise _damaged(place, error) from error
    halves = [
        part_of_arrays(half.data.transpose(0, 3, 1, 2), half.targets, image_size)
        for half in (train, test)
    ]
    height, width = (image_size, image_size) if image_size else train.data.shape[1:3]
    return Decoded(tuple(train.classes), (3, height, width), *halves)


def _damaged(place: Path, error: Exception) -> DataError:
    problem = f"{place} is damaged: {str(error) or type(error).__name__}"
    return DataError("load_data", problem, "delete it, so that it is fetched anew")
