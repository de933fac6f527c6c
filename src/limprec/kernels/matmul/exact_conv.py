"""Convolutions of codes that float32 sums without rounding, computed on integers instead.

Products of 8-bit codes are integers times a power of two. Where no sum of magnitudes goes beyond
2^24, every partial sum in float32 is exact, whatever its order, and integers give the same bits.
Going forward, and to the input's gradient, the number of terms proves it. For the weight's gradient
Cauchy and Schwarz do, sample by sample (sum |e a| <= |e| |a|), or else the sums of magnitudes. What
is not proven is computed in float32, by PyTorch.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...formats import Affine
from ..masks import is_dense
from ..stored import Codes, round_to_codes, widen
from .code_convolutions import convolve, convolve_back, weight_gradient
from .integer import FLOAT32_WHOLE, SYMMETRIC_PEAK
from .real import Role, Roundings, apply, peak, round_in_place
from .windows import Geometry, Sizes

_MARGIN = 1.02
"""For what float32 rounds in sums that bound, and for -128, which has no magnitude in int8."""
_SCALES = (2.0**-100, 2.0**80)
"""Units of products between which no sum of them, nor any operand, leaves the normal numbers."""
_PARTS = 8


class Options(NamedTuple):
    """What a convolution is called with beside its tensors, one number a dimension each."""

    stride: Sizes
    padding: Sizes
    dilation: Sizes
    groups: int


def is_proven(x: Tensor, weight: Tensor, options: Options, roundings: Roundings) -> bool:
    """Whether ``exact_conv`` takes a convolution without bias.

    Its forward sums and those of the input's gradient must be exact in float32 by their number of
    terms: at most 1040 of 8-bit codes. The tensors are float32 on the CPU and row-major, the
    formats have int8 codes that count a power of two.
    """
    inputs, kernel = weight.shape[1], weight[0, 0].numel()
    terms = max(inputs, weight.shape[0] // options.groups) * kernel
    plain = x.is_contiguous() and weight.is_contiguous() and x.dtype == torch.float32 and x.is_cpu
    fits = x.shape[1] == inputs * options.groups and weight.shape[0] % options.groups == 0
    roles = roundings.activation, roundings.weight, roundings.error
    counts = not any(role and isinstance(role[0].format, Affine) for role in roles)
    return plain and fits and counts and 0 < terms * peak(roundings) <= FLOAT32_WHOLE


def exact_conv(
    x: Tensor, weight: Tensor, options: Options, roundings: Roundings, again: tuple[bool, bool]
) -> Tensor:
    """Return ``F.conv*d`` of rounded operands, its error and gradients rounded: PyTorch's bits.

    Args:
        x: (B, C, *sizes); ``is_proven`` of all arguments but the last.
        weight: (O, C / groups, *kernel).
        options: of the convolution.
        roundings: of each operand; those of the bias do not count.
        again: whether somebody else holds ``x``, and the weight, until the way back, so that it
            is rounded again then; codes wait otherwise.

    Returns:
        (B, O, *positions). NaN where the float32 convolution of the rounded operands is NaN.

    Raises:
        RuntimeError: from PyTorch, for shapes that do not fit, on the way back for a tensor to be
            rounded again that was written to, and for a second derivative.
    """
    return apply(_Exact, x, weight, options, roundings, again)


class _Exact(torch.autograd.Function):
    """(B, C, *sizes) convolved with (O, C / groups, *kernel)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        options: Options,
        roundings: Roundings,
        again: tuple[bool, bool],
    ) -> Tensor:
        """Round to codes, convolve, and keep what the way back needs."""
        a, w = (
            round_to_codes(t, *role)
            for t, role in ((x, roundings.activation), (weight, roundings.weight))
        )
        ctx.options, ctx.roundings = options, roundings
        ctx.geometry = geometry = _geometry(weight, options)
        ctx.sizes = x.shape, weight.shape
        need_x, need_weight = ctx.needs_input_grad[:2]
        kept = [
            _keep(t, codes, rounds) if needed else (None, None)
            for t, codes, rounds, needed in zip(
                (x, weight), (a, w), again, (need_weight, need_x), strict=True
            )
        ]
        ctx.save_for_backward(*(part for pair in kept for part in pair))
        unit = _unit(a, w)
        positions = geometry.positions(x.shape[2:])
        if unit is None or min(positions) < 1:
            return convolution(widen(a), widen(w), None, options)
        out = x.new_empty(x.shape[0], weight.shape[0], *positions)
        most = peak(roundings)
        convolve(a.codes, w.codes, geometry, options.groups, unit, out, None, most)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Round the error to codes, and multiply what is needed, one product after the other."""
        need_x, need_weight = ctx.needs_input_grad[:2]
        options, roundings, geometry = ctx.options, ctx.roundings, ctx.geometry
        (x_size, weight_size), most = ctx.sizes, peak(roundings)
        kept_x, x_scale, kept_weight, weight_scale = ctx.saved_tensors
        e = round_to_codes(grad, *roundings.error)
        grad_x = grad_weight = None
        if need_weight:
            a = _codes(kept_x, x_scale, roundings.activation)
            unit = _unit(e, a)
            if unit is not None and _are_exact(e, a, geometry, options.groups):
                numbers = geometry, options.groups, unit, grad.dtype, most
                grad_weight = weight_gradient(e.codes, a.codes, *numbers)
            else:
                grad_weight = _in_float32(e, a, weight_size, options, 1)
            grad_weight = round_in_place(grad_weight, roundings.gradient)
        if need_x:
            w = _codes(kept_weight, weight_scale, roundings.weight)
            unit = _unit(e, w)
            if unit is not None:
                grad_x = grad.new_empty(x_size)
                convolve_back(e.codes, w.codes, geometry, options.groups, unit, grad_x, most)
            else:
                grad_x = _in_float32(e, w, x_size, options, 0)
        return grad_x, grad_weight, None, None, None


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None, options: Options) -> Tensor:
    """Return PyTorch's convolution."""
    return (F.conv1d, F.conv2d, F.conv3d)[weight.ndim - 3](x, weight, bias, *options)


