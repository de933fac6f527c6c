"""The rounding modes by name."""

from __future__ import annotations

from enum import StrEnum

from ..errors import FormatError


class Rounding(StrEnum):
    """How a value between two neighbours of a format is sent to one of them."""

    NEAREST = "nearest"
    """To the nearer neighbour, ties to the even code (IEEE 754 roundTiesToEven)."""
    NEAREST_AWAY = "nearest_away"
    """To the nearer neighbour, ties away from zero."""
    TOWARD_ZERO = "toward_zero"
    """To the neighbour of smaller magnitude (truncation)."""
    DOWN = "down"
    """To the smaller neighbour."""
    UP = "up"
    """To the larger neighbour."""
    STOCHASTIC = "stochastic"
    """Away from zero with a probability equal to the fraction of the gap, cut to 32 bits or to a
    chosen number of them (``Precision.random_bits``)."""


MAX_RANDOM_BITS = 32
"""Of one element's random word."""


def parse_rounding(name: str) -> Rounding:
    """Return the rounding called ``name``.

    Raises:
        FormatError: if there is none of that name.
    """
    try:
        return Rounding(name)
    except ValueError:
        raise FormatError(
            "rounding", f"unknown rounding {name!r}", "use one of " + ", ".join(Rounding)
        ) from None
