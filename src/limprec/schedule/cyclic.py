"""Cyclic precision (CPT): the forward bits rise and fall with training."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from ..errors import LimprecError, PlanError

_TEXT = re.compile(r"(\d+)-(\d+)(?:x(\d+))?")


@dataclass(frozen=True)
class Cyclic:
    """The cosine schedule of CPT (Fu et al., ICLR 2021).

    bits(t) = rint(low + (high - low) / 2 * (1 + cos(pi * ((t mod T) / T) + pi))), T = total /
    cycles: each cycle starts at ``low`` and ends just under ``high``.

    Args:
        low: least bits, at least 2.
        high: most bits, at least ``low``.
        cycles: cycles in the whole training, 1 or more.

    Raises:
        PlanError: for bits or cycles out of range.
    """

    low: int
    high: int
    cycles: int = 32

    def __post_init__(self) -> None:
        """Refuse ranges that are none."""
        if not 2 <= self.low <= self.high:
            raise PlanError("Cyclic", f"{self.low} to {self.high} bits", "give 2 <= low <= high")
        if self.cycles < 1:
            raise PlanError("Cyclic", f"{self.cycles} cycles", "give 1 or more")

    @classmethod
    def parse(cls, text: str) -> Cyclic:
        """Return the schedule of ``3-8``, or of ``3-8x16`` for 16 cycles; printing gives it back.

        Raises:
            PlanError: for another text, or as the class.
        """
        match = _TEXT.fullmatch(text)
        if not match:
            raise PlanError(
                "Cyclic", f"schedule {text!r}", "write e.g. 3-8, or 3-8x16 for 16 cycles"
            )
        low, high, cycles = match.groups()
        return cls(int(low), int(high), int(cycles or cls.cycles))

    def __str__(self) -> str:
        """Return what ``parse`` reads."""
        return f"{self.low}-{self.high}x{self.cycles}"

    def bits(self, step: int, total: int) -> int:
        """Return the forward bits at a step.

        Args:
            step: 0 to ``total`` - 1.
            total: steps of the whole training, at least ``cycles``.

        Raises:
            LimprecError: if there are more cycles than steps.
        """
        if total < self.cycles:
            raise LimprecError(
                "Cyclic", f"{self.cycles} cycles in {total} steps", "train longer or cycle less"
            )
        period = total / self.cycles
        phase = (step % period) / period
        half = (self.high - self.low) / 2
        return round(self.low + half * (1 + math.cos(math.pi * phase + math.pi)))
