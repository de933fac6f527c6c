"""Optimizers of training runs, by name: one entry in one table each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from .. import optim
from ..errors import LabError
from ..optim.base import WriteBackOptimizer
from .models import find_model


@dataclass(frozen=True)
class Entry:
    """An optimizer of the table and its usual training.

    Args:
        kind: its class in ``limprec.optim``.
        lr: the usual peak rate, None for the model's.
        weight_decay: likewise.
        momentum: the usual momentum, None where the optimizer has no such argument.
    """

    kind: str
    lr: float | None = None
    weight_decay: float | None = None
    momentum: float | None = None


OPTIMIZERS: dict[str, Entry] = {
    "sgd": Entry("SGD", momentum=0.9),
    "adam": Entry("Adam", lr=1e-3),
    "adamw": Entry("AdamW", lr=1e-3, weight_decay=0.01),
    "lion": Entry("Lion", lr=1e-4, weight_decay=0.1),
    "rmsprop": Entry("RMSprop", lr=1e-3, momentum=0.0),
    "adafactor": Entry("Adafactor", lr=1e-2),
}
"""Optimizers that take a whole model; Muon, for matrices alone, is none."""


def find_optimizer(name: str) -> Entry:
    """Return an optimizer's entry.

    Raises:
        LabError: if there is none of that name.
    """
    if name not in OPTIMIZERS:
        raise LabError(
            "optimizer", f"unknown optimizer {name!r}", "use one of " + ", ".join(OPTIMIZERS)
        )
    return OPTIMIZERS[name]


def usual(optimizer: str, model: str) -> dict[str, float]:
    """Return the usual rate, weight decay and momentum of an optimizer on a model.

    Raises:
        LabError: for an unknown name of either.
    """
    entry, network = find_optimizer(optimizer), find_model(model)
    return {
        "lr": network.lr if entry.lr is None else entry.lr,
        "weight_decay": network.weight_decay if entry.weight_decay is None else entry.weight_decay,
        "momentum": entry.momentum or 0.0,
    }


def build_optimizer(
    name: str, parameters: Iterable[nn.Parameter], momentum: float, **options: Any
) -> WriteBackOptimizer:
    """Make an optimizer of the table.

    Args:
        name: in the table.
        parameters: what it trains.
        momentum: 0 where the optimizer has no such argument.
        options: the other arguments of its class.

    Raises:
        LabError: for an unknown name, or a momentum where there is none.
        OptimizerError: as its class.
    """
    entry = find_optimizer(name)
    if entry.momentum is not None:
        options["momentum"] = momentum
    elif momentum:
        raise LabError("optimizer", f"{name} takes no momentum of {momentum}", "leave it out")
    made: WriteBackOptimizer = getattr(optim, entry.kind)(parameters, **options)
    return made
