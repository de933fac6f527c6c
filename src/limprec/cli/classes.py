"""Where the number of classes comes from: counts in a file or a data set, or a model."""

from __future__ import annotations

import json
import re
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DataError, GuidelineError, LimprecError

if TYPE_CHECKING:
    from torch import nn


def counts_of(name: str, data_dir: Path | None) -> tuple[int, ...]:
    """Return how often each class occurs.

    Args:
        name: a file with one whole number a class (between spaces, commas or lines, or a JSON
            list), or a data set of ``lab.data``.
        data_dir: folder of the data sets.

    Raises:
        GuidelineError: for a file that holds something else, or a name that is neither.
        DataError: for a data set that is damaged or not there.
    """
    path = Path(name)
    if path.is_file():
        return _read(path)
    from ..lab.data import DATASETS, load_data

    if name.partition(":")[0] not in {known.partition(":")[0] for known in DATASETS}:
        sets = ", ".join(DATASETS)
        raise GuidelineError("counts", f"{name} is no file and no data set", f"give one: {sets}")
    return load_data(name, data_dir=data_dir).class_counts()


def _read(path: Path) -> tuple[int, ...]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise DataError("counts", f"{path} is no text file", "give one number a class") from None
    words = [w for w in re.split(r"[\s,]+", text.strip().removeprefix("[").removesuffix("]")) if w]
    for word in words:
        if not re.fullmatch(r"[0-9]{1,18}", word):
            raise GuidelineError(
                "counts", f"{path}: {word[:40]!r} is no count", "give a whole number for each class"
            )
    if not words:
        raise GuidelineError("counts", f"{path} is empty", "give a whole number for each class")
    return tuple(json.loads(word.lstrip("0") or "0") for word in words)


def last_layer_of(name: str) -> tuple[nn.Module, int]:
    """Return a model, without memory for its parameters, and the outputs of its last layer.

    Args:
        name: ``MODULE:NAME``, something to call without arguments that returns a module.

    Raises:
        GuidelineError: if there is no such thing, or it has no layer that a plan speaks of.
    """
    place, colon, attribute = name.partition(":")
    if not colon or not place or not attribute:
        raise GuidelineError(
            "model", f"{name!r} names no model", "write MODULE:NAME, e.g. torchvision.models:vgg11"
        )
    import torch
    from torch import nn

    from ..integrations.torchvision import import_torchvision
    from ..plan import classifier_of, outputs_of

    if place.partition(".")[0] == "torchvision":
        import_torchvision()
    try:
        make = getattr(import_module(place), attribute)
        with torch.device("meta"):
            model = make()
    except LimprecError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        remedy = "name something that builds a model when called without arguments"
        raise GuidelineError("model", f"cannot build {name}: {reason}", remedy) from error
    last = classifier_of(model) if isinstance(model, nn.Module) else None
    if last is None:
        raise GuidelineError(
            "model", f"{name} has no linear or convolution layer", "give --classes instead"
        )
    return model, outputs_of(model.get_submodule(last))
