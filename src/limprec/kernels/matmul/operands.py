"""Operands of integer products: values to int8 codes and a scale, and sums of codes to values."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ...errors import KernelError
from ...formats import Affine, DynamicFixedPoint, FixedPoint, Precision
from .. import native
from ..dispatch import round_to
from ..random import Key
from ..stored import round_to_codes

_FLOAT32_SCALES = (2.0**-126, 2.0**96)
"""Powers of two by which a 31-bit integer in float32 is multiplied exactly."""


class Operand(NamedTuple):
    """A rounded tensor: ``codes`` times ``scale``."""

    codes: Tensor
    """int8, in the shape of the tensor."""
    scale: Tensor
    """float32 (float64 for a float64 tensor), no axes; NaN where the tensor has no scale."""


def why_not_real(precision: Precision) -> str | None:
    """Return why a precision has no int8 codes with one scale, None if it has."""
    fmt = precision.format
    if isinstance(fmt, DynamicFixedPoint):
        if not fmt.per_tensor:
            return f"{fmt} has more than one scale"
        return None if fmt.bits <= 8 else f"{fmt} has more than 8 bits"
    if isinstance(fmt, FixedPoint):
        fits = fmt.code_min >= -128 and fmt.code_max <= 127
        return None if fits else f"the codes of {fmt} do not fit int8"
    if isinstance(fmt, Affine):
        if fmt.zero != "none":
            return f"{fmt} has a zero point"
        if not fmt.per_tensor:
            return f"{fmt} has more than one scale"
        return None if fmt.bits <= 8 else f"{fmt} has more than 8 bits"
    return f"{fmt} is no integer times a scale"


def can_be_real(precision: Precision) -> bool:
    """Return whether integer products can take a precision: int8 codes, one scale a tensor."""
    return why_not_real(precision) is None


def check_real(precision: Precision, operation: str, role: str) -> None:
    """Refuse a precision that integer products cannot take.

    Raises:
        KernelError: with the role and the reason.
    """
    reason = why_not_real(precision)
    if reason is not None:
        raise KernelError(
            operation,
            f"{role} in {precision}: {reason}",
            "use dfx8, fx8.4, int8s or fewer bits, or another way to compute",
        )


def round_operand(x: Tensor, precision: Precision, key: Key | None) -> Operand:
    """Return the codes and the scale of ``round_to`` of the same arguments."""
    if isinstance(precision.format, Affine):
        return _affine(x.detach(), precision, precision.format, key)
    codes, scale, *_ = round_to_codes(x, precision, key)
    if codes.dtype != torch.int8:  # fixed point that met a NaN
        return Operand(torch.zeros_like(codes, dtype=torch.int8), torch.full_like(scale, torch.nan))
    return Operand(codes, scale)


def _affine(x: Tensor, precision: Precision, fmt: Affine, key: Key | None) -> Operand:
    """Return the codes of symmetric affine integers, which have no narrow storage of their own."""
    y = round_to(x, precision, key)
    top = x.abs().amax() if x.numel() else x.new_zeros(())
    scale = top.to(torch.float32) / torch.full((), fmt.code_max, device=x.device)
    scale = torch.where(top.isfinite(), scale, torch.nan)
    codes = (y.to(torch.float64) / scale).round()
    return Operand(torch.where(codes.isfinite(), codes, 0.0).to(torch.int8), scale)


def worth(a: Operand, b: Operand | None = None) -> float | Tensor:
    """Return what a unit of ``a``, or of its products with ``b``, is worth; on a GPU a tensor."""
    if a.scale.is_cpu:
        return float(a.scale) * (1.0 if b is None else float(b.scale))
    wide = a.scale.to(torch.float64)
    return wide if b is None else wide * b.scale


def to_values(
    total: Tensor, scale: float | Tensor, dtype: torch.dtype, bias: Tensor | None = None
) -> Tensor:
    """Return ``total * scale``, rounded once to float32, plus ``bias`` in float32, in ``dtype``.

    Args:
        total: sums of products of codes, int32 or int64, or float32 or float64 that hold them
            exactly; its memory may be taken for the result.
        scale: what a unit of them is worth; NaN makes all NaN.
        dtype: of the result; float64 keeps the product as it is.
        bias: one addend for each index of the last axis, or None.

    A scale that is no power of two is multiplied in float64 first: two roundings.
    """
    if dtype == torch.float64:
        wide = total.to(torch.float64) * scale
        return wide if bias is None else wide.add_(bias)
    if bias is not None:
        bias = bias.to(torch.float32)
    narrow = total.dtype == torch.int32 and isinstance(scale, float)
    if narrow and total.is_cpu and total.is_contiguous() and has_native("to_values_"):
        torch.ops.limprec.to_values_.default(
            total, scale, None if bias is None else bias.contiguous()
        )
        return total.view(torch.float32).to(dtype)
    narrow = narrow or (total.dtype == torch.float32 and isinstance(scale, float))
    if narrow and is_exact_in_float32(scale):  # type: ignore[arg-type]  # narrow: it is a float
        y = total.to(torch.float32).mul_(scale)
    else:
        y = total.to(torch.float64).mul_(scale).to(torch.float32)
    return (y if bias is None else y.add_(bias)).to(dtype)


def is_exact_in_float32(scale: float) -> bool:
    """Whether an integer of 31 bits, rounded to float32, times ``scale`` is rounded no more."""
    low, high = _FLOAT32_SCALES
    return low <= scale <= high and math.frexp(scale)[0] == 0.5


def has_native(operator: str) -> bool:
    """Whether the extension is there, and has an operator."""
    return native.missing() is None and hasattr(torch.ops.limprec, operator)
