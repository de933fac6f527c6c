"""Precision that changes during training."""

from .bits import BitScheduler
from .cyclic import Cyclic

__all__ = ["BitScheduler", "Cyclic"]
