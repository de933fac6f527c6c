"""What a plan says of a parameter, kept on the parameter for the optimizer to read."""

from __future__ import annotations

from dataclasses import dataclass

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


def tag(parameter: Tensor, plan: ParameterPlan) -> None:
    """Note the plan on the parameter; ``copy.deepcopy`` of a parameter drops the note."""
    setattr(parameter, _ATTRIBUTE, plan)


def untag(parameter: Tensor) -> None:
    """Take the note off, if there is one."""
    if hasattr(parameter, _ATTRIBUTE):
        delattr(parameter, _ATTRIBUTE)


def plan_of(parameter: Tensor) -> ParameterPlan | None:
    """Return the note, or None for a parameter of no converted layer."""
    return getattr(parameter, _ATTRIBUTE, None)
