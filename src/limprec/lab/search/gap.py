"""How far a plan lies from the reference over the final seeds, and whether that holds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from ..run import RunResult


@dataclass(frozen=True)
class Gap:
    """Points of test accuracy above the reference, seed by seed; negative for a loss.

    Args:
        points: one of each seed that both were trained with.
    """

    points: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean of the seeds."""
        return statistics.fmean(self.points)

    @property
    def error(self) -> float:
        """The mean's standard error; 0 of a single seed, which cannot tell."""
        if len(self.points) == 1:
            return 0.0
        return statistics.stdev(self.points) / math.sqrt(len(self.points))

    def holds(self, within: float) -> bool:
        """Whether the mean less its standard error loses at most ``within`` points.

        The seeds that choose a plan flatter it: of several near the tolerance the luckiest gets
        through. The standard error is what keeps the others' promise on fresh seeds.
        """
        return self.mean - self.error >= -within - 1e-9


def gap(results: Sequence[RunResult], reference: str, chosen: str) -> Gap | None:
    """Return how far one label lies from another; None if they share no seed."""
    base = {r.config["seed"]: r.accuracy for r in results if r.label == reference}
    points = tuple(
        100 * (r.accuracy - base[r.config["seed"]])
        for r in results
        if r.label == chosen and r.config["seed"] in base
    )
    return Gap(points) if points else None
