"""ReLU for training: what it saves is one bit an element."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .masks import is_dense, masked, relu_with_mask


class _Relu(torch.autograd.Function):
    """ReLU under an optional ceiling."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ceiling: float | None) -> Tensor:
        """Return ReLU and save where its derivative is 1."""
        y, mask = relu_with_mask(x, ceiling)
        ctx.save_for_backward(mask)
        ctx.stride = y.stride()
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """Let the gradient through where the derivative is 1."""
        (mask,) = ctx.saved_tensors
        grad: Tensor = _Masked.apply(grads[0], mask, ctx.stride)  # type: ignore[no-untyped-call]
        return grad, None


class _ReluInPlace(torch.autograd.Function):
    """ReLU that overwrites its input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Overwrite ``x`` and save where its derivative is 1."""
        alone = is_dense(x)
        y, mask = relu_with_mask(x, out=x.detach() if alone else None)
        if not alone:
            x.copy_(y)
        ctx.mark_dirty(x)
        ctx.save_for_backward(mask)
        ctx.stride = y.stride()
        return x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        """Let the gradient through where the derivative is 1."""
        (mask,) = ctx.saved_tensors
        grad: Tensor = _Masked.apply(grads[0], mask, ctx.stride)  # type: ignore[no-untyped-call]
        return grad


class _Masked(torch.autograd.Function):
    """A gradient under a mask: linear, so that it is its own derivative."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, mask: Tensor, stride: tuple[int, ...]) -> Tensor:
        """Return the gradient where the mask has 1, and 0 elsewhere."""
        ctx.save_for_backward(mask)
        ctx.stride = stride
        return masked(grad, mask, stride)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        """Do the same to the gradient's own gradient."""
        (mask,) = ctx.saved_tensors
        grad: Tensor = _Masked.apply(grads[0], mask, ctx.stride)  # type: ignore[no-untyped-call]
        return grad, None, None


def relu(x: Tensor, ceiling: float | None = None) -> Tensor:
    """Return ``torch.relu(x)``, or ReLU cut at a ceiling, keeping one bit an element for backward.

    Results and gradients are those of ``torch.relu`` bit for bit, second derivatives too, also for
    NaN (stays NaN, its gradient passes), -0 and infinities. With ceiling 6 they are those of
    ``relu6``; the gradient at a NaN passes there too, where PyTorch's depends on the place.

    Args:
        x: floating-point tensor of any shape and layout.
        ceiling: 6 for ReLU6; None for none.
    """
    y: Tensor = _Relu.apply(x, ceiling)  # type: ignore[no-untyped-call]
    return y


def relu_(x: Tensor) -> Tensor:
    """``relu`` in place, with one bit an element for backward; ``torch.relu_`` bit for bit.

    Raises:
        RuntimeError: from PyTorch, for a leaf that requires grad.
    """
    y: Tensor = _ReluInPlace.apply(x)  # type: ignore[no-untyped-call]
    return y
