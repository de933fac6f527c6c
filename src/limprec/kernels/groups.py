"""Groups of elements that share a scale: what a group's elements say, and back to each element.

A tensor has one entry a group: no axes for one group, ``(channels,)`` for an axis, and for blocks
the shape of the tensor with the axis shortened to its number of blocks.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import KernelError
from ..formats import ScaledFormat

Reduction = Callable[..., Tensor]


def group_shape(shape: torch.Size, fmt: ScaledFormat) -> torch.Size:
    """Return the shape of a tensor that has one entry a group.

    Raises:
        KernelError: if a tensor of ``shape`` lacks the format's axis.
    """
    axis = _axis(shape, fmt)
    if axis is None:
        return torch.Size()
    if fmt.block is None:
        return torch.Size([shape[axis]])
    if not shape:
        return torch.Size([1])
    return torch.Size([*shape[:axis], -(-shape[axis] // fmt.block), *shape[axis + 1 :]])


def reduce(x: Tensor, fmt: ScaledFormat, how: Reduction) -> Tensor:
    """Return ``how`` (``torch.amax`` or ``torch.amin``) of each group; 0 where there is nothing."""
    shape = group_shape(x.shape, fmt)
    if x.numel() == 0:
        return x.new_zeros(shape)
    axis = _axis(x.shape, fmt)
    if axis is None:
        return how(x)
    if fmt.block is None:
        return how(x.movedim(axis, 0).flatten(1) if x.ndim > 1 else x[:, None], dim=1)
    rows = x.reshape(1) if x.ndim == 0 else x.movedim(axis, -1)
    missing = -rows.shape[-1] % fmt.block
    if missing:  # repeating an element changes neither extreme
        rows = torch.cat([rows, rows[..., -1:].expand(*rows.shape[:-1], missing)], dim=-1)
    return how(rows.reshape(*rows.shape[:-1], -1, fmt.block), dim=-1).movedim(-1, axis)


def amax(x: Tensor, fmt: ScaledFormat) -> Tensor:
    """Return the largest magnitude of each group; NaN where the group holds one."""
    return reduce(x.abs(), fmt, torch.amax)


def spread(entries: Tensor, shape: torch.Size, fmt: ScaledFormat) -> Tensor:
    """Give each element of a tensor of ``shape`` (up to broadcasting) the entry of its group."""
    axis = _axis(shape, fmt)
    if axis is None:
        return entries
    if fmt.block is None:
        return entries.reshape([-1 if i == axis else 1 for i in range(len(shape))])
    if not shape:
        return entries.reshape(())
    return entries.repeat_interleave(fmt.block, dim=axis).narrow(axis, 0, shape[axis])


def times(x: Tensor, entries: Tensor, fmt: ScaledFormat) -> Tensor:
    """Multiply each element of ``x`` by the entry of its group."""
    axis, shape = _axis(x.shape, fmt), x.shape
    if axis is None or fmt.block is None or not x.numel() or x.ndim == 0 or shape[axis] % fmt.block:
        return x * spread(entries, shape, fmt)
    blocks = x.reshape(*shape[:axis], -1, fmt.block, *shape[axis + 1 :])
    return (blocks * entries.unsqueeze(axis + 1)).flatten(axis, axis + 1)


def _axis(shape: torch.Size, fmt: ScaledFormat) -> int | None:
    """Return the axis counted from the front; None if the whole tensor is one group."""
    if fmt.axis is None:
        return None
    if not shape and fmt.block is not None:
        return 0
    if not -len(shape) <= fmt.axis < len(shape):
        raise KernelError(
            "quantize",
            f"{fmt} needs axis {fmt.axis}, the tensor has shape {tuple(shape)}",
            "choose an axis of the tensor",
        )
    return fmt.axis % len(shape)
