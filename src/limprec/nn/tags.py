"""What a plan says of a parameter, kept on the parameter for the optimizer to read."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..formats import Precision

_ATTRIBUTE = "_limprec_plan"


@dataclass(frozen=True)
class ParameterPlan:
    """What a plan says of a parameter, of its gradient and of what the optimizer keeps beside."""

    parameter: Precision
    gradient: Precision
    momentum: Precision | None
    compensation: Precision | None


class Tags:
    """Notes on some parameters, which follow them through ``copy.deepcopy`` and pickling."""

    def __init__(self, pairs: Iterable[tuple[Tensor, ParameterPlan]] = ()) -> None:
        self._pairs: list[tuple[Tensor, ParameterPlan]] = []
        for parameter, plan in pairs:
            self.add(parameter, plan)

    def add(self, parameter: Tensor, plan: ParameterPlan) -> None:
        """Note a plan on a parameter."""
        self._pairs.append((parameter, plan))
        setattr(parameter, _ATTRIBUTE, plan)

    def remove(self) -> None:
        """Take the notes off."""
        for parameter, _ in self._pairs:
            if hasattr(parameter, _ATTRIBUTE):
                delattr(parameter, _ATTRIBUTE)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tags:
        """Note the same on the copies, which drop what their originals carry."""
        return Tags([(copy.deepcopy(parameter, memo), plan) for parameter, plan in self._pairs])

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the pairs; they are noted again."""
        return Tags, (self._pairs,)


def plan_of(parameter: Tensor) -> ParameterPlan | None:
    """Return the note, or None for a parameter of no converted layer."""
    return getattr(parameter, _ATTRIBUTE, None)
