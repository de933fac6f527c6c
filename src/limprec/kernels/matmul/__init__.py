"""Products whose every sum is rounded: the dot product at accumulator precision."""

from .api import matmul

__all__ = ["matmul"]
