"""Rounding and what is built from it; ``api`` is the door, ``reference`` the semantics."""

from .activation import relu
from .api import quantize, quantize_
from .autograd import Estimator, round_through
from .carrier import check_carrier, check_holds, dtype_format, storage_format
from .dispatch import Backend, round_to
from .matmul import matmul
from .random import Key, TracedKey, random_words
from .scales import DelayedScale
from .stored import Codes, round_to_codes, storable, to_codes, widen

__all__ = [
    "Backend",
    "Codes",
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
    "relu",
    "round_through",
    "round_to",
    "round_to_codes",
    "storable",
    "storage_format",
    "to_codes",
    "widen",
]
