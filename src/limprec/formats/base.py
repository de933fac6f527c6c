"""What every number format can tell of itself."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

from ..errors import FormatError

MAX_LISTED_BITS = 16
"""Widest format whose values are listed one by one."""


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

    @property
    @abstractmethod
    def has_nan(self) -> bool:
        """Whether the format has a code for NaN."""

    @abstractmethod
    def decode(self, code: int) -> float:
        """Return the value of a code: a float, NaN and infinities included.

        Args:
            code: the word, 0 to 2^bits - 1.

        Raises:
            FormatError: for a code out of range.
        """

    @abstractmethod
    def encode(self, value: float) -> int:
        """Return the code of a value of the format; the inverse of ``decode``.

        NaN gives the quiet NaN without a sign; -0 gives the code of 0 where there is no -0.

        Raises:
            FormatError: if ``value`` is none of the format's.
        """

    def values(self) -> tuple[float, ...]:
        """Return every finite value once, ascending.

        Raises:
            FormatError: for a format of more than 16 bits.
        """
        if self.bits > MAX_LISTED_BITS:
            raise FormatError(
                "values", f"{self} has {self.bits} bits", f"list up to {MAX_LISTED_BITS} bits"
            )
        found = {self.decode(code) + 0.0 for code in range(1 << self.bits)}
        return tuple(sorted(v for v in found if math.isfinite(v)))

    def _check_code(self, code: int) -> None:
        if not isinstance(code, int) or not 0 <= code < 1 << self.bits:
            raise FormatError(
                "decode", f"{code!r} is no code of {self}", f"give 0 to 2^{self.bits} - 1"
            )

    def _no_value(self, value: float) -> FormatError:
        return FormatError("encode", f"{value!r} is no value of {self}", "round it to the format")
