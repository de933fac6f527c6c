"""The plan search: the front of accuracy against energy or memory, and the cheapest plan on it."""

from .front import Trial, cheapest, front
from .loop import Outcome, search_plans
from .settings import SearchSettings
from .space import Space

__all__ = [
    "Outcome",
    "SearchSettings",
    "Space",
    "Trial",
    "cheapest",
    "front",
    "search_plans",
]
