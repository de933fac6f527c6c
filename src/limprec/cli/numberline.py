"""A number line in text: where the values of a format lie."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

BLOCKS = " ▁▂▃▄▅▆▇█"
PLAIN = " .:-=+*#@"
"""Bars of nine heights, for terminals and for pipes that may know ASCII alone."""


def number_line(values: Sequence[float], width: int = 64, heights: str = BLOCKS) -> list[str]:
    """Return a line of bars from the smallest to the largest value, with a ruler under it.

    A bar is as high as its stretch of the line has values, on a square-root scale so that a
    single value still shows.

    Args:
        values: finite values, ascending, at least two.
        width: characters.
        heights: nine characters from empty to full.
    """
    low, high = values[0], values[-1]
    # Halves first: the distance of the ends of fp64 is no float.
    span = high / 2 - low / 2
    bins = Counter(
        min(width - 1, int(width * ((v / 2 - low / 2) / span))) if span else 0 for v in values
    )
    most = max(bins.values())
    bars = "".join(_bar(bins[place], most, heights) for place in range(width))
    left, right = f"{low:.6g}", f"{high:.6g}"
    zero = round(width * (-low / 2 / span)) if low < 0 < high else None
    ruler = left + " " * (width - len(left) - len(right)) + right
    if zero is not None and len(left) < zero < width - len(right) - 1:
        ruler = ruler[:zero] + "0" + ruler[zero + 1 :]
    return [bars, ruler]


def _bar(count: int, most: int, heights: str) -> str:
    return heights[max(1, round(8 * math.sqrt(count / most)))] if count else heights[0]
