"""Text by characters."""

from pathlib import Path

import numpy as np
import pytest

from limprec.errors import DataError
from limprec.lab.data import load_data


def test_text(tmp_path: Path) -> None:
    text = "Zwölf Boxkämpfer\r\njagen 🦊 quer.\n" * 30
    path = tmp_path / "text.txt"
    path.write_bytes(text.encode())
    data = load_data(f"text:{path}", context=20)
    assert data.class_names == tuple(sorted(set(text)))
    assert (data.kind, data.num_classes) == ("text", len(set(text)))
    assert data.input_shape == (20,)
    cut = int(len(text) * 0.9)
    assert (len(data.train), len(data.test)) == (cut, len(text) - cut)
    tokens = np.concatenate([data.train.tokens, data.test.tokens])
    assert "".join(data.class_names[t] for t in tokens) == text
    assert tokens.dtype == np.int32
    counts = data.class_counts()
    assert counts[data.class_names.index("ö")] == text[:cut].count("ö")
    assert sum(counts) == cut


def test_default_context_and_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.txt").write_text("abcdefgh" * 400)
    monkeypatch.setenv("LIMPREC_DATA", str(tmp_path))
    assert load_data("text:text.txt").input_shape == (128,)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "has 0 characters, too few for blocks of 50"),
        (b"ab" * 200, "has 400 characters, too few for blocks of 50"),
        (b"ab" * 250, "has 500 characters, too few for blocks of 50"),
        (b"\xff\xfe" * 900, "is not UTF-8 text"),
        (b"a" * 900, "has one class only"),
    ],
)
def test_unfit_text(tmp_path: Path, data: bytes, why: str) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(data)
    with pytest.raises(DataError, match=why):
        load_data(f"text:{path}", context=50)


def test_shortest_text(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(b"ab" * 250 + b"c")  # 450 to train on, 51 to test: a block and its last target
    data = load_data(f"text:{path}", context=50)
    assert len(data.test_batches(1)) == 1
    assert len(data.train_batches(1, seed=0)) == 8


def test_missing_text(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*nowhere\.txt: No such file"):
        load_data(f"text:{tmp_path}/nowhere.txt")
    with pytest.raises(DataError, match="Is a directory"):
        load_data(f"text:{tmp_path}")
