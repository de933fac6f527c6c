"""Attention on integers: both products are int8 x int8 -> int32, the softmax is the carrier's.

The scores of a few matrices at a time are made, masked and turned into weights while they are in
the cache; going back, so are the errors of the weights. What a causal mask hides is neither
computed nor kept. What comes out is what the products and the softmax give one after the other,
bit for bit.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...errors import KernelError
from ...formats import DynamicFixedPoint, Precision
from .bands import Banded, bands_of
from .code_products import multiply_codes
from .operands import Operand, round_operand, worth
from .real import Role, Roundings, apply, check, operands_of, peak


def real_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    causal: bool,
    scores: Roundings,
    mixing: Roundings,
) -> Tensor:
    """Return ``softmax((scale * query) @ key.mT) @ value`` with integer products, differentiable.

    The same as ``real_matmul``, the softmax and ``real_matmul``, in less memory traffic.

    Args:
        query: (..., L, E), float32.
        key: (..., S, E), with the leading axes of ``query``, as ``value``.
        value: (..., S, V).
        scale: multiplies the query before it is rounded. (Its codes are those of the query itself
            under a power of two and a dynamic scale: numbers below 2^-126 alone could tell.)
        causal: whether query i sees keys up to i alone.
        scores: roundings of the first product: ``activation`` of the scaled query, ``weight`` of
            the transposed key, ``error`` of the scores' gradient.
        mixing: of the second: ``activation`` of the weights, ``weight`` of the value, ``error`` of
            the result's gradient.

    Returns:
        (..., L, V); with axes for batch and heads before these, the heads of a position lie side by
        side, as after PyTorch's fused attention. NaN in a factor of a product makes all of the
        product NaN.

    Raises:
        KernelError: as ``real_matmul``.
    """
    check("real_attention", query, key, None, scores)
    check("real_attention", query, value, None, mixing)
    lead = query.shape[:-2]
    fits = key.shape[:-2] == lead == value.shape[:-2] and query.dtype == torch.float32
    if not fits or query.shape[-1] != key.shape[-1] or key.shape[-2] != value.shape[-2]:
        shapes = f"shapes {tuple(query.shape)}, {tuple(key.shape)} and {tuple(value.shape)}"
        remedy = "give float32 (..., L, E), (..., S, E) and (..., S, V) with the same leading axes"
        raise KernelError("real_attention", shapes, remedy)
    return apply(_Attention, query, key, value, scale, causal, scores, mixing)


class _Attention(torch.autograd.Function):
    """Query, key and value to the mean of the values."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scale: float,
        causal: bool,
        scores: Roundings,
        mixing: Roundings,
    ) -> Tensor:
        """Round to codes, multiply, and keep the codes and the weights."""
        q = _scaled(query, scale, scores.activation)
        k = round_operand(key.mT, *scores.weight)
        shape = torch.Size((*query.shape[:-1], key.shape[-2]))
        bands = bands_of(shape[-2], shape[-1], causal)
        weights = Banded(query, shape, bands, mixing.activation)
        future = _future(query, bands[0].height) if causal else None
        given = worth(q, k), query.dtype, peak(scores)
        for number, band, place in weights.pieces():
            piece = weights.parts[number][place]
            rows, columns = band.rows_of(q.codes)[place], band.columns_of(k.codes)[place]
            multiply_codes(rows, columns, *given, out=piece)
            if future is not None and band.width > band.start:
                piece[..., band.start :] += future[: band.height, : band.width - band.start]
            torch.softmax(piece, -1, out=piece)
            weights.look(piece)
        w, v = weights.round(), round_operand(value, *mixing.weight)
        ctx.scale, ctx.causal, ctx.scores, ctx.mixing = scale, causal, scores, mixing
        ctx.save_for_backward(*q, *k, *w, *v, *weights.parts)
        return _beside(w.codes, v.codes, worth(w, v), value.dtype, peak(mixing))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Round the errors to codes, and multiply what is needed."""
        saved = ctx.saved_tensors
        (q, k, w, v), weights = operands_of(saved[:8]), saved[8:]
        need_query, need_key, need_value = ctx.needs_input_grad[:3]
        dtype, most = grad.dtype, peak(ctx.mixing)
        e = round_operand(grad, *ctx.mixing.error)
        grad_query = grad_key = grad_value = None
        if need_value:
            grad_value = _beside(w.codes.mT, e.codes, worth(w, e), dtype, most)
        if need_query or need_key:
            shape = w.codes.shape
            bands = bands_of(shape[-2], shape[-1], ctx.causal)
            errors = Banded(weights[0], shape, bands, ctx.scores.error)
            given = worth(e, v), dtype, most
            for number, band, place in errors.pieces():
                piece = errors.parts[number][place]
                rows, columns = band.rows_of(e.codes)[place], band.columns_of(v.codes.mT)[place]
                multiply_codes(rows, columns, *given, out=piece)
                made = weights[number][place]
                torch._softmax_backward_data(piece, made, -1, dtype, grad_input=piece)
                errors.look(piece)
            e, most = errors.round(), peak(ctx.scores)
        if need_query:
            folds = _folds(ctx.scale)
            unit = worth(e, k) * (ctx.scale if folds else 1.0)
            grad_query = _beside(e.codes, k.codes.mT, unit, dtype, most)
            grad_query = grad_query if folds else grad_query.mul_(ctx.scale)
        if need_key:
            grad_key = _beside(e.codes.mT, q.codes, worth(q, e), dtype, most)
        return grad_query, grad_key, grad_value, None, None, None, None


def _folds(scale: float) -> bool:
    """Whether a factor goes into the scale of codes without another rounding."""
    return math.frexp(scale)[0] == 0.5


def _scaled(query: Tensor, scale: float, role: Role) -> Operand:
    """Return the operand of ``scale * query``."""
    precision = role[0]
    dynamic = type(precision) is Precision and isinstance(precision.format, DynamicFixedPoint)
    if not dynamic or not _folds(scale):
        return round_operand(query * scale, *role)
    codes, unit = round_operand(query, *role)
    return Operand(codes, unit * scale)


def _future(like: Tensor, rows: int) -> Tensor:
    """Return what to add to the scores around the diagonal: minus infinity above it, else 0."""
    return like.new_full((rows, rows), -math.inf).triu_(1)


def _beside(a: Tensor, b: Tensor, scale: float | Tensor, dtype: torch.dtype, most: int) -> Tensor:
    """Return a product, (..., heads, L, V), in which the heads of a position are neighbours."""
    if a.ndim < 4:
        return multiply_codes(a, b, scale, dtype, most)
    *lead, heads, rows, _ = a.shape
    out = torch.empty(*lead, rows, heads, b.shape[-1], dtype=dtype, device=a.device)
    return multiply_codes(a, b, scale, dtype, most, out=out.transpose(-3, -2))
