"""Converting modules: converted layers, convert and restore."""

from .convert import convert, restore
from .tags import plan_of

__all__ = ["convert", "plan_of", "restore"]
