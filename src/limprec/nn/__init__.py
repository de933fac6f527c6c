"""Converting modules: rounding inside autograd, converted layers, convert and restore."""

from .convert import convert, restore
from .rounding import round_through
from .tags import plan_of

__all__ = ["convert", "plan_of", "restore", "round_through"]
