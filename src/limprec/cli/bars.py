"""A bar chart in text: bits against classes."""

from __future__ import annotations

from collections.abc import Sequence

LEAST, MORE = "#", "+"
_WIDTH = 40


def bars(points: Sequence[tuple[int, int, int]], unit: str) -> list[str]:
    """Return a line a number of classes: what is least, and what is advised beyond it.

    Args:
        points: (classes, least, advised), ascending; bits not above 60.
        unit: what the two count.
    """
    most = max(advised for _, _, advised in points)
    scale = 1 if most > _WIDTH // 2 else 2
    width = max(len("classes"), *(len(str(classes)) for classes, _, _ in points))
    lines = [f"{'classes':>{width}}  {unit}: {LEAST} least, {MORE} more that we advise"]
    for classes, least, advised in points:
        bar = LEAST * (scale * least) + MORE * (scale * (advised - least))
        lines.append(f"{classes:>{width}}  {bar.ljust(scale * most)}  {least:>2} {advised:>2}")
    return lines
