"""Attention on integers: both products are int8 x int8 -> int32, the softmax is the carrier's.

The scores of a few matrices at a time are made, masked and turned into weights while they are in
the cache; going back, so are the errors of the weights. What comes out is what the products and
the softmax give one after the other, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...errors import KernelError
from .code_products import multiply_codes
from .operands import Operand, round_operand, worth
from .real import Roundings, apply, check, operands_of, peak

Index = tuple[int | slice, ...]

_TOGETHER = 1 << 19
"""Scores that are made together: few enough to stay in the cache, enough for several threads."""


def real_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scores: Roundings,
    mixing: Roundings,
) -> Tensor:
    """Return ``softmax(query @ key.mT + mask) @ value`` with integer products, differentiable.

    The same as ``real_matmul``, the softmax and ``real_matmul``, in less memory traffic.

    Args:
        query: (..., L, E), scaled; float32.
        key: (..., S, E), with the leading axes of ``query``, as ``value``.
        value: (..., S, V).
        mask: (L, S), added to the scores of every matrix; None for none. Without a gradient.
        scores: roundings of the first product: ``activation`` of the query, ``weight`` of the
            transposed key, ``error`` of the scores' gradient.
        mixing: of the second: ``activation`` of the weights, ``weight`` of the value, ``error`` of
            the result's gradient.

    Returns:
        (..., L, V). NaN in a factor of a product makes all of the product NaN.

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
    return apply(_Attention, query, key, value, mask, scores, mixing)


class _Attention(torch.autograd.Function):
    """Query, key and value to the mean of the values."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        scores: Roundings,
        mixing: Roundings,
    ) -> Tensor:
        """Round to codes, multiply, and keep the codes and the weights."""
        q = round_operand(query, *scores.activation)
        k = round_operand(key.mT, *scores.weight)
        weights = query.new_empty(*query.shape[:-1], key.shape[-2])
        for place, made in _products(q, k, weights, peak(scores)):
            if mask is not None:
                made += mask
            torch.softmax(made, -1, out=weights[place])
        w = round_operand(weights, *mixing.activation)
        v = round_operand(value, *mixing.weight)
        ctx.scores, ctx.mixing = scores, mixing
        ctx.save_for_backward(weights, *q, *k, *w, *v)
        return multiply_codes(w.codes, v.codes, worth(w, v), value.dtype, peak(mixing))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Round the errors to codes, and multiply what is needed."""
        weights, *parts = ctx.saved_tensors
        q, k, w, v = operands_of(parts)
        need_query, need_key, need_value = ctx.needs_input_grad[:3]
        most = peak(ctx.mixing)
        e = round_operand(grad, *ctx.mixing.error)
        grad_query = grad_key = grad_value = None
        if need_value:
            grad_value = multiply_codes(w.codes.mT, e.codes, worth(w, e), grad.dtype, most)
        if need_query or need_key:
            error = torch.empty_like(weights)
            turned = Operand(v.codes.mT, v.scale)
            for place, made in _products(e, turned, error, most):
                torch._softmax_backward_data(
                    made, weights[place], -1, made.dtype, grad_input=error[place]
                )
            most = peak(ctx.scores)
            e = round_operand(error, *ctx.scores.error)
        if need_query:
            grad_query = multiply_codes(e.codes, k.codes.mT, worth(e, k), grad.dtype, most)
        if need_key:
            grad_key = multiply_codes(q.codes.mT, e.codes, worth(q, e), grad.dtype, most).mT
        return grad_query, grad_key, grad_value, None, None, None


def _products(a: Operand, b: Operand, like: Tensor, most: int) -> Iterator[tuple[Index, Tensor]]:
    """Yield the place of a few matrices of ``like``, and their product, which nobody else has."""
    scale = worth(a, b)
    for place in _places(like.shape):
        yield place, multiply_codes(a.codes[place], b.codes[place], scale, like.dtype, most)


def _places(shape: Sequence[int]) -> Iterator[Index]:
    """Yield where few enough matrices of (..., L, S) are."""
    if len(shape) == 2:
        yield ()
        return
    each = math.prod(shape[1:])
    if each > _TOGETHER and len(shape) > 3:
        for first in range(shape[0]):
            for rest in _places(shape[1:]):
                yield (first, *rest)
        return
    count = max(1, _TOGETHER // max(1, each))
    for first in range(0, shape[0], count):
        yield (slice(first, first + count),)