def convolution_back(
    e: Tensor, x: Tensor, weight: Tensor, options: Options, mask: list[bool]
) -> tuple[Tensor | None, ...]:
    """Return PyTorch's gradients with respect to input, weight and bias, those that are asked for.

    Args:
        e: (B, O, *positions), the error.
        x: the input, or ``stand_in`` for it.
        weight: likewise.
        options: of the convolution.
        mask: which of the three.
    """
    sizes, none = [weight.shape[0]] if mask[2] else None, [0] * len(options.stride)
    stride, padding, dilation, groups = options
    gradients: tuple[Tensor | None, ...] = torch.ops.aten.convolution_backward(
        e, x, weight, sizes, stride, padding, dilation, False, none, groups, mask
    )
    return gradients


def stand_in(e: Tensor, size: torch.Size, stride: tuple[int, ...]) -> Tensor:
    """Return a tensor that lies as another, whose values mean nothing: over the error's memory.

    PyTorch asks of an operand whose values it does not need how it lies, and copies what is not
    dense.
    """
    span = 1 + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if is_dense(e) and 0 < span <= e.numel():
        return e.detach().as_strided(size, stride)
    return e.new_empty_strided(size, stride)


def _in_float32(e: Codes, other: Codes, size: torch.Size, options: Options, which: int) -> Any:
    """Return the gradient with respect to input (0) or weight (1), of this size, by PyTorch."""
    error, operand = widen(e), widen(other)
    own = stand_in(error, size, torch.empty(size, device="meta").stride())
    pair = (own, operand) if which == 0 else (operand, own)
    mask = [which == 0, which == 1, False]
    return convolution_back(error, *pair, options, mask)[which]


def _geometry(weight: Tensor, options: Options) -> Geometry:
    stride, padding, dilation, _ = options
    return Geometry(tuple(weight.shape[2:]), stride, padding, padding, dilation)


def _keep(x: Tensor, codes: Codes, again: bool) -> tuple[Tensor, Tensor | None]:
    """Return what waits for the way back: the tensor itself if it is rounded again, or codes."""
    return (x, None) if again or not codes.narrow else (codes.codes, codes.scale)


def _codes(kept: Tensor, scale: Tensor | None, role: Role) -> Codes:
    """Return the codes of what ``_keep`` gave."""
    if scale is None:
        return round_to_codes(kept, *role)
    return Codes(kept, scale, role[0].format, torch.float32)


def _unit(a: Codes, b: Codes) -> float | None:
    """Return what a product of two codes is worth, None where float32 might round it."""
    if not (a.narrow and b.narrow):
        return None
    scales = float(a.scale), float(b.scale)
    unit = scales[0] * scales[1]
    low, high = _SCALES
    return unit if all(low <= one <= high for one in (*scales, unit)) else None


def _are_exact(e: Codes, a: Codes, geometry: Geometry, groups: int) -> bool:
    """Whether no sum over samples and positions of magnitudes of products goes beyond 2^24."""
    bound = _norms(e.codes).t().mm(_norms(a.codes))
    if float(bound.amax()) * _MARGIN <= FLOAT32_WHOLE:
        return True
    left, right = (codes.codes.clamp(min=-127).abs_() for codes in (e, a))
    sums = weight_gradient(left, right, geometry, groups, 1.0, torch.float32, SYMMETRIC_PEAK)
    return float(sums.amax()) * _MARGIN <= FLOAT32_WHOLE


def _norms(codes: Tensor) -> Tensor:
    """Return the Euclidean norm of each channel of each sample of (B, C, *sizes), in float32."""
    parts = torch.split(codes, -(-codes.shape[0] // _PARTS))  # a float32 copy of all is large
    return torch.cat([torch.linalg.vector_norm(p.flatten(2).float(), dim=2) for p in parts])
