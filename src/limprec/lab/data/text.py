"""Text by characters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from ...errors import DataError
from .splits import TextSplit

TRAINING_SHARE = 0.9


def read_text(path: Path, context: int) -> tuple[tuple[str, ...], TextSplit, TextSplit]:
    """Read a text as tokens, one for each character.

    Args:
        path: a UTF-8 file.
        context: tokens of a block.

    Returns:
        The vocabulary (the file's characters in the order of their code points), the first nine
        tenths of the text, for training, and the rest, for testing.

    Raises:
        DataError: if the file is not there, is not UTF-8, or is too short for the context.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise DataError(
            "load_data", f"cannot read {path}: {error.strerror}", "write text:FILE with a text file"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(
            "load_data", f"{path} is not UTF-8 text: {error}", "convert it to UTF-8"
        ) from error
    points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    occurs = np.bincount(points) > 0
    vocabulary = np.flatnonzero(occurs)
    tokens: npt.NDArray[np.int32] = (np.cumsum(occurs, dtype=np.int32) - 1)[points]
    cut = int(len(tokens) * TRAINING_SHARE)
    train, test = tokens[:cut], tokens[cut:]
    if len(train) < 2 * context or len(test) < context + 1:
        raise DataError(
            "load_data",
            f"{path} has {len(tokens)} characters, too few for blocks of {context}",
            "give a longer text or a smaller context",
        )
    characters = tuple(chr(point) for point in vocabulary.tolist())
    return characters, TextSplit(train, context), TextSplit(test, context)
