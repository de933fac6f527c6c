"""Layers on integers: every product of a training step is int8 x int8 -> int32, exact.

A layer y = op(x, w) computes op(Qa(x), Qw(w)) on codes; going back, e = Qe(dL/dy) becomes codes
too, and feeds dL/dx = op'(e, Qw(w)) and Qg(op'(e, Qa(x))). Each sum of products of codes is exact
and is rounded once, to float32, when it is multiplied by the two scales. What
autograd saves are codes, one byte an element.

NaN: a tensor that holds one has no codes (dynamic fixed point and affine integers: neither has one
with an infinity); its scale is NaN, and so is every element of each product it enters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...errors import KernelError
from ...formats import FixedPoint, Precision
from ..dispatch import round_to
from ..random import Key
from .code_products import multiply_and_sum, multiply_codes
from .integer import PEAK, SYMMETRIC_PEAK, integer_matmul
from .operands import Operand, check_real, round_operand, to_values, worth

Role = tuple[Precision, Key | None]
"""How one operand is rounded; the key is needed where the precision is stochastic."""

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@dataclass(frozen=True)
class Roundings:
    """How a layer's operands are rounded: int8 codes for the first three, any format for the rest.

    Args:
        activation: the input.
        weight: the weight, or the second factor of ``real_matmul``.
        error: the gradient with respect to the output; None where none will come.
        gradient: the gradient with respect to the weight, None to leave it.
        bias: the bias, None to leave it.
        bias_gradient: the gradient with respect to the bias, None to leave it.
    """

    activation: Role
    weight: Role
    error: Role | None = None
    gradient: Role | None = None
    bias: Role | None = None
    bias_gradient: Role | None = None


def real_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    roundings: Roundings,
    codes: Operand | None = None,
) -> Tensor:
    """Return ``x @ weight.T + bias`` from integer products, differentiable.

    Args:
        x: (..., K), float32, bfloat16, float16 or float64.
        weight: (N, K), of the dtype of ``x``.
        bias: (N,) or None; added in float32 after the product has been rounded to it.
        roundings: of each operand.
        codes: of the weight, where it was rounded before.

    Returns:
        (..., N) in the dtype of ``x``; zeros (plus the bias) where K is 0. NaN in ``x`` or
        ``weight`` makes all of it NaN, and so does an infinity unless the format saturates it.

    Raises:
        KernelError: for a format without int8 codes, dtypes or shapes that do not fit, tensors on
            the meta device, or a gradient without an error precision.
    """
    check("real_linear", x, weight, bias, roundings)
    if weight.ndim != 2 or x.ndim < 1 or x.shape[-1] != weight.shape[1]:
        raise KernelError(
            "real_linear",
            f"shapes {tuple(x.shape)} and {tuple(weight.shape)}",
            "give (..., K) and (N, K)",
        )
    return apply(_Product, x, weight, bias, roundings, True, codes)


def real_matmul(a: Tensor, b: Tensor, roundings: Roundings) -> Tensor:
    """Return ``a @ b`` from integer products, differentiable in both factors.

    Args:
        a: (..., M, K) or (K,), float32, bfloat16, float16 or float64.
        b: (K, N), or (..., K, N) with the leading axes of ``a``; of the dtype of ``a``.
        roundings: ``activation`` rounds ``a``, ``weight`` rounds ``b``, ``gradient`` the gradient
            with respect to ``b``.

    Returns:
        (..., M, N) or (N,) in the dtype of ``a``. NaN as in ``real_linear``: in one matrix of a
        batch it makes all of the batch NaN.

    Raises:
        KernelError: as ``real_linear``.
    """
    check("real_matmul", a, b, None, roundings)
    batched = b.ndim > 2 and a.shape[:-2] == b.shape[:-2]
    if a.ndim < 1 or b.ndim < 2 or a.shape[-1] != b.shape[-2] or not (b.ndim == 2 or batched):
        raise KernelError(
            "real_matmul",
            f"shapes {tuple(a.shape)} and {tuple(b.shape)}",
            "give (..., K) and (K, N), or (..., M, K) and (..., K, N) with the same leading axes",
        )
    if batched:
        return apply(_Batch, a, b, roundings)
    return apply(_Product, a, b, None, roundings, False, None)


class _Batch(torch.autograd.Function):
    """(..., M, K) times (..., K, N)."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, roundings: Roundings) -> Tensor:
        """Round to codes, multiply, and keep the codes that the way back needs."""
        x = round_operand(a, *roundings.activation)
        y = round_operand(b, *roundings.weight)
        ctx.roundings, ctx.dtypes = roundings, (a.dtype, b.dtype)
        need_a, need_b = ctx.needs_input_grad[:2]
        save(ctx, x if need_b else None, y if need_a else None)
        return multiply_codes(x.codes, y.codes, worth(x, y), a.dtype, peak(roundings))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Round the error to codes, and multiply what is needed."""
        roundings, (x, y), most = ctx.roundings, saved(ctx), peak(ctx.roundings)
        e = round_operand(grad, *roundings.error)
        grad_a = grad_b = None
        if ctx.needs_input_grad[0]:
            grad_a = multiply_codes(e.codes, y.codes.mT, worth(e, y), ctx.dtypes[0], most)
        if ctx.needs_input_grad[1]:
            grad_b = multiply_codes(x.codes.mT, e.codes, worth(x, e), ctx.dtypes[1], most)
            grad_b = round_in_place(grad_b, roundings.gradient)
        return grad_a, grad_b, None


class _Product(torch.autograd.Function):
    """(..., K) times a matrix that is stored as (N, K), or as (K, N)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        roundings: Roundings,
        transposed: bool,
        codes: Operand | None,
    ) -> Tensor:
        """Round to codes, multiply, and keep the codes that the way back needs."""
        a = round_operand(x, *roundings.activation)
        w = codes or round_operand(weight, *roundings.weight)
        ctx.roundings, ctx.transposed = roundings, transposed
        ctx.dtypes = x.dtype, weight.dtype, None if bias is None else bias.dtype
        need_x, need_weight = ctx.needs_input_grad[:2]
        save(ctx, a if need_weight else None, w if need_x else None)
        matrix = w.codes.t() if transposed else w.codes
        added = round_bias(bias, roundings)
        rows, most = _rows(a.codes), peak(roundings)
        y = multiply_codes(rows, matrix, worth(a, w), x.dtype, most, added)
        return y.view(*x.shape[:-1], matrix.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Round the error to codes, and multiply what is needed."""
        need_x, need_weight, need_bias = ctx.needs_input_grad[:3]
        roundings, (a, w) = ctx.roundings, saved(ctx)
        e = round_operand(grad, *roundings.error)
        rows, most = _rows(e.codes), peak(roundings)
        grad_x = grad_weight = grad_bias = None
        if need_x:
            matrix = w.codes if ctx.transposed else w.codes.t()
            grad_x = multiply_codes(rows, matrix, worth(e, w), ctx.dtypes[0], most)
            grad_x = grad_x.view(*grad.shape[:-1], matrix.shape[1])
        sums = None
        if need_weight:
            inputs = _rows(a.codes)
            left, right = (rows.t(), inputs) if ctx.transposed else (inputs.t(), rows)
            given = left, right, worth(e, a), ctx.dtypes[1], most
            if ctx.transposed and need_bias:
                grad_weight, sums = multiply_and_sum(*given)
            else:
                grad_weight = multiply_codes(*given)
            grad_weight = round_in_place(grad_weight, roundings.gradient)
        if need_bias:
            if sums is None:
                sums = integer_matmul(rows.new_ones(1, rows.shape[0]), rows, 128)[0]
            grad_bias = to_values(sums, worth(e), ctx.dtypes[2])
            grad_bias = round_in_place(grad_bias, roundings.bias_gradient)
        return grad_x, grad_weight, grad_bias, None, None, None


def apply(function: Any, *arguments: Any) -> Tensor:
    """Return ``function.apply(*arguments)``, which has no types."""
    result: Tensor = function.apply(*arguments)
    return result


def check(
    operation: str, x: Tensor, weight: Tensor, bias: Tensor | None, roundings: Roundings
) -> None:
    """Refuse what has no integer products, before anything is computed.

    Raises:
        KernelError: with what does not fit; the functions above say what does.
    """
    channels = weight.shape[0] if weight.ndim else 1
    for role in ("activation", "weight", "error"):
        if (chosen := getattr(roundings, role)) is not None:
            check_real(chosen[0], operation, role)
    tensors = [x, weight] if bias is None else [x, weight, bias]
    if x.dtype not in _DTYPES or any(t.dtype != x.dtype for t in tensors):
        dtypes = ", ".join(str(t.dtype).removeprefix("torch.") for t in tensors)
        raise KernelError(operation, f"dtypes {dtypes}", "give one, e.g. float32")
    if any(t.is_meta or t.device != x.device for t in tensors):
        devices = ", ".join(str(t.device) for t in tensors)
        raise KernelError(
            operation, f"tensors on {devices}", "give tensors with data on one device"
        )
    if bias is not None and bias.shape != (channels,):
        raise KernelError(
            operation,
            f"a bias of shape {tuple(bias.shape)} for {channels} channels",
            "give one each",
        )
    needed = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    if needed and roundings.error is None:
        raise KernelError(
            operation, "a gradient without an error precision", "give roundings.error"
        )


def peak(roundings: Roundings) -> int:
    """Return the largest magnitude of a product of two codes: fixed point alone has -128."""
    roles = (roundings.activation, roundings.weight, roundings.error)
    lopsided = any(role and isinstance(role[0].format, FixedPoint) for role in roles)
    return PEAK if lopsided else SYMMETRIC_PEAK


def save(ctx: Any, *operands: Operand | None) -> None:
    """Keep codes and scales for the way back, None where they are not needed."""
    kept = [part for operand in operands for part in operand or (None, None)]
    ctx.save_for_backward(*kept)


def saved(ctx: Any) -> list[Operand]:
    """Return what ``save`` was given."""
    return operands_of(ctx.saved_tensors)


def operands_of(parts: Sequence[Tensor]) -> list[Operand]:
    """Return the operands of codes and scales in turn."""
    return [Operand(*parts[i : i + 2]) for i in range(0, len(parts), 2)]


def round_bias(bias: Tensor | None, roundings: Roundings) -> Tensor | None:
    """Return Qb(b)."""
    if bias is None or roundings.bias is None:
        return bias
    return round_to(bias.detach(), *roundings.bias)


def round_in_place(grad: Tensor, role: Role | None) -> Tensor:
    """Round a gradient that nobody else has yet."""
    return grad if role is None else round_to(grad, *role, out=grad)


def _rows(codes: Tensor) -> Tensor:
    return codes.flatten(0, -2) if codes.ndim > 1 else codes[None]
