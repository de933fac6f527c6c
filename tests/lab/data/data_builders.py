"""Tiny data sets, written in the layouts that the product reads."""

import gzip
import hashlib
import io
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Arrays = dict[str, np.ndarray]


def idx_arrays(train: int = 20, test: int = 10, size: int = 28) -> Arrays:
    rng = np.random.default_rng(0)
    arrays = {}
    for half, count in (("train", train), ("t10k", test)):
        arrays[f"{half}-images-idx3-ubyte"] = rng.integers(0, 256, (count, size, size), np.uint8)
        arrays[f"{half}-labels-idx1-ubyte"] = np.arange(count, dtype=np.uint8) % 10
    return arrays


def write_idx(folder: Path, arrays: Arrays, *, packed: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        header = struct.pack(f">{array.ndim + 1}I", 0x0800 + array.ndim, *array.shape)
        data = header + array.tobytes()
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(data))
        else:
            (folder / name).write_bytes(data)


def picture(
    color: tuple[int, int, int], size: tuple[int, int] = (8, 8), kind: str = "png"
) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, kind)
    return buffer.getvalue()


def color_of(half: str, label: str, number: int) -> tuple[int, int, int]:
    return tuple(hashlib.sha256(f"{half}/{label}/{number}".encode()).digest()[:3])


def picture_files(
    classes: tuple[str, ...] = ("ant", "bee", "cat"),
    halves: tuple[str, ...] = ("train", "test"),
    count: int = 4,
    kind: str = "png",
) -> dict[str, bytes]:
    """Return relative path -> bytes of flat pictures, 8x8, each in its own color."""
    return {
        f"{half}/{label}/{number}.{kind}": picture(color_of(half, label, number), kind=kind)
        for half in halves
        for label in classes
        for number in range(count)
    }


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def write_tar(path: Path, files: dict[str, bytes], mode: str = "w:xz") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def cifar_files(monkeypatch: pytest.MonkeyPatch, kind: str) -> tuple[dict[str, bytes], Arrays]:
    """Return CIFAR's own files with 6 images each, and teach torchvision their checksums."""
    from limprec.integrations.torchvision import import_torchvision

    reader = getattr(import_torchvision().datasets, kind)
    rng = np.random.default_rng(1)
    files, images = {}, {"train": [], "test": []}
    key = "labels" if kind == "CIFAR10" else "fine_labels"
    classes = int(kind.removeprefix("CIFAR"))

    def packed(value: object) -> tuple[bytes, str]:
        # as NumPy of 2009 wrote it: NumPy 2.4.0 to 2.4.4 warn of such files
        data = pickle.dumps(value, protocol=2).replace(b"\x89\x88\x87", b"K\x00K\x01\x87")
        return data, hashlib.md5(data).hexdigest()

    for half in ("train", "test"):
        checked = []
        for name, _ in getattr(reader, f"{half}_list"):
            data = rng.integers(0, 256, (6, 3072), dtype=np.uint8)
            images[half].append(data.reshape(-1, 3, 32, 32))
            files[name], digest = packed({"data": data, key: [0, 1, 2, 3, 4, classes - 1]})
            checked.append([name, digest])
        monkeypatch.setattr(reader, f"{half}_list", checked)
    names = [f"class {n}" for n in range(classes)]
    files[reader.meta["filename"]], digest = packed({reader.meta["key"]: names})
    monkeypatch.setattr(reader, "meta", {**reader.meta, "md5": digest})
    files = {f"{reader.base_folder}/{name}": data for name, data in files.items()}
    return files, {half: np.concatenate(parts) for half, parts in images.items()}
