"""Pictures of the user: layouts, sizes, damage."""

import io
from pathlib import Path

import data_builders as build
import numpy as np
import pytest
from PIL import Image

from limprec.errors import DataError
from limprec.lab.data import load_data


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


@pytest.mark.parametrize("test", ["test", "val"])
def test_folder(tmp_path: Path, test: str) -> None:
    build.write_files(tmp_path, build.picture_files(halves=("train", test)))
    data = load_data(f"imagefolder:{tmp_path}")
    assert data.name == f"imagefolder:{tmp_path}"
    assert (data.kind, data.input_shape, data.num_classes) == ("image", (3, 8, 8), 3)
    assert data.class_names == ("ant", "bee", "cat")
    assert data.class_counts() == (4, 4, 4)
    assert data.augment
    for half, split in (("train", data.train), (test, data.test)):
        want = [build.color_of(half, c, n) for c in data.class_names for n in range(4)]
        assert (split.images == np.array(want, dtype=np.uint8)[:, :, None, None]).all()


def test_test_goes_before_val(tmp_path: Path) -> None:
    build.write_files(tmp_path, build.picture_files(halves=("train", "val"), count=2))
    build.write_files(tmp_path, build.picture_files(halves=("test",), count=3))
    assert len(load_data(f"imagefolder:{tmp_path}").test) == 9


def test_folder_may_lie_in_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build.write_files(tmp_path / "data" / "insects", build.picture_files())
    monkeypatch.chdir(tmp_path)
    assert len(load_data("imagefolder:insects", data_dir="data").train) == 12
    build.write_files(tmp_path / "insects", build.picture_files(count=2))
    assert len(load_data("imagefolder:insects", data_dir="data").train) == 6


def test_classes_keep_their_numbers_where_the_test_set_lacks_one(tmp_path: Path) -> None:
    build.write_files(tmp_path, build.picture_files(halves=("train",)))
    build.write_files(tmp_path, build.picture_files(("cat",), halves=("test",)))
    assert load_data(f"imagefolder:{tmp_path}").test.labels.tolist() == [2] * 4


def test_pictures_are_scaled_and_cropped_around_their_middle(tmp_path: Path) -> None:
    files = build.picture_files(count=1)
    wide = np.zeros((10, 30, 3), dtype=np.uint8)
    wide[:, :10, 0] = wide[:, 10:20, 1] = wide[:, 20:, 2] = 255
    files["train/bee/0.png"] = png(wide)
    files["train/cat/0.png"] = png(wide.transpose(1, 0, 2))
    files["test/ant/0.png"] = png(np.full((6, 4), 77, dtype=np.uint8))  # grey
    build.write_files(tmp_path, files)
    data = load_data(f"imagefolder:{tmp_path}")
    assert data.input_shape == (3, 8, 8)  # of the first picture
    green = np.array([0, 255, 0])[:, None, None]
    assert (data.train.images[1:, :, 1:-1, 1:-1] == green).all()  # neighbours touch the rim
    assert (data.test.images[0] == 77).all()
    bigger = load_data(f"imagefolder:{tmp_path}", image_size=20)
    assert bigger.input_shape == (3, 20, 20)
    assert (bigger.train.images[1:, :, 2:-2, 2:-2] == green).all()


def test_first_picture_need_not_be_square(tmp_path: Path) -> None:
    files = build.picture_files()
    files["train/ant/0.png"] = png(np.zeros((6, 12, 3), dtype=np.uint8))
    build.write_files(tmp_path, files)
    assert load_data(f"imagefolder:{tmp_path}").input_shape == (3, 6, 12)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"not a picture", "cannot identify"),
        (build.picture((1, 2, 3), (64, 64), "jpeg")[:-60], "truncated"),
        (b"", "cannot identify"),
        (png(np.full((8, 8), 40000, dtype=np.uint16)), "more than 8 bits"),
    ],
)
@pytest.mark.parametrize("place", ["train/ant/0.png", "test/cat/3.png"])
def test_damaged_picture(tmp_path: Path, cache: Path, data: bytes, why: str, place: str) -> None:
    build.write_files(tmp_path, build.picture_files() | {place: data})
    with pytest.raises(DataError, match=rf"{place} is not a readable picture: .*{why}"):
        load_data(f"imagefolder:{tmp_path}")
    assert not [p for p in cache.iterdir() if p.is_dir()]
    build.write_files(tmp_path, {place: build.picture((0, 0, 0))})
    assert len(load_data(f"imagefolder:{tmp_path}").train) == 12


@pytest.mark.parametrize("halves", [(), ("train",), ("test",)])
def test_missing_halves(tmp_path: Path, halves: tuple[str, ...]) -> None:
    build.write_files(tmp_path, build.picture_files(halves=halves))
    with pytest.raises(DataError, match=f"{tmp_path} is not a folder with train/CLASS"):
        load_data(f"imagefolder:{tmp_path}")


def test_class_without_training_pictures(tmp_path: Path) -> None:
    build.write_files(tmp_path, build.picture_files(("ant", "bee"), halves=("train",)))
    build.write_files(tmp_path, build.picture_files(("ant", "wasp"), halves=("test",)))
    with pytest.raises(DataError, match="test pictures of wasp, but no training pictures"):
        load_data(f"imagefolder:{tmp_path}")


def test_empty_class(tmp_path: Path) -> None:
    build.write_files(tmp_path, build.picture_files())
    (tmp_path / "train" / "dog").mkdir()
    with pytest.raises(DataError, match="no valid file for the classes dog"):
        load_data(f"imagefolder:{tmp_path}")


def test_one_class_cannot_be_told_apart(tmp_path: Path) -> None:
    build.write_files(tmp_path, build.picture_files(("ant",)))
    with pytest.raises(DataError, match="has one class only"):
        load_data(f"imagefolder:{tmp_path}")
