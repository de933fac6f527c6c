"""What every number format can tell of itself."""

from __future__ import annotations

from abc import ABC, abstractmethod


class Format(ABC):
    """A set of numbers that a value may take: frozen, hashable, printed by its short name.

    The properties speak of the values themselves; how a value between them is rounded is not a
    fact of the format (see ``Rounding``), what lies beyond its range is (its overflow policy).
    """

    bits: int
    """Bits that one element takes in memory, a shared scale not counted."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The short name, which ``parse_format`` reads back to an equal format."""

    @property
    @abstractmethod
    def significant_bits(self) -> int:
        """Bits of significand that a binary carrier needs to hold every value exactly."""

    def __str__(self) -> str:
        """Return the short name."""
        return self.name


class ScalarFormat(Format):
    """A format whose values do not depend on the other elements of a tensor."""

    @property
    @abstractmethod
    def max(self) -> float:
        """The largest finite value."""

    @property
    @abstractmethod
    def min(self) -> float:
        """The smallest (most negative) finite value."""

    @property
    @abstractmethod
    def smallest(self) -> float:
        """The smallest positive value."""
