"""What a search is asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ...errors import LabError
from ...formats import parse_format
from ..run import RunConfig

FORMATS = ("dfx2", "dfx3", "dfx4", "dfx5", "dfx6", "dfx7", "dfx8")
OBJECTIVES = {"energy": "J", "memory": "B"}
"""What is made small, with its unit: joules of a training step, or bytes of training."""
SAMPLERS = ("nsga2", "tpe")


@dataclass(frozen=True)
class SearchSettings:
    """One search. Trials, seeds and the tolerance may change when it goes on; the rest may not.

    Args:
        run: a trial's training; its plan is the reference, and what it does not search (biases,
            momentum, compensation, every rounding) is this plan's.
        formats: what weights, activations, errors and gradients may take, beside the reference's.
        objective: a name of ``OBJECTIVES``.
        technology: energy table, see ``lp.cost``.
        within: points of accuracy that the chosen plan may lie below the reference; with final
            seeds, the mean less its standard error.
        trials: trainings in all, the reference's included, those stopped early too.
        seeds: of the final training of the chosen plan and the reference; 0 leaves it out.
        final_epochs: of that training; None for the trials'.
        sampler: a name of ``SAMPLERS``.

    Raises:
        LabError: for an unknown name or a number out of range.
        FormatError: for an unknown format.
    """

    run: RunConfig
    formats: tuple[str, ...] = FORMATS
    objective: str = "energy"
    technology: str = "45nm"
    within: float = 0.2
    trials: int = 30
    seeds: int = 3
    final_epochs: int | None = None
    sampler: str = "nsga2"

    def __post_init__(self) -> None:
        """Check the names and the numbers."""
        if self.run.plan is None:
            raise LabError("search", "no plan to start from", "give one, e.g. --plan dfx8")
        for what, value, known in (
            ("objective", self.objective, tuple(OBJECTIVES)),
            ("sampler", self.sampler, SAMPLERS),
        ):
            if value not in known:
                remedy = "use " + " or ".join(known)
                raise LabError("search", f"unknown {what} {value!r}", remedy)
        if not self.formats:
            raise LabError("search", "no formats", "name some, e.g. --formats dfx4,dfx6,dfx8")
        for name in self.formats:
            parse_format(name)
        for name, least in (("trials", 1), ("seeds", 0)):
            if getattr(self, name) < least:
                problem = f"{name} is {getattr(self, name)}"
                raise LabError("search", problem, f"give {least} or more")
        if self.final_epochs is not None and self.final_epochs < 1:
            raise LabError("search", f"final_epochs is {self.final_epochs}", "give 1 or more")
        if not (math.isfinite(self.within) and self.within >= 0):
            raise LabError("search", f"within is {self.within}", "give 0 or more points")

    @property
    def identity(self) -> dict[str, Any]:
        """What a study is of, as plain values: another one cannot go on with it."""
        return {
            **self.run.as_dict(),
            "formats": list(self.formats),
            "objective": self.objective,
            "technology": self.technology,
        }
