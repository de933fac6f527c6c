"""The gradient of a number of bits: how a loss follows from them through the scale."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..formats import Affine, DynamicFixedPoint, Format


class Learner:
    """What a layer learns its forward bits by: one of the numbers beta.

    bits = round(beta * span + low), straight-through, so d bits / d beta = ``span``. Rounding to
    the step s leaves y = x + s e; that e, the rounding error in steps, stays as it is, is the
    straight-through rule for s. So dy/ds = e = (y - x) / s, and from a loss L with g = dL/dy::

        dL/dbits = sum(g (y - x)) * d ln(s) / dbits

    See ``log_step_slope`` for the last factor. What x gets stays g: minimum and maximum, which the
    scale follows, pass nothing back, as everywhere here. It is LDP's gradient (Yu et al., 2022,
    arXiv 2203.07713): through the scale (max - min) / (2^bits - 1), straight-through the rounding.

    A copy of a layer, by ``copy`` or ``pickle``, keeps its bits and learns no more: the copy of a
    learner is None.

    Args:
        betas: float, (layers,); a leaf.
        index: which of them is the layer's.
        span: bits from beta = 0 to beta = 1.
    """

    def __init__(self, betas: Tensor, index: int, span: int) -> None:
        self._betas, self._index, self._span = betas, index, span

    def follow(self, x: Tensor, y: Tensor, fmt: Format) -> Tensor:
        """Return ``y``, the rounded ``x``, with the gradient of beta behind it.

        Args:
            x: before the rounding to ``fmt``.
            y: after it; the same shape and dtype.
            fmt: one without forward bits to change (fp32, say) leaves ``y`` as it is.
        """
        if not isinstance(fmt, Affine | DynamicFixedPoint) or not torch.is_grad_enabled():
            return y
        if torch.compiler.is_compiling():
            from .uncompiled import refuse_learned

            refuse_learned()
        slope = log_step_slope(fmt) * self._span
        followed: Tensor = _Follow.apply(  # type: ignore[no-untyped-call]
            y, x.detach(), self._betas[self._index], slope
        )
        return followed

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """Copy as None."""
        return type(None), ()


def log_step_slope(fmt: Affine | DynamicFixedPoint) -> float:
    """Return d ln(s) / d bits of the step s of a format's codes.

    With N = 2^bits, or 2^(bits-1) for symmetric codes, s = range / (N - 1) gives
    -ln 2 * N / (N - 1). The step of dynamic fixed point is the power of two 2^(E - bits + 1), where
    E follows the tensor alone: -ln 2.
    """
    if isinstance(fmt, DynamicFixedPoint):
        return -math.log(2)
    steps = 1 << (fmt.bits - (fmt.zero == "none"))
    return -math.log(2) * steps / (steps - 1)


class _Follow(torch.autograd.Function):
    """The rounded tensor going forward; going back its gradient, and that of one number."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, beta: Tensor, slope: float) -> Tensor:
        """Return y."""
        ctx.save_for_backward(x, y)
        ctx.slope, ctx.like = slope, (beta.dtype, beta.device)
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, Tensor | None, None]:
        """Pass the gradient of y on, and give beta its own."""
        (grad,), (x, y), (dtype, device) = grads, ctx.saved_tensors, ctx.like
        own = None
        if ctx.needs_input_grad[2]:
            wide = torch.promote_types(grad.dtype, torch.float32)
            own = (ctx.slope * (grad.to(wide) * (y - x)).sum()).to(device, dtype)
        return grad, None, own, None
