"""What each module of a converted model carries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .state import LayerState, ModelState

PLACE = "_limprec"
"""The attribute that holds it."""


@dataclass(eq=False)
class Place:
    """One module of a converted model.

    Args:
        name: its dotted name in the model.
        model: shared by all modules.
        layer: what it is under the plan, None for one that the plan has no word for.
        is_root: whether it is the model that was converted.
        handles: hooks of the root.
    """

    name: str
    model: ModelState
    layer: LayerState | None
    is_root: bool
    handles: tuple[Any, ...] = ()
