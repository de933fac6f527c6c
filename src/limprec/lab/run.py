"""What a training run is asked for and what it gives: frozen, saved as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..errors import LabError
from ..files import write_text
from ..nn import Compute
from ..plan import Plan
from ..schedule import Cyclic
from .models import find_model
from .optimizers import find_optimizer
from .optimizers import usual as usual_training

USUAL = {"": (3, 128), "digits": (20, 32)}
"""Data set -> usual epochs and batch size: the tiny digits want more and smaller steps."""

DTYPES = ("float32", "bfloat16")
"""What parameters, activations and gradients may be kept in. float16 would need a loss scale."""


@dataclass(frozen=True)
class RunConfig:
    """One training run; ``RunConfig.usual`` fills in what is usual for the model and the data.

    Args:
        model: a name of ``lab.models``.
        data: a name of ``lab.data``, e.g. ``mnist`` or ``text:FILE``.
        plan: the precision plan, None for plain fp32 (the model is not converted).
        writeback: how updates are stored.
        compensation_rounding: ``nearest``, ``stochastic``, or None for the plan's, else the
            optimizers' own choice.
        epochs: passes over the training set, 1 or more.
        batch_size: 1 or more.
        lr: peak learning rate of a cosine schedule that ends at 0.
        weight_decay: 0 or more.
        momentum: of SGD; 0 for optimizers without.
        optimizer: a name of ``lab.optimizers``.
        dtype: of parameters, buffers, activations and gradients, a name of ``DTYPES``; the loss
            is computed in float32.
        wide_products: compute products of 16-bit operands in float32, see ``WideProducts``.
        compute: how the products of a plan are computed: ``exact``, ``fast`` or ``real``.
        schedule: forward bits by step, evaluated in the most of them; None for the plan's.
        warmup: steps over which the rate rises linearly to its peak.
        seed: of weights, data order and every rounding.
        context: tokens of one input, for text.

    Raises:
        LabError: for an unknown model, or a number out of range.
    """

    model: str
    data: str
    plan: Plan | None
    writeback: str
    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    compensation_rounding: str | None = None
    momentum: float = 0.9
    optimizer: str = "sgd"
    dtype: str = "float32"
    wide_products: bool = False
    compute: str = "exact"
    schedule: Cyclic | None = None
    warmup: int = 0
    seed: int = 0
    context: int = 128

    def __post_init__(self) -> None:
        """Check the names and the numbers."""
        find_model(self.model)
        find_optimizer(self.optimizer)
        if self.dtype not in DTYPES:
            known = " or ".join(DTYPES)
            raise LabError("run", f"unknown dtype {self.dtype!r}", f"use {known}")
        if self.plan is not None and self.dtype != "float32":
            raise LabError(
                "run",
                f"a plan simulates its formats in float32, not in {self.dtype}",
                "leave out the plan or the dtype",
            )
        if self.compute not in tuple(Compute):
            known = ", ".join(Compute)
            raise LabError("run", f"unknown compute {self.compute!r}", f"use one of {known}")
        if self.plan is None and self.compute != Compute.EXACT:
            raise LabError("run", f"compute {self.compute} without a plan", "give a plan")
        if self.plan is None and self.schedule is not None:
            raise LabError("run", f"schedule {self.schedule} without a plan", "give a plan")
        for name in ("epochs", "batch_size", "context"):
            if getattr(self, name) < 1:
                raise LabError("run", f"{name} is {getattr(self, name)}", "give 1 or more")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise LabError("run", f"lr is {self.lr}", "give more than 0")
        if self.warmup < 0:
            raise LabError("run", f"warmup is {self.warmup}", "give 0 or more")
        if not 0 <= self.seed < 2**63:
            raise LabError("run", f"seed is {self.seed}", "give an integer from 0 to 2^63 - 1")

    @classmethod
    def usual(
        cls,
        model: str,
        data: str,
        plan: Plan | None,
        writeback: str,
        *,
        epochs: int | None = None,
        batch_size: int | None = None,
        lr: float | None = None,
        weight_decay: float | None = None,
        momentum: float | None = None,
        optimizer: str = "sgd",
        **others: Any,
    ) -> RunConfig:
        """Return a run in which None stands for what is usual for model, data and optimizer.

        Raises:
            LabError: as the class.
        """
        given = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum}
        training: dict[str, Any] = usual_training(optimizer, model)
        training |= {name: value for name, value in given.items() if value is not None}
        usual_epochs, usual_batch = USUAL.get(data, USUAL[""])
        return cls(
            model,
            data,
            plan,
            writeback,
            epochs=usual_epochs if epochs is None else epochs,
            batch_size=usual_batch if batch_size is None else batch_size,
            optimizer=optimizer,
            **training,
            **others,
        )

    def as_dict(self) -> dict[str, Any]:
        """Return plain values; the plan as TOML text, the schedule as ``Cyclic.parse`` reads it."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        plan = self.plan.to_toml() if self.plan else None
        return {**values, "plan": plan, "schedule": str(self.schedule) if self.schedule else None}


@dataclass(frozen=True)
class RunResult:
    """What a run measured.

    Args:
        label: how tables call it.
        config: ``RunConfig.as_dict()``.
        accuracy: share of the test set classified rightly after the last epoch (next tokens for
            text), 0 to 1.
        loss: mean cross entropy over the test set, nats.
        updates_lost: share of the non-zero updates that left no trace, or None if not counted.
        movement_lost: share of the asked-for movement that never arrived, or None.
        state_bits: role -> bits per parameter of training state, averaged over the parameters.
        mac_energy: joules of one step's multiply-adds per sample, by the table it names.
        history: one record an epoch.
        seconds: wall-clock time of the training.
        environment: versions, machine and date.
    """

    label: str
    config: Mapping[str, Any]
    accuracy: float
    loss: float
    updates_lost: float | None
    movement_lost: float | None
    state_bits: Mapping[str, float]
    mac_energy: float
    history: tuple[Mapping[str, Any], ...]
    seconds: float
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def total_state_bits(self) -> float:
        """Bits per parameter of everything that training keeps."""
        return sum(self.state_bits.values())

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return dataclasses.asdict(self)

    def save(self, path: Path) -> None:
        """Write as JSON, whole or not at all."""
        write_text(path, json.dumps(self.as_dict(), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> RunResult:
        """Read what ``save`` wrote.

        Raises:
            LabError: if the file is damaged.
        """
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            return cls(**{**raw, "history": tuple(raw["history"])})
        except (ValueError, TypeError, KeyError) as error:
            raise LabError("run", f"{path} is damaged: {error}", "delete it") from None


def environment() -> dict[str, str]:
    """Return versions, processor and date, for results that are kept."""
    import datetime

    return {
        "limprec": version("limprec"),
        "torch": version("torch"),
        "python": platform.python_version(),
        "processor": _processor(),
        "date": datetime.date.today().isoformat(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        names = (line.split(":", 1)[1] for line in lines if line.startswith("model name"))
        return next(names).strip()
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
