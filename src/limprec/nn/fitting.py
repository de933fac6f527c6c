"""Which layers a way of computing can take, told before training starts."""

from __future__ import annotations

import torch
from torch import nn

from ..errors import ConversionError, LimprecError
from ..kernels.carrier import STORAGE_FORMATS, check_carrier, holds, is_identity
from ..kernels.matmul.operands import why_not_real
from ..plan import TENSOR_ROLES, Group, LayerPlan
from .state import Compute

_OPERANDS = ("weight", "activation", "error")


def check_way(way: Compute, plan: LayerPlan, *, is_last: bool) -> None:
    """Refuse a layer with a format that the way of computing cannot multiply.

    A layer in fp32 stays in the carrier, and so does a last layer whose error was widened beyond
    what the way can do.

    Raises:
        ConversionError: with layer, role and remedy.
    """
    if plan.kind.group is not Group.PRODUCT:
        return
    if way is not Compute.EXACT and plan.accumulator is not None:
        raise ConversionError(
            "convert",
            f"accumulator {plan.accumulator} of layer {plan.name!r} with compute={str(way)!r}",
            "use compute='exact', which simulates it, or leave the accumulator out",
        )
    check_accumulator(plan)
    if is_last or is_carrier(plan) or fits(way, plan):
        return
    for role in _OPERANDS:
        if role in plan.kind.roles and (why := misfit(way, plan, role)):
            raise ConversionError(
                "convert",
                f"{role} {plan[role]} of layer {plan.name!r} with compute={str(way)!r}: {why}",
                "use compute='exact', or fp32 for all roles of the layer",
            )


def check_dtype(module: nn.Module, plan: LayerPlan) -> None:
    """Refuse a layer with a format that the dtype of its parameters does not hold.

    Raises:
        FormatError: with layer, role and remedy.
    """
    for parameter in module.parameters(recurse=False):
        if parameter.is_floating_point():
            for role in (r for r in TENSOR_ROLES if r in plan.kind.roles):
                if not is_identity(plan[role].format, parameter.dtype):
                    operation = f"convert: {role} of layer {plan.name!r}"
                    check_carrier(plan[role].format, parameter.dtype, operation)
            if plan.accumulator is not None:
                operation = f"convert: accumulator of layer {plan.name!r}"
                check_carrier(plan.accumulator.precision.format, parameter.dtype, operation)
            return


def check_accumulator(plan: LayerPlan) -> None:
    """Refuse an accumulator that cannot be simulated.

    Raises:
        ConversionError: with the layer, the accumulator and why.
    """
    if plan.accumulator is None:
        return
    try:
        one = torch.ones(1, 1, dtype=torch.float64)  # the carrier is judged where it is known
        plan.accumulator.multiply(one, one, seed=0)
    except LimprecError as error:
        raise ConversionError(
            "convert",
            f"accumulator {plan.accumulator} of layer {plan.name!r}: {error.problem}",
            error.remedy,
        ) from None


def is_carrier(plan: LayerPlan) -> bool:
    """Whether no operand of a layer is rounded."""
    return all(is_identity(plan[role].format, torch.float32) for role in TENSOR_ROLES)


def can(way: Compute, plan: LayerPlan) -> bool:
    """Whether a layer's products are computed in this way."""
    if plan.kind.group is not Group.PRODUCT or is_carrier(plan):
        return False
    return not any(misfit(way, plan, role) for role in _OPERANDS if role in plan.kind.roles)


def fits(way: Compute, plan: LayerPlan) -> bool:
    """Whether there is a machine that computes a layer's products in this way."""
    return can(way, plan) or (way is Compute.FAST and can(Compute.REAL, plan))


def misfit(way: Compute, plan: LayerPlan, role: str) -> str | None:
    """Return why a role's format cannot be multiplied in a way, None if it can."""
    fmt = plan[role].format
    if way is Compute.REAL:
        return why_not_real(plan[role])
    if way is Compute.FAST and not holds(fmt, STORAGE_FORMATS[torch.bfloat16]):
        return "bfloat16 does not hold its values exactly"
    return None
