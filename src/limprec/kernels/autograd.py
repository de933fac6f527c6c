"""Rounding inside autograd: one function, from which estimators and converted layers are made."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor

from ..errors import KernelError
from ..formats import Format, Precision, Rounding, ScalarFormat, parse_precision
from .dispatch import round_to
from .random import Key, TracedKey
from .stored import Codes, widen


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
        forward: Precision | Codes | None,
        forward_key: Key | None,
        backward: Precision | None,
        backward_key: Key | None,
        estimator: Estimator,
    ) -> Tensor:
        """Return Q(x), or a view of x where there is nothing to round."""
        if isinstance(forward, Codes):
            ctx.backward_precision, ctx.backward_key, ctx.clipped = backward, backward_key, False
            values = widen(forward)
            return values.view_as(values) if values is x else values
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


class _TracedRound(torch.autograd.Function):
    """``_Round`` for a compiler: what changes from step to step comes in a tensor."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        numbers: Tensor,
        forward: Precision | None,
        forward_stream: int,
        backward: Precision | None,
        backward_stream: int,
    ) -> Tensor:
        """Return Q(x), or x where there is nothing to round."""
        ctx.backward_precision, ctx.stream = backward, backward_stream
        ctx.save_for_backward(numbers)
        return _round_traced(x, numbers, forward, forward_stream)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        """Pass the gradient on, rounded if asked to."""
        (numbers,) = ctx.saved_tensors
        grad = _round_traced(grads[0], numbers, ctx.backward_precision, ctx.stream)
        return grad, None, None, None, None, None


def _round_traced(x: Tensor, numbers: Tensor, precision: Precision | None, stream: int) -> Tensor:
    if precision is None:
        return x.clone()
    rounded: Tensor = round_at_step(x, numbers, str(precision), stream)
    return rounded


@torch.library.custom_op("limprec::round_at_step", mutates_args=())
def round_at_step(x: Tensor, numbers: Tensor, precision: str, stream: int) -> Tensor:
    """Round under a key whose seed and step are read when it runs: int64 (seed, step)."""
    parsed = parse_precision(precision)
    seed, step = numbers.tolist() if parsed.rounding is Rounding.STOCHASTIC else (0, 0)
    return round_to(x, parsed, Key(seed, stream, step))


@round_at_step.register_fake
def _(x: Tensor, numbers: Tensor, precision: str, stream: int) -> Tensor:
    return torch.empty_like(x)


Told = Callable[[Tensor, Tensor], None]
"""What is told of a gradient before and after its rounding."""


def round_through(
    x: Tensor,
    forward: Precision | Codes | None = None,
    forward_key: Key | TracedKey | None = None,
    backward: Precision | None = None,
    backward_key: Key | TracedKey | None = None,
    estimator: Estimator = Estimator.STRAIGHT_THROUGH,
    told: Told | None = None,
) -> Tensor:
    """Round ``x`` going forward, its gradient going back; arguments are not checked.

    Args:
        x: any floating-point tensor; shape and dtype stay.
        forward: precision of the result, or codes that ``x`` was rounded to already, or None to
            leave it.
        forward_key: random key, needed where ``forward`` rounds stochastically.
        backward: precision of the gradient with respect to ``x``, or None to leave it.
        backward_key: random key, needed where ``backward`` rounds stochastically.
        estimator: the derivative of the forward rounding.
        told: called with the gradient before and after ``backward``; ``forward`` is None then, and
            ``x`` no leaf.
    """
    if forward is None and backward is None and told is None:
        return x
    if torch.compiler.is_compiling() and estimator is Estimator.STRAIGHT_THROUGH:
        assert not isinstance(forward, Codes)
        return _trace(x, forward, forward_key, backward, backward_key)
    if forward is None and x.grad_fn is not None:
        # A hook costs nothing going forward, and x may still be written to in place.
        x.register_hook(_Arrival(backward, backward_key, told))  # type: ignore[no-untyped-call]
        return x
    if forward is None and not x.requires_grad:
        return x
    rounded: Tensor = _Round.apply(  # type: ignore[no-untyped-call]
        x, forward, forward_key, backward, backward_key, estimator
    )
    return rounded


class _Arrival:
    """Rounds a gradient as it arrives."""

    def __init__(
        self, precision: Precision | None, key: Key | TracedKey | None, told: Told | None
    ) -> None:
        self._precision, self._key, self._told = precision, key, told

    def __call__(self, grad: Tensor) -> Tensor:
        """Return the rounded gradient, and tell of it."""
        assert not isinstance(self._key, TracedKey)
        after = grad if self._precision is None else round_to(grad, self._precision, self._key)
        if self._told is not None:
            self._told(grad, after)
        return after


def _trace(
    x: Tensor,
    forward: Precision | None,
    forward_key: Key | TracedKey | None,
    backward: Precision | None,
    backward_key: Key | TracedKey | None,
) -> Tensor:
    numbers = next(
        (k.numbers for k in (forward_key, backward_key) if isinstance(k, TracedKey)), None
    )
    if numbers is None:
        numbers = torch.zeros(2, dtype=torch.int64)
    streams = [k.stream if isinstance(k, TracedKey) else 0 for k in (forward_key, backward_key)]
    rounded: Tensor = _TracedRound.apply(  # type: ignore[no-untyped-call]
        x, numbers, forward, streams[0], backward, streams[1]
    )
    return rounded


def _inside(x: Tensor, fmt: Format) -> Tensor:
    """Where ``x`` lies in the range of a format; a scale of its own leaves nothing outside."""
    if isinstance(fmt, ScalarFormat):
        return (x >= fmt.min) & (x <= fmt.max)
    return torch.ones_like(x, dtype=torch.bool)
