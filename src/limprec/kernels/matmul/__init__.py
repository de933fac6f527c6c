"""Products whose every sum is rounded, and layers whose products are exact sums of integers."""

from .api import matmul
from .integer import integer_matmul
from .operands import can_be_real, why_not_real
from .real import Roundings, real_linear, real_matmul
from .real_conv import real_conv

__all__ = [
    "Roundings",
    "can_be_real",
    "integer_matmul",
    "matmul",
    "real_conv",
    "real_linear",
    "real_matmul",
    "why_not_real",
]
