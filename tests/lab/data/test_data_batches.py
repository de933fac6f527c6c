"""Batches: a function of (seed, epoch), each row once, and augmentation that really varies."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from limprec.errors import DataError
from limprec.lab.data import Batches, ImageBatches, ImageSplit, TextBatches, TextSplit, load_data
from limprec.lab.data.batches import crop_and_flip

MEAN, STD = (0.25, 0.5, 0.75), (0.1, 0.2, 0.4)


@pytest.fixture
def images() -> ImageSplit:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 3, 9, 12), dtype=np.uint8)
    return ImageSplit(pixels, np.arange(50) % 7, MEAN, STD)


@pytest.fixture
def tokens() -> TextSplit:
    return TextSplit(np.arange(1000, dtype=np.int32), 10)


def both(batches: Batches) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = zip(*batches, strict=True)
    return torch.cat(x), torch.cat(y)


def same(a: Batches, b: Batches) -> bool:
    return all(torch.equal(s, t) for s, t in zip(both(a), both(b), strict=True))


def test_images_in_order_are_normalised(images: ImageSplit) -> None:
    batches = ImageBatches(images, 16)
    assert len(batches) == 4
    assert [len(y) for _, y in batches] == [16, 16, 16, 2]
    x, y = both(batches)
    assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
    want = images.images / 255 - np.array(MEAN)[:, None, None]
    np.testing.assert_allclose(x, want / np.array(STD)[:, None, None], atol=1e-5)
    np.testing.assert_array_equal(y, images.labels)


def test_normalised_training_set_has_mean_0_and_deviation_1() -> None:
    data = load_data("digits")
    x, _ = both(ImageBatches(data.train, 500))
    assert abs(float(x.mean())) < 1e-5
    assert float(x.std(correction=0)) == pytest.approx(1, abs=1e-5)


def test_shuffled_epoch_shows_each_image_once_with_its_label(images: ImageSplit) -> None:
    shown = ImageBatches(images, 16, shuffle=True, seed=3)
    x, y = both(shown)
    plain, labels = both(ImageBatches(images, 50))
    where = {row.numpy().tobytes(): k for k, row in enumerate(plain)}
    order = [where[row.numpy().tobytes()] for row in x]
    assert sorted(order) == list(range(50))
    assert order != list(range(50))
    torch.testing.assert_close(y, labels[order])


def test_drop_last(images: ImageSplit) -> None:
    batches = ImageBatches(images, 16, shuffle=True, drop_last=True)
    assert len(batches) == 3
    assert [len(y) for _, y in batches] == [16, 16, 16]
    assert len(ImageBatches(images, 25, drop_last=True)) == 2


@pytest.mark.parametrize("kind", [ImageBatches, TextBatches])
def test_function_of_seed_and_epoch(
    kind: type[Batches], images: ImageSplit, tokens: TextSplit
) -> None:
    split = images if kind is ImageBatches else tokens

    def batches(seed: int, epoch: int) -> Batches:
        made = kind(split, 8, shuffle=True, augment=True, seed=seed, drop_last=True)
        made.set_epoch(epoch)
        return made

    again = batches(1, 2)
    assert same(again, again)  # iterate as often as you like
    assert same(again, batches(1, 2))
    assert not same(again, batches(1, 3))
    assert not same(again, batches(2, 2))
    assert not same(batches(1, 2), batches(2, 1))
    np.random.seed(0)  # neither global generator has a say
    torch.manual_seed(0)
    assert same(again, batches(1, 2))
    again.set_epoch(3)
    assert same(again, batches(1, 3))


def test_augmented_images_are_windows_of_the_padded_ones(images: ImageSplit) -> None:
    out = crop_and_flip(images.images, np.random.default_rng(0))
    assert out.shape == images.images.shape
    assert out.dtype == np.uint8
    padded = np.pad(images.images, ((0, 0), (0, 0), (4, 4), (4, 4)))
    moves = set()
    for image, wide in zip(out, padded, strict=True):
        found = [
            (top, left, mirror)
            for top in range(9)
            for left in range(9)
            for mirror in (1, -1)
            if np.array_equal(image[:, :, ::mirror], wide[:, top : top + 9, left : left + 12])
        ]
        assert len(found) == 1
        moves.add(found[0])
    assert len(moves) > 30
    assert {m[2] for m in moves} == {1, -1}


def test_all_81_places_and_both_mirrors_are_about_equally_likely() -> None:
    dot = np.zeros((20_000, 1, 17, 17), dtype=np.uint8)
    dot[:, :, 8, 8:11] = (50, 100, 150)  # an arrow
    out = crop_and_flip(dot, np.random.default_rng(1))[:, 0]
    rows, columns = np.nonzero(out == 100)[1:]
    places = np.bincount(rows * 17 + columns)
    places = places[places > 0]
    mirrored = (out[np.arange(20_000), rows, columns - 1] == 150).mean()
    assert mirrored == pytest.approx(0.5, abs=0.02)
    assert rows.min() == 4
    assert rows.max() == 12
    # the arrow's middle stands off the image's, so a mirrored one lies 2 pixels to the left
    assert len(places) == 9 * 11
    assert places.min() > 20_000 / 81 / 2 * 0.7


def test_augmentation_does_not_change_the_source(images: ImageSplit) -> None:
    before = images.images.copy()
    list(ImageBatches(images, 8, augment=True))
    np.testing.assert_array_equal(images.images, before)


def test_labels_go_with_augmented_images(images: ImageSplit) -> None:
    marked = images.images.copy()
    marked[:] = (images.labels * 30 + 20)[:, None, None, None]
    split = ImageSplit(marked, images.labels, (0.0,) * 3, (1 / 255,) * 3)
    for x, y in ImageBatches(split, 8, shuffle=True, augment=True):
        torch.testing.assert_close(x.amax((1, 2, 3)), y.float() * 30 + 20, rtol=0, atol=0.01)


def test_text_in_order(tokens: TextSplit) -> None:
    batches = TextBatches(tokens, 8)
    assert len(batches) == 13
    x, y = both(batches)
    assert (x.shape, x.dtype, y.dtype) == ((99, 10), torch.int64, torch.int64)
    assert torch.equal(x.flatten(), torch.arange(990))
    assert torch.equal(y, x + 1)


def test_text_shuffled_and_moved(tokens: TextSplit) -> None:
    batches = TextBatches(tokens, 8, shuffle=True, augment=True)
    offsets = set()
    for epoch in range(30):
        batches.set_epoch(epoch)
        x, y = both(batches)
        assert torch.equal(y, x + 1)
        assert torch.equal(x - x[:, :1], torch.arange(10).expand_as(x))
        starts = x[:, 0].sort().values
        assert torch.equal(starts.diff(), torch.full((98,), 10))
        assert not torch.equal(starts, x[:, 0])
        offsets.add(int(starts[0]))
    assert len(offsets) > 6
    assert offsets <= set(range(10))


@given(st.integers(1, 20), st.integers(0, 60), st.booleans())
def test_text_rows_are_as_many_as_fit(context: int, extra: int, augment: bool) -> None:
    length = 2 * context + extra
    batches = TextBatches(TextSplit(np.arange(length), context), 1, augment=augment)
    fit = {offset: (length - 1 - offset) // context for offset in range(context)}
    assert len(batches) == (min(fit.values()) if augment else fit[0])
    for epoch in range(3):
        batches.set_epoch(epoch)
        assert int(both(batches)[1].max()) < length


def test_data_set_makes_batches() -> None:
    data = load_data("digits")
    train, test = data.train_batches(100, seed=4), data.test_batches(100)
    assert (len(train), len(test)) == (14, 4)
    assert same(train, ImageBatches(data.train, 100, shuffle=True, seed=4, drop_last=True))
    assert same(test, ImageBatches(data.test, 100))
    assert data.train_batches(100, 5).augment is False


def test_text_batches_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog. " * 40)
    data = load_data(f"text:{path}", context=16)
    train = data.train_batches(8, seed=0)
    assert (train.shuffle, train.augment, train.drop_last) == (True, True, True)
    x, y = next(iter(train))
    assert x.shape == y.shape == (8, 16)
    shown = "".join(data.class_names[k] for k in x[0])
    assert shown in path.read_text()
    assert torch.equal(x[:, 1:], y[:, :-1])
    x, _ = next(iter(data.test_batches(8)))
    assert "".join(data.class_names[k] for k in x.flatten()) == path.read_text()[1620:1748]


@pytest.mark.parametrize("size", [0, -1, 51])
def test_batch_size_out_of_range(images: ImageSplit, size: int) -> None:
    with pytest.raises(DataError, match=f"batch_size is {size}; give 1 to 50"):
        ImageBatches(images, size, drop_last=True)


def test_large_test_batches_are_fine(images: ImageSplit) -> None:
    assert len(ImageBatches(images, 51)) == 1


def test_seed_and_epoch_out_of_range(images: ImageSplit) -> None:
    with pytest.raises(DataError, match="seed is -1; give 0 or more"):
        ImageBatches(images, 8, seed=-1)
    with pytest.raises(DataError, match="epoch is -2; give 0 or more"):
        ImageBatches(images, 8).set_epoch(-2)
