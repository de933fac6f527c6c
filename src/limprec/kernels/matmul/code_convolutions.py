"""Convolutions of int8 codes as values: each sum exact, times a scale, rounded once.

Where the extension is there and the CPU has AVX-512 VNNI no window is ever gathered, and sums
become values as they leave the registers. Elsewhere ``windows`` computes the same, group by group.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from . import windows
from .code_products import is_fused
from .operands import to_values
from .windows import Geometry

_FEW = 4
"""Channels below which vectors of neighbouring channels would be nearly empty."""


def convolve(
    x: Tensor,
    weight: Tensor,
    geometry: Geometry,
    groups: int,
    scale: float | Tensor,
    out: Tensor,
    bias: Tensor | None,
    peak: int,
) -> None:
    """Write the convolution of codes, times ``scale`` plus ``bias``, to ``out``.

    Args:
        x: (B, C, *sizes) int8.
        weight: (O, C / groups, *kernel) int8.
        geometry: of the windows.
        groups: of channels.
        scale: what a product of two codes is worth; NaN makes all NaN.
        out: (B, O, *positions), floating, in any layout.
        bias: (O,), added in float32 after the product is rounded to it, or None.
        peak: as for ``integer_matmul``.
    """
    if _is_fused(x, scale, out.dtype, math.prod(weight.shape[1:])):
        x, values = _laid(x, groups), _float32(out, groups)
        addend = None if bias is None else bias.to(torch.float32).contiguous()
        torch.ops.limprec.codes_conv.default(
            x, weight, values, _numbers(geometry), groups, scale, addend
        )
        _hand_over(values, out)
        return
    for i, o in _groups(groups, x.shape[1], weight.shape[0]):
        addend = None if bias is None else bias[o]
        windows.convolve(x[:, i], weight[o], geometry, scale, out[:, o], addend, peak)


def convolve_back(
    e: Tensor,
    weight: Tensor,
    geometry: Geometry,
    groups: int,
    scale: float | Tensor,
    out: Tensor,
    peak: int,
) -> None:
    """Write the gradient of a convolution with respect to its input to ``out``.

    Args:
        e: (B, O, *positions) int8, the error.
        weight: (O, C / groups, *kernel) int8.
        geometry: of the convolution.
        groups: of channels.
        scale: what a product of two codes is worth; NaN makes NaN of what any window meets.
        out: (B, C, *sizes), floating, in any layout.
        peak: as for ``integer_matmul``.
    """
    if _is_fused(e, scale, out.dtype, e.shape[1] // groups * math.prod(geometry.kernel)):
        e, values = _laid(e, groups), _float32(out, groups)
        torch.ops.limprec.codes_conv_back.default(
            e, weight, values, _numbers(geometry), groups, scale
        )
        _hand_over(values, out)
        return
    for i, o in _groups(groups, out.shape[1], e.shape[1]):
        windows.convolve_back(e[:, o], weight[o], geometry, scale, out[:, i], peak)


def weight_gradient(
    e: Tensor,
    x: Tensor,
    geometry: Geometry,
    groups: int,
    scale: float | Tensor,
    dtype: torch.dtype,
    peak: int,
) -> Tensor:
    """Return the gradient of a convolution with respect to its weight.

    Args:
        e: (B, O, *positions) int8, the error.
        x: (B, C, *sizes) int8, the input.
        geometry: of the convolution.
        groups: of channels.
        scale: what a product of two codes is worth; NaN makes all NaN.
        dtype: of the result.
        peak: as for ``integer_matmul``.

    Returns:
        (O, C / groups, *kernel), row-major; 0 * scale where the batch is empty.
    """
    across = [n for n in e.shape[2:] if n > 1][1:]  # positions that are summed together
    if _is_fused(x, scale, dtype, math.prod(across)):
        e, x = _laid(e, groups), _laid(x, groups)
        shape = (e.shape[1], x.shape[1] // groups, *geometry.kernel)
        out = torch.empty(shape, dtype=torch.float32)
        torch.ops.limprec.codes_conv_weight.default(e, x, out, _numbers(geometry), groups, scale)
        return out.to(dtype)
    each = _groups(groups, x.shape[1], e.shape[1])
    sums = [windows.weight_sums(e[:, o], x[:, i], geometry, peak) for i, o in each]
    return to_values(torch.cat(sums).contiguous(), scale, dtype)


def _is_fused(x: Tensor, scale: float | Tensor, dtype: torch.dtype, terms: int) -> bool:
    """Whether the kernels take codes, a scale, a dtype of the result and so many terms a sum."""
    return terms > 0 and is_fused("codes_conv", x, scale, dtype, terms)


def _laid(codes: Tensor, groups: int) -> Tensor:
    """Return codes as the kernels are fast in: thin groups with their channels apart."""
    return codes.contiguous() if _are_thin(codes, groups) else codes


def _float32(out: Tensor, groups: int) -> Tensor:
    """Return where float32 results go: to ``out``, or to memory of another dtype or layout."""
    if _are_thin(out, groups) and not out.is_contiguous():
        return torch.empty(out.shape, dtype=torch.float32)
    return out if out.dtype == torch.float32 else torch.empty_like(out, dtype=torch.float32)


def _are_thin(x: Tensor, groups: int) -> bool:
    """Whether there are groups of few channels."""
    return groups > 1 and x.shape[1] // groups < _FEW


def _hand_over(values: Tensor, out: Tensor) -> None:
    if values is not out:
        out.copy_(values)


def _numbers(geometry: Geometry) -> tuple[int, ...]:
    return geometry.stride + geometry.before + geometry.dilation


def _groups(count: int, inputs: int, outputs: int) -> Iterator[tuple[slice, slice]]:
    """Yield the channels in and out of each group."""
    i, o = inputs // count, outputs // count
    for g in range(count):
        yield slice(g * i, g * i + i), slice(g * o, g * o + o)
