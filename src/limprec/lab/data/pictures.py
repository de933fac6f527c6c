"""Picture files, decoded with Pillow: from a folder, or straight from an archive."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from ...errors import DataError
from ...integrations.torchvision import import_torchvision
from .source import CHUNK, Decoded, Labels, Part, Pixels, Source, files_below, fingerprint


class Picture(NamedTuple):
    """A file that is not decoded yet: its name in messages, its class, and its bytes on demand."""

    name: str
    label: str
    read: Callable[[], bytes]


Halves = tuple[list[Picture], list[Picture]]
"""Training and test pictures."""


def find_folder(name: str, folder: Path, image_size: int | None) -> Source:
    """Return the pictures in ``folder/train/CLASS/*`` and ``folder/test`` (or ``val``) likewise.

    Args:
        name: of the data set.
        folder: as torchvision's ImageFolder reads it, once for each half.
        image_size: side to bring pictures to; None for the size of the first one.

    Raises:
        DataError: if one of the halves is not there; reading it, if a class of the test set has no
            training pictures, or a picture is damaged.
    """
    train = folder / "train"
    test = next((folder / n for n in ("test", "val") if (folder / n).is_dir()), None)
    if not train.is_dir() or test is None:
        raise DataError(
            "load_data",
            f"{folder} is not a folder with train/CLASS/* and test/CLASS/* or val/CLASS/*",
            f"lay out the pictures like that, or name another folder: {name}:DIR",
        )
    return Source(
        name=name,
        place=str(folder.resolve()),
        image_size=image_size,
        fingerprint=fingerprint(f for half in (train, test) for f in files_below(half)),
        read=lambda: _decoded((_list(train), _list(test)), image_size, folder),
        augment=True,
    )


def find_archive(name: str, archive: Path, image_size: int | None) -> Source:
    """Return the pictures ``name/{train,test}/CLASS/FILE`` in a tar archive.

    Nothing is unpacked to disk. Arguments as for :func:`find_folder`.

    Raises:
        DataError: reading it, if the archive or one of its pictures is damaged.
    """
    return Source(
        name=name,
        place=str(archive.resolve()),
        image_size=image_size,
        fingerprint=fingerprint([archive]),
        read=lambda: _decoded(_unpack(name, archive), image_size, archive),
        augment=True,
    )


def _list(folder: Path) -> list[Picture]:
    try:
        found = import_torchvision().datasets.ImageFolder(folder)
    except OSError as error:
        raise DataError("load_data", str(error), "put pictures there, or remove it") from error
    return [Picture(path, found.classes[k], Path(path).read_bytes) for path, k in found.samples]


def _unpack(name: str, archive: Path) -> Halves:
    halves: dict[str, list[Picture]] = {"train": [], "test": []}
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                file = tar.extractfile(member) if member.isfile() else None
                match PurePosixPath(member.name).parts:
                    case (top, half, label, _) if top == name and half in halves and file:
                        picture = Picture(f"{archive}: {member.name}", label, _kept(file.read()))
                        halves[half].append(picture)
    except (OSError, EOFError, tarfile.TarError, LZMAError) as error:
        raise DataError(
            "load_data", f"{archive} is damaged: {error}", "get the archive anew"
        ) from error
    for pictures in halves.values():
        pictures.sort(key=lambda p: p.name)
    return halves["train"], halves["test"]


def _kept(data: bytes) -> Callable[[], bytes]:
    return lambda: data


def _decoded(halves: Halves, image_size: int | None, where: Path) -> Decoded:
    train, test = halves
    if not train or not test:
        raise DataError(
            "load_data",
            f"{where} holds {len(train)} training and {len(test)} test pictures",
            "put some into both",
        )
    names = sorted({picture.label for picture in train})
    unknown = sorted({picture.label for picture in test} - set(names))
    if unknown:
        raise DataError(
            "load_data",
            f"{where} has test pictures of {', '.join(unknown)}, but no training pictures",
            "use the same class folders in both halves",
        )
    width, height = (image_size, image_size) if image_size else _open(train[0]).size
    code = {label: k for k, label in enumerate(names)}
    train_part, test_part = (
        Part(_labels(half, code), _chunks(half, (width, height))) for half in halves
    )
    return Decoded(tuple(names), (3, height, width), train_part, test_part)


def _labels(pictures: Sequence[Picture], code: dict[str, int]) -> Labels:
    return np.array([code[picture.label] for picture in pictures], dtype=np.int64)


def _chunks(pictures: Sequence[Picture], size: tuple[int, int]) -> Iterator[Pixels]:
    with ThreadPoolExecutor() as pool:  # Pillow decodes outside the interpreter's lock
        for start in range(0, len(pictures), CHUNK):
            chunk = pictures[start : start + CHUNK]
            yield np.stack(list(pool.map(lambda picture: _pixels(picture, size), chunk)))


def _pixels(picture: Picture, size: tuple[int, int]) -> Pixels:
    """Return a picture as (3, H, W) uint8, scaled and cropped around its middle to the size."""
    from PIL import Image, ImageOps

    image = _open(picture)
    if image.size != size:
        image = ImageOps.fit(image, size, Image.Resampling.BILINEAR)
    return np.asarray(image).transpose(2, 0, 1)


def _open(picture: Picture) -> Any:
    """Return a picture decoded to RGB."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(picture.read())) as image:
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"its pixels have more than 8 bits (mode {image.mode})")
            return image.convert("RGB")
    except Exception as error:  # on damaged bytes, Pillow's decoders raise all kinds
        raise DataError(
            "load_data",
            f"{picture.name} is not a readable picture: {error}",
            "replace the file or delete it",
        ) from error
