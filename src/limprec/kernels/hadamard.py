"""Random orthogonal rotations of blocks, which spread outliers before a narrow format rounds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Rotation:
    """x -> H D x / sqrt(n) for each block of n numbers along an axis.

    H is Sylvester's Hadamard matrix of +-1, D a diagonal of signs; the matrix is orthogonal, so the
    product of two tensors that are rotated along the axis that it sums over stays what it was, but
    for rounding in the carrier. n is 16 in NVIDIA's recipe for NVFP4 (arXiv 2509.25149).

    Args:
        signs: (n,) of +-1, n a power of two.
    """

    signs: Tensor

    def __call__(self, x: Tensor, axis: int) -> Tensor:
        """Return x rotated; with zeros behind the last block where the axis does not divide.

        Args:
            x: floating-point tensor, on the device of the signs.
            axis: of the blocks.

        Returns:
            A tensor of the dtype of x. The sums are a butterfly: log2(n) rounds of additions, each
            rounded to the dtype; NaN and infinities spread over their block.
        """
        size = len(self.signs)
        rows = x.movedim(axis, -1)
        rows = F.pad(rows, (0, -rows.shape[-1] % size))
        blocks = rows.reshape(*rows.shape[:-1], -1, size) * self.signs.to(x.dtype)
        half = 1
        while half < size:
            left, right = blocks.view(*blocks.shape[:-1], -1, 2, half).unbind(-2)
            blocks = torch.stack((left + right, left - right), -2).flatten(-3)
            half *= 2
        turned: Tensor = (blocks * size**-0.5).flatten(-2).movedim(-1, axis)
        return turned
