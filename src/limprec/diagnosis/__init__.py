"""Where updates and gradients get lost."""

from .updates import UpdateMeter

__all__ = ["UpdateMeter"]
