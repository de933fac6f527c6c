"""Every name of the table, in every layout, and what is said when data are missing or damaged."""

import gzip
from collections import Counter
from pathlib import Path

import data_builders as build
import numpy as np
import pytest

from limprec.errors import DataError
from limprec.integrations.torchvision import import_torchvision
from limprec.lab.data import DATASETS, load_data


def test_digits_are_the_ones_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    data = load_data("digits", image_size=8)
    digits = load_digits()
    originals = np.rint(digits.images * 255 / 16).astype(np.uint8)
    ours = np.concatenate([data.train.images, data.test.images])[:, 0]
    assert Counter(map(bytes, ours)) == Counter(map(bytes, originals))
    labels = dict(zip(map(bytes, originals), digits.target, strict=True))
    for split in (data.train, data.test):
        assert [labels[bytes(i)] for i in split.images] == split.labels.tolist()


def test_digits_are_upscaled_and_split_evenly() -> None:
    data = load_data("digits")
    assert (data.name, data.kind, data.num_classes) == ("digits", "image", 10)
    assert data.input_shape == (1, 32, 32) == data.train.images.shape[1:]
    assert (len(data.train), len(data.test)) == (1437, 360)
    assert data.train.images.dtype == np.uint8
    assert data.train.images.max() == 255
    assert data.class_names == tuple("0123456789")
    assert data.class_counts() == tuple(np.bincount(data.train.labels))
    tests = np.bincount(data.test.labels)
    np.testing.assert_allclose(tests / 360, np.array(data.class_counts()) / 1437, atol=0.002)
    coarse = load_data("digits", image_size=8).train.images.astype(float)
    pooled = data.train.images.reshape(-1, 1, 8, 4, 8, 4).mean((3, 5))
    assert np.corrcoef(coarse.ravel(), pooled.ravel())[0, 1] > 0.97
    assert not data.augment


@pytest.mark.parametrize(
    ("folder", "packed"),
    [("mnist", True), ("mnist", False), ("MNIST/raw", True), ("MNIST/raw", False)],
)
def test_mnist_layouts(tmp_path: Path, folder: str, packed: bool) -> None:
    arrays = build.idx_arrays()
    build.write_idx(tmp_path / folder, arrays, packed=packed)
    data = load_data("mnist", data_dir=tmp_path)
    assert (data.input_shape, data.num_classes, data.augment) == ((1, 28, 28), 10, False)
    np.testing.assert_array_equal(data.train.images[:, 0], arrays["train-images-idx3-ubyte"])
    np.testing.assert_array_equal(data.test.images[:, 0], arrays["t10k-images-idx3-ubyte"])
    np.testing.assert_array_equal(data.train.labels, arrays["train-labels-idx1-ubyte"])
    np.testing.assert_array_equal(data.test.labels, arrays["t10k-labels-idx1-ubyte"])
    assert data.class_counts() == (2,) * 10


@pytest.mark.parametrize("folder", ["fashion-mnist", "FashionMNIST/raw"])
def test_fashion_mnist_is_not_taken_for_mnist(tmp_path: Path, folder: str) -> None:
    build.write_idx(tmp_path / folder, build.idx_arrays(), packed=True)
    assert load_data("fashion-mnist", data_dir=tmp_path).class_names[0] == "T-shirt/top"
    with pytest.raises(DataError, match="mnist is not in"):
        load_data("mnist", data_dir=tmp_path)


def test_known_sets_take_an_image_size(tmp_path: Path) -> None:
    arrays = build.idx_arrays()
    arrays["train-images-idx3-ubyte"][:] = 200
    build.write_idx(tmp_path / "mnist", arrays, packed=True)
    data = load_data("mnist", data_dir=tmp_path, image_size=14)
    assert data.input_shape == (1, 14, 14) == data.test.images.shape[1:]
    assert (data.train.images == 200).all()


