"""Plans in a row, from wide to narrow, and the search for the last good one by halving."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from .space import Levels

MOST = 16
"""Plans of a thinned chain: four trainings find the edge."""


def thinned(chain: Sequence[Levels], price: Callable[[Levels], float]) -> list[Levels]:
    """Return at most ``MOST`` plans of a chain, in even ratios of price, its last one among them.

    Only those that cost less than all before them are taken; the first is left out.
    """
    falling: list[tuple[float, Levels]] = []
    least = price(chain[0])
    first = least
    for levels in chain[1:]:
        if (cost := price(levels)) < least:
            least = cost
            falling.append((cost, levels))
    if not falling:
        return []
    step = math.log(first / least) / MOST
    kept: list[Levels] = []
    for cost, levels in falling[:-1]:
        if math.log(first / cost) >= step * (len(kept) + 1) and len(kept) < MOST - 1:
            kept.append(levels)
    return [*kept, falling[-1][1]]


def next_of(chain: Sequence[Levels], verdict: Callable[[Levels], bool | None]) -> Levels | None:
    """Return the plan in the middle between the last good and the first bad one; None when found.

    Args:
        chain: wide to narrow.
        verdict: whether a plan is good, None if that is not known.
    """
    good, bad = -1, len(chain)
    for place, levels in enumerate(chain):
        found = verdict(levels)
        if found:
            good = place
        elif found is False and bad == len(chain):
            bad = place
    if bad < good:  # chance; what is narrower and good decides
        bad = next((i for i in range(good + 1, len(chain)) if verdict(chain[i]) is False),
                   len(chain))  # fmt: skip
    return chain[(good + bad) // 2] if bad - good > 1 else None
