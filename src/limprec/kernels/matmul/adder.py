"""How the hardware at hand adds the terms of a dot product."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from ...errors import KernelError
from ...formats import FixedPoint, FloatingPoint, Format, Rounding

Kind = Literal["sequential", "tree", "aligned"]
MAX_WAYS = 4096
MAX_SIGNIFICANT_BITS = 50
"""Widest accumulator: a sum rounded to odd in float64's 53 bits can be rounded again to 51."""
MAX_STOCHASTIC_BITS = 20
"""Widest float for stochastic rounding: below it must stay the 32 bits of a random word."""
RANGE = 2.0**500
"""Values of accumulators and rounded products lie between its inverse and itself."""
_ALIGNED = re.compile(r"aligned:(\d{1,9}):(\d{1,9})")


@dataclass(frozen=True)
class Adder:
    """One way to add, read from and printed to a short name.

    Args:
        kind: ``sequential``, ``tree`` or ``aligned``.
        ways: products that an aligned adder takes at a time.
        extra: bits that it keeps below the last place of the accumulator.
    """

    kind: Kind
    ways: int = 0
    extra: int = 0

    def __str__(self) -> str:
        """``sequential``, ``tree`` or e.g. ``aligned:4:2``."""
        return f"aligned:{self.ways}:{self.extra}" if self.kind == "aligned" else self.kind


def parse_adder(name: str | None) -> Adder:
    """Return the adder of a short name; None is ``sequential``.

    Raises:
        KernelError: for an unknown name, or one with too many ways.
    """
    if name is None or name == "sequential":
        return Adder("sequential")
    if name == "tree":
        return Adder("tree")
    found = _ALIGNED.fullmatch(name) if isinstance(name, str) else None
    if found is None:
        raise KernelError(
            "matmul",
            f"unknown adder {name!r}",
            "use 'sequential', 'tree' or 'aligned:WAYS:BITS', e.g. 'aligned:4:2'",
        )
    ways, extra = int(found[1]), int(found[2])
    if not 1 <= ways <= MAX_WAYS:
        raise KernelError("matmul", f"{ways} ways in {name!r}", f"give 1 to {MAX_WAYS} ways")
    return Adder("aligned", ways, extra)


def check_sum(fmt: Format, rounding: Rounding, adder: Adder, kahan: bool) -> None:
    """Refuse accumulators and adders that cannot be simulated exactly.

    Raises:
        KernelError: for a combination that does not exist.
    """
    check_format("accumulator", fmt, rounding)
    if kahan and adder.kind != "sequential":
        raise KernelError(
            "matmul", f"Kahan summation with adder '{adder}'", "use adder='sequential' with kahan"
        )
    if adder.kind != "aligned":
        return
    if not isinstance(fmt, FloatingPoint):
        raise KernelError(
            "matmul",
            f"adder '{adder}' with accumulator {fmt}",
            "use 'sequential' or 'tree': fixed-point terms are aligned already",
        )
    width = aligned_width(fmt, adder)
    if width > MAX_SIGNIFICANT_BITS:
        raise KernelError(
            "matmul",
            f"adder '{adder}' into {fmt} is {width} bits wide",
            f"choose fewer ways or extra bits: {MAX_SIGNIFICANT_BITS} bits can be exact",
        )


def aligned_width(fmt: FloatingPoint, adder: Adder) -> int:
    """Bits of the exact sum of an aligned adder: addends, carries and the accumulator itself."""
    return fmt.significant_bits + adder.extra + (adder.ways + 1).bit_length()


def check_format(what: str, fmt: Format, rounding: Rounding) -> None:
    """Refuse formats that sums or products cannot be rounded to exactly.

    Raises:
        KernelError: for a format with a scale, too many bits or too wide a range.
    """
    if not isinstance(fmt, FixedPoint | FloatingPoint):
        raise KernelError(
            "matmul",
            f"{what} {fmt} has a scale that follows the whole tensor",
            "use a fixed-point or floating-point format, e.g. 'e5m10' or 'fx32.16'",
        )
    limit = MAX_SIGNIFICANT_BITS
    if rounding is Rounding.STOCHASTIC and isinstance(fmt, FloatingPoint):
        limit = MAX_STOCHASTIC_BITS
    if fmt.significant_bits > limit:
        raise KernelError(
            "matmul",
            f"{what} {fmt} has {fmt.significant_bits} significant bits",
            f"use at most {limit} with rounding '{rounding}', so that it can be exact",
        )
    if fmt.max > RANGE or fmt.smallest < 1 / RANGE:
        raise KernelError(
            "matmul",
            f"{what} {fmt} spans {fmt.smallest:.3g} to {fmt.max:.3g}",
            "use a format within 2^-500 to 2^500",
        )
