"""Rounding to formats with shared scales: split into elements and scales, and join them again."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import KernelError
from ..formats import (
    NVFP4,
    Affine,
    DynamicFixedPoint,
    DynamicFloatingPoint,
    FixedPoint,
    Microscaling,
    Rounding,
    ScaledFormat,
)
from . import groups
from .carrier import exponents_within
from .elements import in_steps, power_of_two, round_elements, round_to_integers, scale

MX_NAN = 128
"""The exponent that stands for a NaN scale of e8m0."""


class Parts(NamedTuple):
    """A rounded tensor as hardware stores it."""

    elements: Tensor
    """Values of the format's ``element``, in the shape of the tensor; NaN where it has no scale."""
    scales: tuple[Tensor, ...]
    """One entry a group (see ``groups``). Dynamic fixed point: exponent of the LSB. MX and dynamic
    floating point: exponent of the scale. NVFP4: block scales and the tensor's. Affine: scale and
    zero point (``real``: lo)."""


def split(
    x: Tensor,
    fmt: ScaledFormat,
    rounding: Rounding,
    words: Tensor | None,
    amax: Tensor | float | None = None,
) -> Parts:
    """Round ``x``, any floating dtype, and return elements and scales.

    Args:
        x: the tensor.
        fmt: the format.
        rounding: how elements are rounded; scales follow their own rule.
        words: random words in the shape of ``x``, for ``stochastic``.
        amax: sets the scale instead of the largest magnitude of each group (of the tensor for
            NVFP4): one number, or one a group. What lies beyond saturates, infinities too; only
            the NaN of an element stays (under NVFP4 it takes its block).

    Raises:
        KernelError: if the tensor lacks the format's axis, ``amax`` has another shape, or the
            format's scale follows from minimum and maximum.
    """
    if isinstance(fmt, DynamicFixedPoint):
        return _dynamic(x.to(torch.float64), fmt, rounding, words, amax)
    if isinstance(fmt, DynamicFloatingPoint):
        return _floating(x, fmt, rounding, words, amax)
    if isinstance(fmt, Microscaling):
        return _microscaling(x.to(torch.float64), fmt, rounding, words, amax)
    if isinstance(fmt, NVFP4):
        return _nvfp4(x.to(torch.float32), fmt, rounding, words, amax)
    if isinstance(fmt, Affine):
        return _affine(x.to(torch.float32), fmt, rounding, words, amax)
    raise KernelError("quantize", f"no kernel for {fmt!r}", "use a format of limprec.formats")


def join(parts: Parts, fmt: ScaledFormat) -> Tensor:
    """Return the values of elements and scales, in float64."""
    elements, shape = parts.elements, parts.elements.shape
    if isinstance(fmt, DynamicFixedPoint | DynamicFloatingPoint | Microscaling):
        exponent = groups.spread(parts.scales[0], shape, fmt)
        y = scale(elements.to(torch.float64), exponent)
        return torch.where(exponent == MX_NAN, torch.nan, y) if fmt.has_nan else y
    if isinstance(fmt, NVFP4):
        block, tensor = parts.scales
        scaled = elements.to(torch.float32) * groups.spread(block, shape, fmt)
        return (scaled * tensor).to(torch.float64)
    assert isinstance(fmt, Affine)
    step, zero = (groups.spread(part, shape, fmt) for part in parts.scales)
    codes = elements.to(torch.float32)
    y = codes * step + zero if fmt.zero == "real" else (codes - zero) * step
    return (y + 0.0).to(torch.float64)  # + 0.0: integers have no negative zero


class Ends(NamedTuple):
    """Where the codes of groups under power-of-two scales end; one entry a group."""

    amax: Tensor
    """The largest magnitude, which sets the scale."""
    power: Tensor
    """The power of two above it."""
    last: Tensor
    """The largest magnitude that is not clipped, under ``power``."""


def ends(x: Tensor, fmt: ScaledFormat) -> Ends | None:
    """Return where the codes end that ``split`` would give, None where they end at ``amax``."""
    if isinstance(fmt, DynamicFixedPoint):
        share = fmt.code_max / 2 ** (fmt.bits - 1)
    elif isinstance(fmt, Microscaling):
        share = fmt.element.max / 2 ** (fmt.max_exponent + 1)
    else:
        return None
    top = groups.amax(x.to(torch.float64), fmt)
    power = power_of_two(torch.frexp(torch.where(top.isfinite(), top, 0.0)).exponent)
    return Ends(top, power, power * share)


def _dynamic(
    x: Tensor,
    fmt: DynamicFixedPoint,
    rounding: Rounding,
    words: Tensor | None,
    amax: Tensor | float | None,
) -> Parts:
    top = _amax(x, fmt, amax)
    exponent = torch.frexp(top).exponent.to(torch.int64)  # floor(log2 amax) + 1
    step = torch.where((top > 0) & top.isfinite(), exponent - fmt.bits + 1, 0)
    codes = round_to_integers(in_steps(x, groups.spread(step, x.shape, fmt)), rounding, words)
    limit = groups.spread(
        torch.where(top > 0, torch.full_like(top, fmt.code_max), 0.0), x.shape, fmt
    )
    codes = codes.clamp(-limit, limit) + 0.0
    return Parts(_where_scaled(codes, top, fmt), (step,))


def _floating(
    x: Tensor,
    fmt: DynamicFloatingPoint,
    rounding: Rounding,
    words: Tensor | None,
    amax: Tensor | float | None,
) -> Parts:
    top = _amax(x.to(torch.float64), fmt, amax)
    exponent = -dynamic_exponent(top, fmt, x.dtype)
    relative = in_steps(x.to(torch.float64), exponent)
    elements = round_elements(relative, fmt.at(0), rounding, words)
    return Parts(_where_scaled(elements, top, fmt), (exponent,))


