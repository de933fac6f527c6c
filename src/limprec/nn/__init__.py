"""Converting modules: converted layers, convert and restore."""

from .convert import convert, restore
from .tags import plan_of
from .watch import RoundingEvent, watch_roundings, without_rounding

__all__ = [
    "RoundingEvent",
    "convert",
    "plan_of",
    "restore",
    "watch_roundings",
    "without_rounding",
]
