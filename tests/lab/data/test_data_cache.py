"""The cache: built once, whole or not at all, and never believed when it should not be."""

import io
import json
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import data_builders as build
import numpy as np
import pytest

from limprec.errors import DataError
from limprec.lab.data import cache as cache_module
from limprec.lab.data import load_data, pictures, progress


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return build.write_files(tmp_path / "pictures", build.picture_files())


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collect the names of the pictures that get decoded."""
    names = []
    original = pictures._pixels

    def spy(picture: pictures.Picture, size: tuple[int, int]) -> np.ndarray:
        names.append(picture.name)
        return original(picture, size)

    monkeypatch.setattr(pictures, "_pixels", spy)
    return names


def caches(cache: Path) -> list[Path]:
    """Return what lies in the cache, without its locks."""
    return sorted(p for p in cache.iterdir() if p.is_dir())


def test_second_load_does_not_decode(folder: Path, cache: Path, decoded: list[str]) -> None:
    first = load_data(f"imagefolder:{folder}")
    assert len(decoded) == 24
    (built,) = caches(cache)
    times = {p: p.stat().st_mtime_ns for p in built.iterdir()}
    assert {p.name for p in times} == {
        "meta.json",
        *(f"{half}_{what}.npy" for half in ("train", "test") for what in ("images", "labels")),
    }
    second = load_data(f"imagefolder:{folder}")
    assert len(decoded) == 24
    assert {p: p.stat().st_mtime_ns for p in built.iterdir()} == times
    np.testing.assert_array_equal(first.train.images, second.train.images)
    assert (second.train.mean, second.train.std) == (first.train.mean, first.train.std)
    assert isinstance(second.train.images, np.memmap)


def test_meta_and_moments(folder: Path, cache: Path) -> None:
    data = load_data(f"imagefolder:{folder}")
    (built,) = caches(cache)
    meta = json.loads((built / "meta.json").read_text())
    assert meta["layout"] == cache_module.LAYOUT
    assert meta["place"] == str(folder)
    assert meta["class_names"] == ["ant", "bee", "cat"]
    assert meta["shape"] == [3, 8, 8]
    assert meta["fingerprint"]["files"] == 24
    images = data.train.images / 255
    np.testing.assert_allclose(data.train.mean, images.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(data.train.std, images.std((0, 2, 3)), rtol=1e-12)
    assert (data.test.mean, data.test.std) == (data.train.mean, data.train.std)


def test_constant_channel_has_deviation_one(tmp_path: Path) -> None:
    flat = dict.fromkeys(build.picture_files(), build.picture((9, 9, 0)))
    data = load_data(f"imagefolder:{build.write_files(tmp_path, flat)}")
    assert data.train.std == (1.0, 1.0, 1.0)
    x, _ = next(iter(data.test_batches(4)))
    assert x.abs().max() < 1e-6


@pytest.mark.parametrize("change", ["touch", "size", "new", "gone", "renamed"])
def test_changed_source_is_decoded_anew(
    folder: Path, cache: Path, decoded: list[str], change: str
) -> None:
    load_data(f"imagefolder:{folder}")
    path = folder / "train" / "ant" / "0.png"
    if change == "touch":
        os.utime(path, ns=(1, 1))
    elif change == "size":
        stat = path.stat()
        path.write_bytes(path.read_bytes() + b"\0")
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    elif change == "renamed":
        path.rename(path.with_name("8.png"))
    elif change == "new":
        (path.parent / "9.png").write_bytes(path.read_bytes())
    else:
        path.unlink()
    data = load_data(f"imagefolder:{folder}")
    assert len(decoded) == 48 + {"new": 1, "gone": -1}.get(change, 0)
    assert len(data.train) == 12 + {"new": 1, "gone": -1}.get(change, 0)
    assert len(caches(cache)) == 1  # the old one is gone


def test_sizes_and_places_have_caches_of_their_own(
    folder: Path, cache: Path, decoded: list[str]
) -> None:
    other = shutil.copytree(folder, folder.with_name("other"))
    for _ in range(2):
        load_data(f"imagefolder:{folder}")
        load_data(f"imagefolder:{other}")
        assert load_data(f"imagefolder:{folder}", image_size=4).input_shape == (3, 4, 4)
    assert len(decoded) == 72
    assert len(caches(cache)) == 3


def test_new_layout_is_built_anew(
    folder: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    load_data(f"imagefolder:{folder}")
    monkeypatch.setattr(cache_module, "LAYOUT", cache_module.LAYOUT + 1)
    load_data(f"imagefolder:{folder}")
    assert len(decoded) == 48


@pytest.mark.parametrize("file", ["meta.json", "train_images.npy", "test_labels.npy"])
@pytest.mark.parametrize("damage", ["cut", "gone", "empty"])
def test_damaged_cache_is_built_anew(
    folder: Path, cache: Path, decoded: list[str], file: str, damage: str
) -> None:
    load_data(f"imagefolder:{folder}")
    path = caches(cache)[0] / file
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: -path.stat().st_size // 2 if damage == "cut" else 0])
    assert len(load_data(f"imagefolder:{folder}").train) == 12
    assert len(decoded) == 48


def test_cache_whose_files_do_not_fit_each_other_is_built_anew(
    folder: Path, cache: Path, decoded: list[str]
) -> None:
    load_data(f"imagefolder:{folder}")
    np.save(caches(cache)[0] / "train_labels.npy", np.zeros(5, dtype=np.int64))
    assert len(load_data(f"imagefolder:{folder}").train) == 12
    assert len(decoded) == 48


@pytest.mark.parametrize("stop", [KeyboardInterrupt, MemoryError])
def test_interruption_leaves_nothing(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, stop: type[BaseException]
) -> None:
    monkeypatch.setattr(pictures, "CHUNK", 5)
    seen = []

    def interrupt(done: int, total: int) -> None:
        seen.append(done)
        if done > 10:
            assert len(list(cache.glob(".*.part/train_images.npy"))) == 1
            raise stop

    with pytest.raises(stop):
        load_data(f"imagefolder:{folder}", progress=interrupt)
    assert seen == [0, 5, 10, 12]
    assert caches(cache) == []
    assert len(load_data(f"imagefolder:{folder}").train) == 12


def test_failed_rebuild_leaves_the_old_cache_alone(folder: Path, cache: Path) -> None:
    load_data(f"imagefolder:{folder}")
    (built,) = caches(cache)
    times = {p: p.stat().st_mtime_ns for p in built.iterdir()}
    (folder / "test" / "ant" / "0.png").write_bytes(b"damaged")
    with pytest.raises(DataError, match="readable"):
        load_data(f"imagefolder:{folder}")
    assert {p: p.stat().st_mtime_ns for p in built.iterdir()} == times
    assert caches(cache) == [built]


def test_leftovers_of_a_killed_process_are_cleared(folder: Path, cache: Path) -> None:
    load_data(f"imagefolder:{folder}")
    (built,) = caches(cache)
    built.rename(cache / f".{built.name}.old")  # killed between the two renames
    (cache / f".{built.name}.part").mkdir()
    (cache / f".{built.name}.part" / "train_images.npy").write_bytes(b"half")
    assert len(load_data(f"imagefolder:{folder}").train) == 12
    assert caches(cache) == [built]


def test_two_at_once_decode_once(folder: Path, decoded: list[str]) -> None:
    start, found = threading.Barrier(2), []

    def work() -> None:
        start.wait()
        found.append(load_data(f"imagefolder:{folder}"))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(decoded) == 24
    np.testing.assert_array_equal(found[0].train.images, found[1].train.images)


def test_progress_is_reported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "CHUNK", 5)
    seen = []
    load_data(f"imagefolder:{folder}", progress=lambda done, total: seen.append((done, total)))
    assert seen == [(n, 24) for n in (0, 5, 10, 12, 17, 22, 24)]
    load_data(f"imagefolder:{folder}", progress=lambda *_: pytest.fail("nothing to decode"))


def test_full_disk(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100))
    with pytest.raises(DataError, match=r"cannot build the cache .* are free; name another place"):
        load_data(f"imagefolder:{folder}")
    assert caches(cache) == []


def test_cache_that_cannot_be_made(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"cannot build the cache .*LIMPREC_CACHE"):
        load_data(f"imagefolder:{folder}", cache_dir=tmp_path / "file")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    return


@pytest.mark.usefixtures("impatient")
def test_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress.slow_bar("decoding ants") as step:
        for _ in range(200):
            step(30, 60)
            if "50%" in terminal.getvalue():
                break
            threading.Event().wait(0.05)
    assert "decoding ants" in terminal.getvalue()
    assert "50%" in terminal.getvalue()


def test_no_bar_for_quick_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress.slow_bar("decoding ants") as step:
        step(1, 2)
    assert "ants" not in sys.stderr.getvalue()


@pytest.mark.usefixtures("impatient")
def test_no_bar_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with progress.slow_bar("decoding ants") as step:
        step(1, 2)
    assert sys.stderr.getvalue() == ""
