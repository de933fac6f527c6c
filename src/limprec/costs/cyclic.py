"""CPT's cost metric: what a precision that changes during training costs.

Fu et al., "CPT: efficient deep neural network training via cyclic precision" (ICLR 2021): one
forward product in f bits and two backward ones of f by b bits, as a share of 32-bit ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from ..errors import CostError


class Schedule(Protocol):
    """What tells forward bits from the step, such as ``limprec.schedule.Cyclic``."""

    @property
    def high(self) -> int:
        """The most bits."""

    def bits(self, step: int, total: int) -> int:
        """Return the forward bits at a step of a training of ``total`` steps."""


@dataclass(frozen=True)
class ScheduleCost:
    """CPT's metric of a schedule against static precision.

    Args:
        mean: averaged over the steps; 1 is all products in 32 bits.
        static: with the schedule's most bits throughout.
        steps_at: forward bits -> steps.
        backward: bits of the backward products' errors.
    """

    mean: float
    static: float
    steps_at: Mapping[int, int]
    backward: int

    @property
    def saving(self) -> float:
        """Share saved against static precision: 0.3667 is 36.67 %."""
        return 1 - self.mean / self.static


def cpt_cost(forward: int, backward: int) -> float:
    """Return CPT's metric of one step: (f f + 2 f b) / (3 * 32 * 32).

    Args:
        forward: bits of weights and activations.
        backward: bits of errors.
    """
    return (forward * forward + 2 * forward * backward) / (3 * 32 * 32)


def schedule_cost(schedule: Schedule, backward: int, steps: int) -> ScheduleCost:
    """Return CPT's metric of a schedule, averaged over a training.

    Args:
        schedule: forward bits by step.
        backward: bits of the errors, constant.
        steps: of the whole training.

    Raises:
        CostError: for less than one step or bit.
        LimprecError: if the schedule has more cycles than there are steps.
    """
    if steps < 1 or backward < 1:
        raise CostError("schedule_cost", f"{steps} steps, {backward} bits", "give 1 or more")
    steps_at = Counter(schedule.bits(step, steps) for step in range(steps))
    total = sum(count * cpt_cost(bits, backward) for bits, count in steps_at.items())
    static = cpt_cost(schedule.high, backward)
    return ScheduleCost(total / steps, static, dict(sorted(steps_at.items())), backward)
