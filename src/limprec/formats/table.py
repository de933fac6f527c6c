"""Formats given by the table of their values: one's own, posits, logarithmic numbers."""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise

from ..errors import FormatError
from .base import MAX_LISTED_BITS, Format, ScalarFormat
from .fixed import check_bits


class ListedFormat(ScalarFormat):
    """A scalar format that is known by its values, ascending.

    Rounding goes to one of the two neighbours in the table: ``nearest`` to the nearer one, a tie
    to the even code; ``nearest_away``, ``toward_zero`` and ``stochastic`` take "away from zero" as
    up for x >= 0 and down for x < 0; ``stochastic`` goes that way with the probability
    (x - near) / (far - near), computed in float64 in that order. What lies beyond the ends becomes
    the end, NaN stays NaN in a carrier, and zero has no sign.
    """

    table: tuple[float, ...]
    """The finite values, ascending, each once."""

    @property
    def thresholds(self) -> tuple[float, ...]:
        """Where ``nearest`` changes from one value to the next: halfway, rounded to float64."""
        return _midpoints(self.table)

    @property
    def origin(self) -> int:
        """Index in the table of the value whose code is 0."""
        return 0

    @property
    def keeps_infinity_out(self) -> bool:
        """Whether an infinity becomes NaN rather than the end of the table."""
        return False

    @property
    def max(self) -> float:
        """The last value."""
        return self.table[-1]

    @property
    def min(self) -> float:
        """The first value."""
        return self.table[0]

    @property
    def smallest(self) -> float:
        """The smallest positive value, the largest one if none is positive."""
        return next((v for v in self.table if v > 0), self.max)

    @property
    def significant_bits(self) -> int:
        """Bits of the longest significand in the table."""
        return _longest_significand(self.table)

    @property
    def has_nan(self) -> bool:
        """Whether the format has a code for NaN."""
        return False

    def values(self) -> tuple[float, ...]:
        """Return the table."""
        return self.table

    def code_of(self, index: int) -> int:
        """Return the code of the value at an index of the table."""
        return index

    def index_of(self, code: int) -> int | None:
        """Return the index of a code in the table, None if the code is NaN."""
        if code >= len(self.table):
            raise FormatError(
                "decode", f"{code} is no code of {self}", f"give 0 to {len(self.table) - 1}"
            )
        return code

    def decode(self, code: int) -> float:
        """Return the value of a code."""
        self._check_code(code)
        index = self.index_of(code)
        return math.nan if index is None else self.table[index]

    def encode(self, value: float) -> int:
        """Return the code of a value."""
        if math.isnan(value) and self.has_nan:
            return 1 << (self.bits - 1)
        index = bisect_left(self.table, value)
        if math.isnan(value) or index == len(self.table) or self.table[index] != value:
            raise self._no_value(value)
        return self.code_of(index)


@dataclass(frozen=True)
class TableFormat(ListedFormat):
    """A format of one's own: any finite set of numbers.

    The code of a value is its index in the table, in as few bits as hold them all. There is no
    code for NaN.

    Args:
        label: what to call it: a letter, then letters, digits or ``_``.
        table: the values, in any order, each once.

    The short name spells the values out, ``mine{-1,0,1}``, so that it says all there is to know.

    Raises:
        FormatError: for fewer than two or more than 65536 values, one that repeats or is not
            finite, or a label of another form.
    """

    label: str
    table: tuple[float, ...]

    def __post_init__(self) -> None:
        """Sort the values; refuse tables that cannot be rounded to."""
        if not isinstance(self.label, str) or not re.fullmatch(r"[A-Za-z]\w*", self.label):
            raise FormatError(
                "TableFormat", f"label {self.label!r}", "write a letter, then letters, digits or _"
            )
        try:
            table = tuple(sorted(float(v) + 0.0 for v in self.table))
        except (TypeError, ValueError):
            raise FormatError("TableFormat", f"values {self.table!r}", "give numbers") from None
        if not 2 <= len(table) <= 1 << MAX_LISTED_BITS:
            raise FormatError("TableFormat", f"{len(table)} values", "give 2 to 65536")
        if odd := [v for v in table if not math.isfinite(v)]:
            raise FormatError("TableFormat", f"the value {odd[0]}", "give finite values only")
        if twice := [a for a, b in pairwise(table) if a == b]:
            raise FormatError("TableFormat", f"{twice[0]} twice", "give each value once")
        object.__setattr__(self, "table", table)

    @property
    def bits(self) -> int:  # type: ignore[override]  # derived here, a field elsewhere
        """Bits of an index into the table."""
        return (len(self.table) - 1).bit_length()

    @property
    def name(self) -> str:
        """``mine{-1,0,1}``: the label and the values."""
        return f"{self.label}{{{','.join(repr(v).removesuffix('.0') for v in self.table)}}}"

    __str__ = Format.__str__


