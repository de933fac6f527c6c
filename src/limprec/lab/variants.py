"""The rows of a comparison: the same run in fp32 and in few bits with several write-backs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import LabError
from ..optim.writeback import parse_write_back
from .run import RunConfig

BASELINE = "fp32"


@dataclass(frozen=True)
class Variant:
    """One row of a comparison: a label and its run."""

    label: str
    config: RunConfig

    @property
    def title(self) -> str:
        """The label and the seed, for progress."""
        return f"{self.label}, seed {self.config.seed}"


def variants(
    base: RunConfig,
    write_backs: Sequence[str],
    seeds: int = 1,
    computes: Sequence[str] = ("exact",),
) -> list[Variant]:
    """Return the fp32 baseline and ``base`` under each write-back, for each seed.

    Args:
        base: the run, with its plan or its 16-bit dtype.
        write_backs: names of write-backs; ``kahan`` is Kahan with a compensation rounded to
            nearest, ``kahan-stochastic`` with one rounded stochastically.
        seeds: how many, from the base's own on. Seeds come one after another, so that a comparison
            that was cut short has all rows of the first ones.
        computes: ways to compute a plan's products; every write-back runs in each.

    Raises:
        LabError: if ``base`` is plain fp32, something is named twice, or there is no seed.
        OptimizerError: for an unknown write-back.
    """
    if base.plan is None and base.dtype == "float32":
        raise LabError(
            "compare", "no plan", "give one, e.g. --plan dfx8, or a dtype: --dtype bfloat16"
        )
    for what, names in (("write-back", write_backs), ("way to compute", computes)):
        if len(set(names)) != len(names):
            raise LabError("compare", f"a {what} twice in {','.join(names)}", "name each once")
    if seeds < 1:
        raise LabError("compare", f"seeds is {seeds}", "give 1 or more")
    name = base.plan.name if base.plan else base.dtype
    plain = {
        "plan": None,
        "dtype": "float32",
        "wide_products": False,
        "compute": "exact",
        "writeback": "nearest",
    }
    changes: list[tuple[str, dict[str, Any]]] = [(BASELINE, plain)]
    for write_back in write_backs:
        strategy, _, rounding = write_back.partition("-")
        parse_write_back(strategy)
        plainly = "nearest" if strategy == "kahan" else None
        for compute in computes:
            change = {
                "writeback": strategy,
                "compensation_rounding": rounding or plainly,
                "compute": compute,
            }
            label = f"{name} {write_back}" + (f" {compute}" if compute != "exact" else "")
            changes.append((label, change))
    return [
        Variant(label, dataclasses.replace(base, seed=seed, **change))
        for seed in range(base.seed, base.seed + seeds)
        for label, change in changes
    ]
