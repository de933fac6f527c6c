"""Rounding inside autograd: one function, from which estimators and converted layers are made."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import torch
from torch import Tensor

from ..errors import KernelError
from ..formats import Format, Precision, ScalarFormat
from .dispatch import round_to
from .random import Key


class Estimator(StrEnum):
    """What stands in for the derivative of a rounding, which is 0 almost everywhere."""

    STRAIGHT_THROUGH = "straight_through"
    """1 everywhere (Bengio et al., arXiv 1308.3432)."""
    CLIPPED = "clipped"
    """1 inside the range of the format, 0 where the value lies beyond it."""


def parse_estimator(name: str) -> Estimator:
    """Return the estimator called ``name``.

    Raises:
        KernelError: if there is none of that name.
    """
    try:
        return Estimator(name)
    except ValueError:
        raise KernelError(
            "quantize", f"unknown gradient {name!r}", "use one of " + ", ".join(Estimator)
        ) from None


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
        estimator: Estimator,
    ) -> Tensor:
        """Return Q(x), or a view of x where there is nothing to round."""
        ctx.backward_precision, ctx.backward_key = backward, backward_key
        ctx.clipped = estimator is Estimator.CLIPPED and forward is not None
        if ctx.clipped:
            assert forward is not None
            ctx.save_for_backward(_inside(x, forward.format))
        return x.view_as(x) if forward is None else round_to(x, forward, forward_key)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        """Pass the gradient through the forward rounding, rounded itself if asked to."""
        (grad,) = grads
        if ctx.backward_precision is not None:
            grad = round_to(grad, ctx.backward_precision, ctx.backward_key)
        if ctx.clipped:
            (inside,) = ctx.saved_tensors
            grad = torch.where(inside, grad, 0.0)
        return grad, None, None, None, None, None


def round_through(
    x: Tensor,
    forward: Precision | None = None,
    forward_key: Key | None = None,
    backward: Precision | None = None,
    backward_key: Key | None = None,
    estimator: Estimator = Estimator.STRAIGHT_THROUGH,
) -> Tensor:
    """Round ``x`` going forward, its gradient going back; arguments are not checked.

    Args:
        x: any floating-point tensor; shape and dtype stay.
        forward: precision of the result, or None to leave it.
        forward_key: random key, needed where ``forward`` rounds stochastically.
        backward: precision of the gradient with respect to ``x``, or None to leave it.
        backward_key: random key, needed where ``backward`` rounds stochastically.
        estimator: the derivative of the forward rounding.
    """
    if forward is None and backward is None:
        return x
    rounded: Tensor = _Round.apply(  # type: ignore[no-untyped-call]
        x, forward, forward_key, backward, backward_key, estimator
    )
    return rounded


def _inside(x: Tensor, fmt: Format) -> Tensor:
    """Where ``x`` lies in the range of a format; a scale of its own leaves nothing outside."""
    if isinstance(fmt, ScalarFormat):
        return (x >= fmt.min) & (x <= fmt.max)
    return torch.ones_like(x, dtype=torch.bool)
