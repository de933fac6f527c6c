"""Rounding inside autograd: one function, from which every converted layer is composed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..formats import Precision
from ..kernels import Key, round_to


class _Round(torch.autograd.Function):
    """Round a tensor on the way forward and its gradient on the way back, each if asked to."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        forward: Precision | None,
        forward_key: Key | None,
        backward: Precision | None,
        backward_key: Key | None,
    ) -> Tensor:
        """Return Q(x), or a view of x where there is nothing to round."""
        ctx.backward_precision, ctx.backward_key = backward, backward_key
        return x.view_as(x) if forward is None else round_to(x, forward, forward_key)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        """Pass the gradient straight through the forward rounding, rounded itself if asked to."""
        (grad,) = grads
        if ctx.backward_precision is not None:
            grad = round_to(grad, ctx.backward_precision, ctx.backward_key)
        return grad, None, None, None, None


def round_through(
    x: Tensor,
    forward: Precision | None = None,
    forward_key: Key | None = None,
    backward: Precision | None = None,
    backward_key: Key | None = None,
) -> Tensor:
    """Round ``x`` going forward, its gradient going back, straight through otherwise.

    Args:
        x: any floating-point tensor; shape and dtype stay.
        forward: precision of the result, or None to leave it.
        forward_key: random key, needed where ``forward`` rounds stochastically.
        backward: precision of the gradient with respect to ``x``, or None to leave it.
        backward_key: random key, needed where ``backward`` rounds stochastically.

    The straight-through estimator (Bengio et al., arXiv 1308.3432) takes the derivative of a
    rounding as 1, beyond the range of a saturating format too.
    """
    if forward is None and backward is None:
        return x
    rounded: Tensor = _Round.apply(x, forward, forward_key, backward, backward_key)  # type: ignore[no-untyped-call]
    return rounded
