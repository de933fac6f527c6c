"""Looking on while converted layers round: off by default, and then without cost.

This is the one place where a diagnosis looks into the layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from ..formats import Precision
from ..plan import LayerPlan
from .place import PLACE, Place


@dataclass(frozen=True)
class RoundingEvent:
    """One rounding of one tensor of a converted layer.

    A tensor that its two products round apart (block formats) is told of once: activations and
    weights as the forward product takes them, errors as the input's gradient does.

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
Teller = Callable[[str, str, Tensor, Tensor, Precision], None]
"""What a layer calls with its name, the role, before, after and precision."""


def watch_roundings(model: nn.Module, watcher: Watcher) -> Callable[[], None]:
    """Call ``watcher`` after each rounding of a model's converted layers; return what stops it.

    The bits of the training stay what they are. Roundings of the backward pass are seen for those
    forward passes that ran while watched. A converted model has one watcher: a second call takes
    the place of the first.

    Args:
        model: a converted model, a part of one, or a module around converted ones.
        watcher: what is called.
    """
    found = [
        (place.model, _teller(path, place.name, watcher)) for path, place in _places(model).items()
    ]
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
    found = [place.model for place in _places(model).values()]
    numbers = [state.random.tensor for state in found]
    for state in found:
        state.rounds = False
    try:
        yield
    finally:
        for state, number in zip(found, numbers, strict=True):
            state.rounds = True
            state.random.tensor = number


def layer_plan(module: nn.Module) -> LayerPlan | None:
    """Return what a module runs in, None if it is no converted layer."""
    place: Place | None = getattr(module, PLACE, None)
    return None if place is None or place.layer is None else place.layer.plan


def tells(module: nn.Module) -> bool:
    """Whether a module's roundings are told of: a converted layer that the plan has a word for."""
    plan = layer_plan(module)
    return plan is not None and plan.is_planned


def _teller(path: str, own: str, watcher: Watcher) -> Teller:
    """Tell of the layers of a part called ``own`` in its model and ``path`` in the watched one."""

    def tell(layer: str, role: str, before: Tensor, after: Tensor, precision: Precision) -> None:
        if layer.startswith(own):
            rest = layer.removeprefix(own).removeprefix("." if not path else "")
            name = f"{path}.{rest}" if path and not own and rest else path + rest
            watcher(RoundingEvent(name, role, before.detach(), after.detach(), precision))

    return tell


def _places(model: nn.Module) -> dict[str, Place]:
    """Return path -> place of the first module of each converted model in a module."""
    found: dict[str, Place] = {}
    seen: set[int] = set()
    for path, module in model.named_modules():
        place: Place | None = getattr(module, PLACE, None)
        if place is not None and id(place.model) not in seen:
            seen.add(id(place.model))
            found[path] = place
    return found
