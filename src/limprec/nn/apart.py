"""Products whose two gradients are computed one after the other.

PyTorch computes both at once, with both operands at hand. Where these wait as codes, one at a time
is widened here, and let go before the next; the numbers are those of PyTorch, bit for bit.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..kernels.matmul.exact_conv import Options, convolution, convolution_back, stand_in
from .forms import each
from .operators import Operator
from .saving import unpack

_CONVOLUTIONS = frozenset({"conv1d", "conv2d", "conv3d"})
_DEVICES = ("cpu", "cuda")
"""Where a linear layer's derivative is written in plain products of matrices."""


class Convolution(NamedTuple):
    """A convolution of batches."""

    options: Options

    def ahead(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the convolution."""
        return convolution(x, weight, bias, self.options)

    def by_weight(self, e: Tensor, x: Tensor, weight: Seen, bias: bool, needed: bool) -> _Pair:
        """Return the gradients with respect to weight and bias."""
        own, mask = stand_in(e, *weight), [False, needed, bias]
        return convolution_back(e, x, own, self.options, mask)[1:]  # type: ignore[return-value]

    def by_input(self, e: Tensor, x: Seen, weight: Tensor) -> Tensor | None:
        """Return the gradient with respect to the input."""
        return convolution_back(e, stand_in(e, *x), weight, self.options, [True, False, False])[0]


class Linear(NamedTuple):
    """A linear layer of contiguous operands."""

    def ahead(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the product."""
        return F.linear(x, weight, bias)

    def by_weight(self, e: Tensor, x: Tensor, weight: Seen, bias: bool, needed: bool) -> _Pair:
        """Return the gradients with respect to weight and bias."""
        rows = e.reshape(-1, e.shape[-1])
        return (
            rows.t().mm(x.reshape(-1, x.shape[-1])) if needed else None,
            rows.sum_to_size(e.shape[-1]) if bias else None,
        )

    def by_input(self, e: Tensor, x: Seen, weight: Tensor) -> Tensor:
        """Return the gradient with respect to the input."""
        return e.reshape(-1, e.shape[-1]).mm(weight).view(x.size)


class Seen(NamedTuple):
    """How a tensor lies."""

    size: torch.Size
    stride: tuple[int, ...]


Given = dict[str, Any]
"""Arguments of a function by name."""
_Pair = tuple[Tensor | None, Tensor | None]


def way_back(operator: Operator, given: Given) -> Convolution | Linear | None:
    """Return how the gradients of a function's operands are computed, None where PyTorch does."""
    x, weight = given["input"], given.get("weight")
    if operator.word == "linear" and weight is not None:
        plain = x.ndim > 1 and weight.ndim == 2 and x.is_contiguous() and weight.is_contiguous()
        return Linear() if plain and x.numel() and x.device.type in _DEVICES else None
    options = options_of(operator, given)
    return None if options is None else Convolution(options)


def options_of(operator: Operator, given: Given) -> Options | None:
    """Return the options of a convolution of a batch with padding in numbers, None of others."""
    padding = given.get("padding", 0)
    if operator.word not in _CONVOLUTIONS or isinstance(padding, str):
        return None
    weight = given["weight"]
    if given["input"].ndim != weight.ndim:
        return None
    stride, dilation = given.get("stride", 1), given.get("dilation", 1)
    stride, padding, dilation = (
        each(value, weight.ndim - 2) for value in (stride, padding, dilation)
    )
    return Options(stride, padding, dilation, given.get("groups", 1))


def multiply(how: Convolution | Linear, given: Given) -> Tensor:
    """Return the function of rounded operands; ``how`` is ``way_back`` of the others.

    Within ``Kept.saving``, whose codes then wait for the way back. A second derivative is that of
    the same functions.
    """
    y: Tensor = _Apart.apply(  # type: ignore[no-untyped-call]
        given["input"], given["weight"], given.get("bias"), how
    )
    return y


class _Apart(torch.autograd.Function):
    """One product."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, how: Convolution | Linear
    ) -> Tensor:
        """Multiply, and save of each operand what the other's gradient needs."""
        ctx.set_materialize_grads(False)
        need_x, need_weight = ctx.needs_input_grad[:2]
        ctx.save_for_backward(x if need_weight else None, weight if need_x else None)
        ctx.how = how
        ctx.seen = Seen(x.shape, x.stride()), Seen(weight.shape, weight.stride())
        return how.ahead(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        """Multiply the error with the input, then, when that is gone, with the weight."""
        (e,) = grads
        need_x, need_weight, need_bias = ctx.needs_input_grad[:3]
        if e is None:
            return None, None, None, None
        how, (x_seen, weight_seen) = ctx.how, ctx.seen
        grad_weight = grad_bias = grad_x = None
        if need_weight or need_bias:
            x = _saved(ctx, 0) if need_weight else stand_in(e, *x_seen)
            grad_weight, grad_bias = how.by_weight(e, x, weight_seen, need_bias, need_weight)
            del x
        if need_x:
            grad_x = how.by_input(e, x_seen, _saved(ctx, 1))
        return grad_x, grad_weight, grad_bias, None


def _saved(ctx: Any, place: int) -> Tensor:
    """Return one of the saved tensors, without those beside it where they need not be there."""
    if torch.is_grad_enabled():  # someone will differentiate again
        tensor: Tensor = ctx.saved_tensors[place]
        return tensor
    saved = ctx._raw_saved_tensors[place]
    return unpack(saved.data) if hasattr(saved, "data") else ctx.saved_tensors[place]