def test_environment_names_the_data_and_an_argument_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build.write_idx(tmp_path / "a" / "mnist", build.idx_arrays(train=20), packed=True)
    build.write_idx(tmp_path / "b" / "mnist", build.idx_arrays(train=30), packed=True)
    monkeypatch.setenv("LIMPREC_DATA", str(tmp_path / "a"))
    assert len(load_data("mnist").train) == 20
    assert len(load_data("mnist", data_dir=tmp_path / "b").train) == 30


@pytest.mark.parametrize("kind", ["CIFAR10", "CIFAR100"])
@pytest.mark.parametrize("packed", [False, True])
def test_cifar_as_torchvision_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, packed: bool
) -> None:
    files, images = build.cifar_files(monkeypatch, kind)
    if packed:
        build.write_tar(tmp_path / f"cifar-{kind[5:]}-python.tar.gz", files, "w:gz")
    else:
        build.write_files(tmp_path, files)
    data = load_data(kind.lower(), data_dir=tmp_path)
    assert (data.input_shape, data.num_classes, data.augment) == ((3, 32, 32), int(kind[5:]), True)
    np.testing.assert_array_equal(data.train.images, images["train"])
    np.testing.assert_array_equal(data.test.images, images["test"])
    assert data.test.labels.tolist() == [0, 1, 2, 3, 4, data.num_classes - 1]
    assert data.class_names[-1] == f"class {data.num_classes - 1}"


@pytest.mark.parametrize("packed", [False, True])
def test_cifar_damaged(tmp_path: Path, packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    files, _ = build.cifar_files(monkeypatch, "CIFAR10")
    if packed:
        path = build.write_tar(tmp_path / "cifar-10-python.tar.gz", files, "w:gz")
    else:
        build.write_files(tmp_path, files)
        path = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"cifar-10-.* is damaged: .*; delete it"):
        load_data("cifar10", data_dir=tmp_path)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("layout", ["archive", "folder"])
def test_cifar_as_pictures(tmp_path: Path, name: str, layout: str) -> None:
    files = build.picture_files(kind="jpeg")
    if layout == "archive":
        backwards = {f"{name}/{k}": files[k] for k in sorted(files, reverse=True)}
        build.write_tar(tmp_path / f"{name}.tar.xz", backwards)
    else:
        build.write_files(tmp_path / name, files)
    data = load_data(name, data_dir=tmp_path)
    assert data.class_names == ("ant", "bee", "cat")
    assert data.train.labels.tolist() == sorted([0, 1, 2] * 4)
    assert data.augment
    for half, split in (("train", data.train), ("test", data.test)):
        want = [build.color_of(half, c, n) for c in data.class_names for n in range(4)]
        assert np.abs(split.images[:, :, 4, 4].astype(int) - want).max() < 12  # JPEG


def test_archive_unpacks_nothing_and_ignores_strangers(tmp_path: Path) -> None:
    files = {f"cifar10/{k}": v for k, v in build.picture_files().items()}
    strangers = ["../evil.png", "/tmp/evil.png", "cifar10/train/../../evil.png", "cifar10/README"]
    files |= dict.fromkeys(strangers, b"evil")
    files |= dict.fromkeys(["cifar10/other/ant/0.png", "other/train/ant/0.png"], b"evil")
    place = tmp_path / "deep" / "data"
    build.write_tar(place / "cifar10.tar.xz", files)
    assert len(load_data("cifar10", data_dir=place).train) == 12
    assert not list(tmp_path.rglob("evil*"))
    assert not Path("/tmp/evil.png").exists()


