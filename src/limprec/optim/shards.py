"""The part of a tensor that this process holds: everything, or a shard of a DTensor."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

from torch import Tensor

from ..errors import OptimizerError


class Shard(NamedTuple):
    """A process's part of a tensor."""

    local: Tensor
    """The elements that lie here."""
    offset: int = 0
    """Row-major index of the first of them in the whole tensor."""
    start: int = 0
    """The same in rows of the first dimension."""

    def cut(self, whole: Tensor) -> Tensor:
        """Return the part of a whole tensor that belongs here."""
        if whole.shape == self.local.shape:
            return whole
        return whole[self.start : self.start + self.local.shape[0]]

    @staticmethod
    def like(p: Tensor, local: Tensor) -> Tensor:
        """Return ``local`` as a shard of the same layout as ``p``, itself where ``p`` is whole."""
        if not _is_sharded(p):
            return local
        from torch.distributed.tensor import DTensor

        sharded: Any = p
        return DTensor.from_local(
            local,
            sharded.device_mesh,
            sharded.placements,
            run_check=False,
            shape=p.shape,
            stride=p.stride(),
        )


def shard_of(p: Tensor) -> Shard:
    """Return what this process holds of a tensor.

    Random bits depend on an element's place in the whole tensor, so that they are the same however
    it is sharded.

    Raises:
        OptimizerError: for a DTensor that is sharded otherwise than along its first dimension, or
            that holds partial sums.
    """
    if not _is_sharded(p):
        return Shard(p)
    from torch.distributed.tensor import Replicate
    from torch.distributed.tensor import Shard as Along
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    sharded: Any = p
    local = sharded.to_local()
    for placement in sharded.placements:
        whole_rows = isinstance(placement, Along) and placement.dim == 0
        if not (whole_rows or isinstance(placement, Replicate)):
            raise OptimizerError(
                "optimizer",
                f"a parameter sharded as {tuple(sharded.placements)}",
                "shard along dimension 0, as FSDP2 does, or replicate",
            )
    _, start = compute_local_shape_and_global_offset(
        p.shape, sharded.device_mesh, sharded.placements
    )
    first = start[0] if start and local.numel() else 0
    row = p.numel() // p.shape[0] if p.ndim and p.shape[0] else 0
    return Shard(local, first * row, first)


def require_whole(p: Tensor, optimizer: str) -> None:
    """Refuse a sharded parameter.

    Raises:
        OptimizerError: for a DTensor.
    """
    if _is_sharded(p):
        raise OptimizerError(
            optimizer, "a sharded parameter", "its update needs the whole: use AdamW or SGD"
        )


def _is_sharded(p: Tensor) -> bool:
    if type(p) is Tensor or "torch.distributed.tensor" not in sys.modules:
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(p, DTensor)
