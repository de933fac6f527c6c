"""Convolutions on integers: autograd around ``code_convolutions``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...errors import KernelError
from .code_convolutions import convolve, convolve_back, weight_gradient
from .operands import Operand, round_operand, to_values, worth
from .real import (
    Roundings,
    apply,
    check,
    peak,
    round_bias,
    round_in_place,
)
from .windows import Geometry, Sizes, channel_sums


def real_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int | Sequence[int],
    padding: int | Sequence[int] | str,
    dilation: int | Sequence[int],
    groups: int,
    roundings: Roundings,
    held: bool = False,
) -> Tensor:
    """Return the convolution of one to three spatial dimensions from integer products.

    Arguments but the last are those of ``torch.nn.functional.conv1d`` to ``conv3d``, and so are the
    values but for their rounding.

    Args:
        x: (B, C, *sizes) or (C, *sizes), float32, bfloat16, float16 or float64.
        weight: (O, C / groups, *kernel), of the dtype of ``x``.
        bias: (O,) or None; added in float32 after the product has been rounded to it.
        stride: one number, or one a dimension.
        padding: zeros at both ends, as ``stride``; or ``valid``, or ``same``.
        dilation: as ``stride``.
        groups: how many.
        roundings: of each operand.
        held: whether somebody else holds ``x`` until the way back: it is rounded once more then.

    Returns:
        (B, O, *positions) or (O, *positions) in the dtype of ``x``; channels last where ``x`` or
        ``weight`` is. NaN in ``x`` or ``weight`` makes all of it NaN, and so does an infinity
        unless the format saturates it.

    Raises:
        KernelError: as ``real_linear``.
    """
    check("real_conv", x, weight, bias, roundings)
    spatial = weight.ndim - 2
    if not 1 <= spatial <= 3 or x.ndim not in (spatial + 1, spatial + 2):
        raise _shapes(x, weight, "give (B, C, *sizes) and (O, C / groups, *kernel)")
    geometry = _geometry(weight.shape[2:], stride, padding, dilation)
    if x.ndim == spatial + 1:
        return _convolve(x[None], weight, bias, geometry, groups, roundings, held)[0]
    return _convolve(x, weight, bias, geometry, groups, roundings, held)


def _convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: Geometry,
    groups: int,
    roundings: Roundings,
    held: bool,
) -> Tensor:
    channels = x.shape[1]
    if groups < 1 or weight.shape[0] % groups or channels != weight.shape[1] * groups:
        raise _shapes(x, weight, f"C and O must be multiples of groups, which is {groups}")
    positions = geometry.positions(x.shape[2:])
    if min(positions) < 1 or 0 in geometry.kernel:
        raise _shapes(x, weight, "the kernel must fit into the padded input")
    return apply(_Convolution, x, weight, bias, geometry, positions, groups, roundings, held)


class _Convolution(torch.autograd.Function):
    """(B, C, *sizes) convolved with (O, C / groups, *kernel)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        geometry: Geometry,
        positions: Sizes,
        groups: int,
        roundings: Roundings,
        held: bool,
    ) -> Tensor:
        """Round to codes, convolve, and keep what the way back needs."""
        a, w = round_operand(x, *roundings.activation), round_operand(weight, *roundings.weight)
        ctx.geometry, ctx.groups, ctx.roundings = geometry, groups, roundings
        ctx.dtypes = x.dtype, weight.dtype, None if bias is None else bias.dtype
        ctx.x_like = x.shape, _is_last(x)
        need_x, need_weight = ctx.needs_input_grad[:2]
        first = ((x, None) if held else a) if need_weight else (None, None)
        ctx.save_for_backward(*first, *(w if need_x else (None, None)))
        last = _is_last(x) or _is_last(weight)
        shape = (x.shape[0], weight.shape[0], *positions)
        out = _empty(shape, last, x.dtype, x.device)
        addend = round_bias(bias, roundings)
        most = peak(roundings)
        convolve(a.codes, w.codes, geometry, groups, worth(a, w), out, addend, most)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Round the error to codes, and multiply what is needed."""
        need_x, need_weight, need_bias = ctx.needs_input_grad[:3]
        roundings, geometry = ctx.roundings, ctx.geometry
        kept, scale, *second = ctx.saved_tensors
        e = round_operand(grad, *roundings.error)
        groups, most = ctx.groups, peak(roundings)
        grad_x = grad_weight = grad_bias = None
        if need_x:
            w, (shape, last) = Operand(*second), ctx.x_like
            grad_x = _empty(shape, last, ctx.dtypes[0], grad.device)
            convolve_back(e.codes, w.codes, geometry, groups, worth(e, w), grad_x, most)
        if need_weight:
            again = scale is None
            a = round_operand(kept, *roundings.activation) if again else Operand(kept, scale)
            grad_weight = weight_gradient(
                e.codes, a.codes, geometry, groups, worth(e, a), ctx.dtypes[1], most
            )
            grad_weight = round_in_place(grad_weight, roundings.gradient)
        if need_bias:
            total = channel_sums(e.codes)
            grad_bias = to_values(total, worth(e), ctx.dtypes[2])
            grad_bias = round_in_place(grad_bias, roundings.bias_gradient)
        return grad_x, grad_weight, grad_bias, None, None, None, None, None


def _geometry(
    kernel: Sequence[int],
    stride: int | Sequence[int],
    padding: int | Sequence[int] | str,
    dilation: int | Sequence[int],
) -> Geometry:
    strides, dilations = _each("stride", stride, kernel), _each("dilation", dilation, kernel)
    if min(strides) < 1 or min(dilations) < 1:
        raise KernelError(
            "real_conv", f"stride {stride}, dilation {dilation}", "give numbers from 1 up"
        )
    if padding == "same":
        if max(strides) > 1:
            raise KernelError("real_conv", f"padding 'same' with stride {stride}", "use stride 1")
        whole = [d * (k - 1) for k, d in zip(kernel, dilations, strict=True)]
        before, after = tuple(n // 2 for n in whole), tuple(n - n // 2 for n in whole)
    elif padding == "valid":
        before = after = (0,) * len(kernel)
    elif isinstance(padding, str):
        raise KernelError("real_conv", f"padding {padding!r}", "use 'same', 'valid' or numbers")
    else:
        before = after = _each("padding", padding, kernel)
        if min(before) < 0:
            raise KernelError("real_conv", f"padding {padding}", "give numbers from 0 up")
    return Geometry(tuple(kernel), strides, before, after, dilations)


def _each(name: str, value: int | Sequence[int], kernel: Sequence[int]) -> Sizes:
    """Return one number a dimension."""
    values = (value,) if isinstance(value, int) else tuple(value)
    if len(values) == 1:
        return values * len(kernel)
    if len(values) != len(kernel):
        raise KernelError(
            "real_conv", f"{name} {value} for {len(kernel)} dimensions", "give one for each"
        )
    return values


def _is_last(x: Tensor) -> bool:
    """Whether the channels of (B, C, *sizes) lie next to each other, and nothing else does."""
    return x.shape[1] > 1 and x.stride(1) == 1 and not x.is_contiguous()


def _empty(shape: Sequence[int], last: bool, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return an empty (B, C, *sizes), channels last if asked for."""
    if not last:
        return torch.empty(*shape, dtype=dtype, device=device)
    moved = torch.empty(shape[0], *shape[2:], shape[1], dtype=dtype, device=device)
    return moved.movedim(-1, 1)


def _shapes(x: Tensor, weight: Tensor, remedy: str) -> KernelError:
    return KernelError("real_conv", f"shapes {tuple(x.shape)} and {tuple(weight.shape)}", remedy)
