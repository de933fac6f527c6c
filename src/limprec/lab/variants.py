"""The rows of a comparison: the same run in fp32 and under a plan with several write-backs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import LabError
from ..optim.writeback import parse_write_back
from .run import RunConfig

BASELINE = "fp32"


@dataclass(frozen=True)
class Variant:
    """One row of a comparison: a label and its run."""

    label: str
    config: RunConfig


def variants(base: RunConfig, write_backs: Sequence[str]) -> list[Variant]:
    """Return the fp32 baseline and the plan of ``base`` under each write-back.

    Args:
        base: the run, with its plan.
        write_backs: names of write-backs; ``kahan-stochastic`` is Kahan with a stochastically
            rounded compensation.

    Raises:
        LabError: if ``base`` has no plan, or a write-back is named twice.
        OptimizerError: for an unknown write-back.
    """
    if base.plan is None:
        raise LabError("compare", "no plan", "give one, e.g. --plan dfx8")
    if len(set(write_backs)) != len(write_backs):
        given = ",".join(write_backs)
        raise LabError("compare", f"a write-back twice in {given}", "name each once")
    rows = [Variant(BASELINE, dataclasses.replace(base, plan=None, writeback="nearest"))]
    for name in write_backs:
        strategy, _, rounding = name.partition("-")
        parse_write_back(strategy)
        rows.append(
            Variant(
                f"{base.plan.name} {name}",
                dataclasses.replace(
                    base, writeback=strategy, compensation_rounding=rounding or None
                ),
            )
        )
    return rows
