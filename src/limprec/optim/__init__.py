"""Optimizers for parameters of few bits, one a file; ``writeback`` holds the strategies."""

from .sgd import SGD
from .writeback import UpdateEvent, WriteBack

__all__ = ["SGD", "UpdateEvent", "WriteBack"]
