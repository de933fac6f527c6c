"""Precision that changes during training."""

from .bits import BitScheduler
from .cyclic import Cyclic
from .learnable import Learnable, LearnedBits

__all__ = ["BitScheduler", "Cyclic", "Learnable", "LearnedBits"]