def dynamic_exponent(top: Tensor, fmt: DynamicFloatingPoint, dtype: torch.dtype) -> Tensor:
    """Return k of dynamic floating point for float64 magnitudes, in a carrier."""
    fraction, exponent = torch.frexp(top)
    most, up = math.frexp(fmt.element.max)
    k = up - exponent.to(torch.int64) - (fraction > most).to(torch.int64)
    k = torch.where((top > 0) & top.isfinite(), k, 0)
    return k.clamp(*exponents_within(fmt, dtype))


def _microscaling(
    x: Tensor,
    fmt: Microscaling,
    rounding: Rounding,
    words: Tensor | None,
    amax: Tensor | float | None,
) -> Parts:
    top = _amax(x, fmt, amax)
    exponent = torch.frexp(top).exponent.to(torch.int64) - 1 - fmt.max_exponent
    exponent = torch.where(top > 0, exponent.clamp(-127, 127), -127)
    exponent = torch.where(top.isfinite(), exponent, MX_NAN)
    relative = in_steps(x, groups.spread(exponent, x.shape, fmt))
    elements = round_elements(relative, fmt.element, rounding, words)
    if isinstance(fmt.element, FixedPoint):
        elements = elements.clamp(min=-fmt.element.max)
    return Parts(_where_scaled(elements, top, fmt), (exponent,))


def _nvfp4(
    x: Tensor, fmt: NVFP4, rounding: Rounding, words: Tensor | None, amax: Tensor | float | None
) -> Parts:
    if amax is None:
        top = x.abs().amax() if x.numel() else x.new_zeros(())
    else:
        top = torch.as_tensor(amax, dtype=torch.float32, device=x.device)
        _check_amax(top, torch.Size(), fmt)
    tensor = top / _constant(x, fmt.element.max * fmt.scale.max)
    tensor = torch.where(top.isfinite(), tensor, torch.nan)
    ratio = groups.amax(x, fmt) / _constant(x, fmt.element.max) / tensor
    ratio = torch.where(tensor == 0, 0.0, ratio).to(torch.float64)
    block = round_elements(ratio, fmt.scale, Rounding.NEAREST, None).to(torch.float32)
    both = groups.spread(block * tensor, x.shape, fmt)
    relative = torch.where(both == 0, torch.copysign(torch.zeros_like(x), x), x / both)
    elements = round_elements(relative.to(torch.float64), fmt.element, rounding, words)
    return Parts(elements, (block, tensor))


def _affine(
    x: Tensor, fmt: Affine, rounding: Rounding, words: Tensor | None, amax: Tensor | float | None
) -> Parts:
    if fmt.zero == "none":
        low = high = _amax(x, fmt, amax)
        step = high / _constant(x, fmt.code_max)
        zero = torch.zeros_like(step)
    else:
        if amax is not None:
            problem = f"{fmt} takes its scale from minimum and maximum, not amax"
            raise KernelError("quantize", problem, f"use the symmetric int{fmt.bits}s")
        low, high = groups.reduce(x, fmt, torch.amin), groups.reduce(x, fmt, torch.amax)
        if fmt.zero == "integer":
            low, high = low.clamp(max=0.0), high.clamp(min=0.0)
        step = (high - low) / _constant(x, fmt.code_max - fmt.code_min)
        zero = low
        if fmt.zero == "integer":
            offset = torch.where(step == 0, 0.0, low / step)
            zero = torch.round(fmt.code_min - offset).clamp(fmt.code_min, fmt.code_max)
    steps = groups.spread(step, x.shape, fmt)
    zeros = groups.spread(zero, x.shape, fmt)
    from_zero = x - zeros if fmt.zero == "real" else x
    relative = torch.where(steps == 0, 0.0, from_zero / steps).to(torch.float64)
    codes = round_to_integers(relative, rounding, words)
    if fmt.zero == "integer":
        codes = codes + zeros
    codes = codes.clamp(fmt.code_min, fmt.code_max) + 0.0
    whole = torch.where(high.isfinite() & low.isfinite(), step, torch.nan)
    return Parts(_where_scaled(codes, whole, fmt), (step, zero))


def _amax(x: Tensor, fmt: ScaledFormat, given: Tensor | float | None) -> Tensor:
    """Return the largest magnitude that each group's scale follows."""
    if given is None:
        return groups.amax(x, fmt)
    shape = groups.group_shape(x.shape, fmt)
    top = torch.as_tensor(given, dtype=x.dtype, device=x.device)
    _check_amax(top, shape, fmt)
    return top.expand(shape)


def _check_amax(top: Tensor, shape: torch.Size, fmt: ScaledFormat) -> None:
    if top.shape not in (shape, torch.Size()):
        raise KernelError(
            "quantize",
            f"amax has shape {tuple(top.shape)}, the groups of {fmt} have {tuple(shape)}",
            "give one number, or one a group",
        )


def _where_scaled(elements: Tensor, top: Tensor, fmt: ScaledFormat) -> Tensor:
    """Make NaN of the elements whose group has no finite scale."""
    tops = groups.spread(top, elements.shape, fmt)
    return torch.where(tops.isfinite(), elements, torch.nan)


def _constant(x: Tensor, value: float) -> Tensor:
    """Return a constant as a tensor: GPUs multiply by the reciprocal of a plain number."""
    return torch.full((), value, dtype=x.dtype, device=x.device)