class _SignedTable(ListedFormat):
    """A table that is symmetric about 0, whose code 0 is 0 and whose top bit alone is NaN."""

    @property
    def origin(self) -> int:
        """Zero is in the middle."""
        return (1 << (self.bits - 1)) - 1

    @property
    def has_nan(self) -> bool:
        """The code with the top bit alone is NaN."""
        return True


@dataclass(frozen=True)
class Posit(_SignedTable):
    """Posits: sign, a run-length coded regime, ``es`` exponent bits, fraction; two's complement.

    The 2022 standard has ``es`` 2, older work 0, 1 or 3. As the standard says, nearest roundings
    decide by the bits that are cut off (the threshold is the posit of one more bit between two
    neighbours), never send a number but 0 to 0, and none beyond the largest; the other roundings
    speak of the values. Infinities and NaN become NaR, which is NaN in a carrier.

    Args:
        bits: word length, 3 to 16.
        es: exponent bits, 0 to 3.

    Raises:
        FormatError: for a field out of range.
    """

    bits: int
    es: int = 2

    def __post_init__(self) -> None:
        """Refuse widths that do not exist."""
        check_bits("Posit", self.bits, 3, MAX_LISTED_BITS)
        if not isinstance(self.es, int) or not 0 <= self.es <= 3:
            raise FormatError("Posit", f"es {self.es!r}", "give an integer from 0 to 3")

    @property
    def name(self) -> str:
        """``posit8`` with the 2022 standard's es of 2, else ``posit8es1``."""
        return f"posit{self.bits}" + ("" if self.es == 2 else f"es{self.es}")

    @property
    def table(self) -> tuple[float, ...]:  # type: ignore[override]  # derived, a field elsewhere
        """The values, ascending."""
        return _posits(self.bits, self.es)

    @property
    def thresholds(self) -> tuple[float, ...]:
        """The posits of one more bit that lie between neighbours; 0 next to 0."""
        return _posit_thresholds(self.bits, self.es)

    @property
    def keeps_infinity_out(self) -> bool:
        """Infinities are not real numbers: NaR."""
        return True

    def code_of(self, index: int) -> int:
        """Return the word: two's complement in the order of the values."""
        return (index - self.origin) % (1 << self.bits)

    def index_of(self, code: int) -> int | None:
        """Return the index of a word, None for NaR."""
        half = 1 << (self.bits - 1)
        return None if code == half else (code + half) % (1 << self.bits) - 1

    __str__ = Format.__str__


