"""Where updates and gradients get lost."""

from .frozen import FrozenMeter, FrozenParameter
from .updates import UpdateMeter

__all__ = ["FrozenMeter", "FrozenParameter", "UpdateMeter"]
