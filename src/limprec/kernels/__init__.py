"""Rounding and what is built from it; ``api`` is the door, ``reference`` the semantics."""

from .api import quantize, quantize_
from .autograd import Estimator, round_through
from .carrier import check_carrier, check_holds, dtype_format, storage_format
from .dispatch import Backend, round_to
from .matmul import matmul
from .random import Key, TracedKey, random_words
from .scales import DelayedScale

__all__ = [
    "Backend",
    "DelayedScale",
    "Estimator",
    "Key",
    "TracedKey",
    "check_carrier",
    "check_holds",
    "dtype_format",
    "matmul",
    "quantize",
    "quantize_",
    "random_words",
    "round_through",
    "round_to",
    "storage_format",
]
