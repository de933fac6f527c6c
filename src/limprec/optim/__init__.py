"""Optimizers for parameters of few bits, one a file; ``kernels.steps`` holds the write-backs."""

from ..kernels.steps import WriteBack
from .adam import Adam, AdamW
from .lion import Lion
from .rmsprop import RMSprop
from .sgd import SGD
from .storage import StorageOptions
from .writeback import UpdateEvent

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Lion",
    "RMSprop",
    "StorageOptions",
    "UpdateEvent",
    "WriteBack",
]
