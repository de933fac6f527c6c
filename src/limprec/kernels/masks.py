"""ReLU that keeps one bit an element for backward, where autograd would keep its result."""

from __future__ import annotations

import torch
from torch import Tensor

from .dispatch import Backend
from .native import stored


def relu_with_mask(
    x: Tensor,
    ceiling: float | None = None,
    *,
    out: Tensor | None = None,
    backend: Backend = Backend.AUTO,
) -> tuple[Tensor, Tensor]:
    """Return ReLU, cut at a ceiling if there is one, and where its derivative is 1.

    Args:
        x: floating-point tensor of any layout.
        ceiling: 6 for ReLU6; None for none.
        out: where to write the result, in its shape and layout; may be ``x``.
        backend: ``REFERENCE`` for plain PyTorch, else the fastest that is there.

    Returns:
        ``torch.relu(x)``, bit for bit (``hardtanh(x, 0, ceiling)`` under a ceiling), in the layout
        of ``empty_like(x)``: NaN stays NaN and -0 stays -0. And the mask: uint8, one dimension. Bit
        i % 8 of byte i // 8, the least significant first, belongs to the i-th element in the order
        of the result's memory. It is 0 where x <= 0 or x >= ceiling, so that NaN has 1. Bits behind
        the last are 0.
    """
    x = x.detach()
    if backend is Backend.AUTO and stored.can_mask(x):
        return stored.relu_with_mask(x, ceiling, out=out)
    y = (torch.empty_like(x) if out is None else out).copy_(x.clamp(0.0, ceiling))
    flat = _in_memory_order(y)
    keep = ~(flat <= 0)
    if ceiling is not None:
        keep &= ~(flat >= ceiling)
    whole = torch.nn.functional.pad(keep.to(torch.uint8), (0, -len(keep) % 8)).view(-1, 8)
    return y, (whole << _places(x)).sum(dim=1, dtype=torch.uint8)


def masked(
    grad: Tensor, mask: Tensor, stride: tuple[int, ...], *, backend: Backend = Backend.AUTO
) -> Tensor:
    """Return a gradient where the mask has 1, and +0 elsewhere: a new tensor.

    Args:
        grad: floating-point tensor in the shape of the masked one, of any layout and dtype.
        mask: as ``relu_with_mask`` gives it.
        stride: that of the masked tensor; the result has it too.
        backend: as for ``relu_with_mask``.
    """
    grad = grad.detach()
    if backend is Backend.AUTO and stored.can_mask(grad):
        return stored.masked(grad, mask, stride)
    result = torch.empty_strided(grad.shape, stride, dtype=grad.dtype, device=grad.device)
    flat = _in_memory_order(result.copy_(grad))
    keep = (mask.unsqueeze(1) >> _places(grad) & 1).view(-1)[: grad.numel()].to(torch.bool)
    flat.masked_fill_(~keep, 0.0)
    return result


def is_dense(x: Tensor) -> bool:
    """Whether the elements of a tensor, none of them written twice, fill a stretch of memory."""
    span = 1 + sum((n - 1) * stride for n, stride in zip(x.shape, x.stride(), strict=True))
    return x.numel() in (0, span)


def _in_memory_order(x: Tensor) -> Tensor:
    """Return the elements of a dense tensor as they lie, one dimension, sharing its memory."""
    return x.as_strided((x.numel(),), (1,))


def _places(x: Tensor) -> Tensor:
    return torch.arange(8, dtype=torch.uint8, device=x.device)