@dataclass(frozen=True)
class Logarithmic(_SignedTable):
    """Sign and log2 of the magnitude in fixed point: +-2^((k - bias) / 2^fraction_bits) and 0.

    Codes are sign and magnitude: magnitude 0 is 0, k from 1 to 2^(bits-1) - 1 the power above with
    bias = 2^(bits-2); the word of -0 is NaN. The values are rounded to 24 significant bits, so that
    float32 carries them. ``nearest`` is nearest on the number line, not in the logarithm.

    Args:
        bits: word length, 3 to 16.
        fraction_bits: binary digits of the logarithm after the point, 0 to bits - 2.

    Raises:
        FormatError: for a field out of range, or values that leave float32's normal range.
    """

    bits: int
    fraction_bits: int

    def __post_init__(self) -> None:
        """Refuse widths that do not exist, and ranges that no carrier holds."""
        check_bits("Logarithmic", self.bits, 3, MAX_LISTED_BITS)
        f = self.fraction_bits
        if not isinstance(f, int) or not 0 <= f <= self.bits - 2:
            raise FormatError(
                "Logarithmic", f"{f!r} fraction bits", f"give an integer from 0 to {self.bits - 2}"
            )
        if self.bits - 2 - f > 6:
            raise FormatError(
                "Logarithmic",
                f"{self.name} reaches 2^{1 << (self.bits - 2 - f)}",
                f"give at least {self.bits - 8} fraction bits",
            )

    @property
    def name(self) -> str:
        """``log8.3``: bits and fraction bits of the logarithm."""
        return f"log{self.bits}.{self.fraction_bits}"

    @property
    def table(self) -> tuple[float, ...]:  # type: ignore[override]  # derived, a field elsewhere
        """The values, ascending."""
        return _logarithmic(self.bits, self.fraction_bits)

    def code_of(self, index: int) -> int:
        """Return the word: sign and magnitude."""
        k = index - self.origin
        return k if k >= 0 else (1 << (self.bits - 1)) - k

    def index_of(self, code: int) -> int | None:
        """Return the index of a word, None for that of -0."""
        half = 1 << (self.bits - 1)
        return None if code == half else self.origin + (code if code < half else half - code)

    __str__ = Format.__str__


@lru_cache(maxsize=64)
def _posits(bits: int, es: int) -> tuple[float, ...]:
    return _symmetric(_positive_posits(bits, es))


@lru_cache(maxsize=64)
def _posit_thresholds(bits: int, es: int) -> tuple[float, ...]:
    between = _positive_posits(bits + 1, es)[2:-1:2]
    return (*(-v for v in reversed(between)), 0.0, 0.0, *between)


@lru_cache(maxsize=64)
def _logarithmic(bits: int, fraction_bits: int) -> tuple[float, ...]:
    return _symmetric(_positive_logarithmic(bits, fraction_bits))


def _symmetric(positive: tuple[float, ...]) -> tuple[float, ...]:
    return (*(-v for v in reversed(positive)), 0.0, *positive)


@lru_cache(maxsize=256)
def _midpoints(table: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(float((Fraction(a) + Fraction(b)) / 2) for a, b in pairwise(table))


@lru_cache(maxsize=256)
def _longest_significand(table: tuple[float, ...]) -> int:
    """Return the bits of the longest odd numerator over a power of two."""
    return max(1, *(_odd_part(abs(v.as_integer_ratio()[0])).bit_length() for v in table))


def _odd_part(n: int) -> int:
    return n // (n & -n) if n else 0


def _positive_posits(bits: int, es: int) -> tuple[float, ...]:
    """Return the values of the words 1 to 2^(bits-1) - 1, which ascend."""
    return tuple(_posit(word, bits, es) for word in range(1, 1 << (bits - 1)))


def _posit(word: int, bits: int, es: int) -> float:
    """Return the value of a positive posit: (2^2^es)^k * 2^e * 1.f."""
    digits = f"{word:0{bits - 1}b}"  # without the sign bit
    run = len(digits) - len(digits.lstrip(digits[0]))
    k = run - 1 if digits[0] == "1" else -run
    rest = digits[run + 1 :]  # behind the bit that ends the run
    exponent = int(rest[:es].ljust(es, "0") or "0", 2)
    fraction = rest[es:]
    significand = Fraction(int("1" + fraction, 2), 1 << len(fraction))
    return float(significand * Fraction(2) ** (k * (1 << es) + exponent))


def _positive_logarithmic(bits: int, fraction_bits: int) -> tuple[float, ...]:
    """Return 2^((k - bias) / 2^fraction_bits) for k from 1, rounded to 24 significant bits."""
    bias = 1 << (bits - 2)
    found = []
    for k in range(1, 1 << (bits - 1)):
        whole, part = divmod(k - bias, 1 << fraction_bits)
        significand = round(2.0 ** (part / (1 << fraction_bits)) * 2**23)
        found.append(math.ldexp(significand, whole - 23))
    return tuple(found)
