"""Rounding and what is built from it; ``api`` is the only door, ``reference`` the semantics."""

from .api import Backend, quantize, quantize_, round_to
from .carrier import check_carrier, storage_format
from .random import Key, random_words

__all__ = [
    "Backend",
    "Key",
    "check_carrier",
    "quantize",
    "quantize_",
    "random_words",
    "round_to",
    "storage_format",
]