@pytest.mark.parametrize("damage", ["cut", "noise", "empty"])
def test_archive_damaged(tmp_path: Path, damage: str) -> None:
    files = {f"cifar10/{k}": v for k, v in build.picture_files().items()}
    path = build.write_tar(tmp_path / "cifar10.tar.xz", files if damage != "empty" else {})
    data = path.read_bytes()
    if damage != "empty":
        path.write_bytes(data[: len(data) // 2] if damage == "cut" else b"noise" * 100)
    with pytest.raises(DataError, match=r"cifar10\.tar\.xz (is damaged|holds 0 training)"):
        load_data("cifar10", data_dir=tmp_path)


@pytest.mark.parametrize("damage", ["cut", "noise", "count", "label", "type"])
def test_idx_damaged(tmp_path: Path, damage: str, cache: Path) -> None:
    arrays = build.idx_arrays()
    if damage == "count":
        arrays["train-labels-idx1-ubyte"] = arrays["train-labels-idx1-ubyte"][:-1]
    if damage == "label":
        arrays["t10k-labels-idx1-ubyte"][3] = 17
    if damage == "type":
        arrays["train-images-idx3-ubyte"] = arrays["train-images-idx3-ubyte"][0]
    build.write_idx(tmp_path / "mnist", arrays, packed=True)
    path = tmp_path / "mnist" / "train-images-idx3-ubyte.gz"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-1000])
    if damage == "noise":
        path.write_bytes(gzip.compress(b"\0\0\x08\x03 too short"))
    wanted = {
        "count": "20 images for 19 labels",
        "label": "test set of .* has labels from 0 to 17 for 10 classes",
    }.get(damage, r"train-images-idx3-ubyte\.gz is damaged")
    with pytest.raises(DataError, match=wanted):
        load_data("mnist", data_dir=tmp_path)
    assert not [p for p in cache.iterdir() if p.is_dir()]


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10", "cifar100"])
def test_missing_without_internet(tmp_path: Path, name: str) -> None:
    place = tmp_path / "data"
    with pytest.raises(DataError) as caught:
        load_data(name, data_dir=place)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"load_data: {name} is not in {place} (looked for ")
    assert "no route to host" in message
    assert message.endswith("with --data-dir or LIMPREC_DATA")
    assert list(place.iterdir()) == []  # nothing half downloaded


def test_default_place_is_in_the_cache(cache: Path) -> None:
    with pytest.raises(DataError, match=f"mnist is not in {cache}/data "):
        load_data("mnist")


def test_download_appears_when_complete_and_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = import_torchvision().datasets.MNIST
    calls, fail = [], True

    def download(self: object) -> None:
        calls.append(Path(self.root))
        (calls[-1] / "archive.tar.gz").write_bytes(b"unpacked already")
        build.write_idx(Path(self.raw_folder), build.idx_arrays(), packed=False)
        if fail:
            raise TimeoutError("timed out")

    monkeypatch.setattr(reader, "download", download)
    with pytest.raises(DataError, match="could not be downloaded: timed out"):
        load_data("mnist", data_dir=tmp_path)
    assert not list(tmp_path.rglob("*ubyte"))
    fail = False
    for _ in range(2):
        assert len(load_data("mnist", data_dir=tmp_path).train) == 20
    assert [stage.parent for stage in calls] == [tmp_path] * 2  # a rename away
    assert not (tmp_path / "archive.tar.gz").exists()
    assert len(list((tmp_path / "MNIST" / "raw").iterdir())) == 4
    assert not list(tmp_path.glob(".download*"))


@pytest.mark.parametrize(
    "name", ["cifar", "MNIST", "", "mnist:there", "imagefolder", "imagefolder:", "text", "text:"]
)
def test_unknown_name(name: str) -> None:
    with pytest.raises(DataError) as caught:
        load_data(name)
    assert repr(name) in str(caught.value)
    assert all(known in str(caught.value) for known in DATASETS)


def test_table() -> None:
    assert set(DATASETS) == {
        "digits",
        "mnist",
        "fashion-mnist",
        "cifar10",
        "cifar100",
        "imagefolder:DIR",
        "text:FILE",
    }
    assert all("\n" not in about and len(about) > 20 for about in DATASETS.values())


@pytest.mark.parametrize("option", ["image_size", "context"])
def test_numbers_out_of_range(option: str) -> None:
    with pytest.raises(DataError, match=f"{option} is 0; give 1 or more"):
        load_data("digits", **{option: 0})
