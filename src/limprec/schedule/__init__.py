"""Precision that changes during training."""

from .cyclic import Cyclic

__all__ = ["Cyclic"]
