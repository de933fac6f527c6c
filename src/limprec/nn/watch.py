"""Looking on while converted layers round: off by default, and then without cost.

This is the one place where a diagnosis looks into the layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from ..formats import Precision

if TYPE_CHECKING:
    from .layers import LayerState


@dataclass(frozen=True)
class RoundingEvent:
    """One rounding of one tensor of a converted layer.

    Args:
        layer: the layer's dotted name in the model that is watched.
        role: ``activation``, ``weight``, ``bias``, ``error``, ``gradient`` or ``bias gradient``.
        before: the tensor as it came, without a gradient history.
        after: the tensor as the layer goes on with it; the same values where nothing is rounded.
        precision: what the plan gives the role.
    """

    layer: str
    role: str
    before: Tensor
    after: Tensor
    precision: Precision


Watcher = Callable[[RoundingEvent], None]
Teller = Callable[[str, Tensor, Tensor, Precision], None]
"""What a layer calls with role, before, after and precision."""


def watch_roundings(model: nn.Module, watcher: Watcher) -> Callable[[], None]:
    """Call ``watcher`` after each rounding of a model's converted layers; return what stops it.

    The bits of the training stay what they are. Roundings of the backward pass are seen for those
    forward passes that ran while watched; each costs the rounding a second time. A layer has one
    watcher: a second call takes the place of the first.
    """
    found = [(state, _teller(name, watcher)) for name, state in _states(model).items()]
    for state, teller in found:
        state.tell = teller

    def stop() -> None:
        for state, teller in found:
            if state.tell is teller:
                state.tell = None

    return stop


@contextmanager
def without_rounding(model: nn.Module) -> Iterator[None]:
    """Let a model's converted layers compute on what comes in, and leave its random state."""
    found = list(_states(model).values())
    steps = [state.random.step for state in found]
    for state in found:
        state.rounds = False
    try:
        yield
    finally:
        for state, step in zip(found, steps, strict=True):
            state.rounds = True
            state.random.step = step


def _teller(layer: str, watcher: Watcher) -> Teller:
    def tell(role: str, before: Tensor, after: Tensor, precision: Precision) -> None:
        watcher(RoundingEvent(layer, role, before.detach(), after.detach(), precision))

    return tell


def _states(model: nn.Module) -> dict[str, LayerState]:
    layers = ((name, m) for name, m in model.named_modules() if hasattr(m, "_limprec"))
    return {name: layer._limprec for name, layer in layers}
