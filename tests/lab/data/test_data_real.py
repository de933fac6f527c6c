"""The real data, where they are."""

from pathlib import Path

from limprec.lab.data import load_data


def test_mnist(shared_data: Path) -> None:
    data = load_data("mnist", data_dir=shared_data)
    assert (len(data.train), len(data.test)) == (60_000, 10_000)
    assert [round(v, 4) for v in (*data.train.mean, *data.train.std)] == [0.1307, 0.3081]
    assert data.train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert data.class_counts()[:3] == (5923, 6742, 5958)
    x, y = next(iter(data.train_batches(128, seed=0)))
    assert x.shape == (128, 1, 28, 28)
    assert y.shape == (128,)


def test_tiny_shakespeare(shared_data: Path) -> None:
    data = load_data("text:tinyshakespeare/input.txt", data_dir=shared_data)
    assert data.num_classes == 65
    assert len(data.train) + len(data.test) == 1_115_394
