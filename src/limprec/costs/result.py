"""What a training step costs: energy by layer, role and kind, memory by role, and comparisons."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from .cyclic import ScheduleCost
from .tables import EnergyTable

Key = Literal["layer", "role", "kind"]
PRODUCTS = ("activation", "error", "gradient")
"""Roles of what products compute, in the order of forward, error and weight-gradient products."""
ARITHMETIC = ("multiply", "add")
PICO = 1e-12


@dataclass(frozen=True)
class Entry:
    """Operations of one kind that a layer does for one role in a step.

    Args:
        layer: dotted name of the layer or module, ``(loss)``, or ``path/matmul#0``.
        role: of arithmetic in products, what they compute: ``activation``, ``error`` or
            ``gradient``; of memory, the tensor that moves, ``weight`` too; ``element-wise`` for
            norms and the like; in the optimizer's step ``parameter``, ``state``, ``compensation``
            and ``gradient`` for memory, ``parameter`` for arithmetic.
        kind: ``multiply``, ``add``, or a memory: ``SRAM 32 KB``, ``DRAM``.
        count: operations, or bytes moved.
        picojoules: their energy.
    """

    layer: str
    role: str
    kind: str
    count: float
    picojoules: float


@dataclass(frozen=True)
class Cost:
    """The cost of one training step of one device, and what follows from it.

    Args:
        plan: name of the plan.
        technology: the energy table.
        batch: samples of a step on each device.
        entries: energy by layer, role and kind.
        macs: multiply-adds of a step, by what the products compute: ``activation`` going forward,
            recomputation included, ``error`` and ``gradient`` going back.
        memory: role -> bytes, all of the model on one device: ``parameter``, ``compensation``,
            ``state``, ``gradient``, ``activation`` (kept for the backward pass), ``buffer``.
        device_memory: the same on each device of the layout, and ``gathered``.
        communication: collective -> bytes each device sends in a step.
        devices: how many.
        steps: of the whole training, None if it was not said.
        fitted: units that the table has no entry for, whose energy is estimated.
        approximate: entries used that the table knows second hand.
        outside: what is not counted, in words.
        schedule: CPT's metric, None without a schedule.
        against: baselines by name, of the same model, batch and optimizer.
    """

    plan: str
    technology: EnergyTable
    batch: int
    entries: tuple[Entry, ...]
    macs: Mapping[str, int]
    memory: Mapping[str, float]
    device_memory: Mapping[str, float]
    communication: Mapping[str, float]
    devices: int = 1
    steps: int | None = None
    fitted: tuple[str, ...] = ()
    approximate: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()
    schedule: ScheduleCost | None = None
    against: Mapping[str, Cost] = field(default_factory=dict)

    @property
    def energy(self) -> float:
        """Joules of one step on one device."""
        return math.fsum(entry.picojoules for entry in self.entries) * PICO

    @property
    def product_energy(self) -> float:
        """Joules of the step's multiply-adds alone, without memory and element-wise work."""
        return PICO * math.fsum(
            e.picojoules for e in self.entries if e.role in PRODUCTS and e.kind in ARITHMETIC
        )

    @property
    def run_energy(self) -> float | None:
        """Joules of the whole training on all devices; None if ``steps`` was not said."""
        return None if self.steps is None else self.energy * self.devices * self.steps

    @property
    def total_memory(self) -> float:
        """Bytes on each device."""
        return math.fsum(self.device_memory.values())

    def by(self, *keys: Key) -> dict[Any, float]:
        """Return joules of a step summed by one or more of ``layer``, ``role`` and ``kind``.

        One key gives a dictionary by its values, several one by tuples; in the order of the model.
        """
        found: dict[Any, list[float]] = defaultdict(list)
        for entry in self.entries:
            values = tuple(getattr(entry, key) for key in keys)
            found[values[0] if len(keys) == 1 else values].append(entry.picojoules)
        return {key: math.fsum(parts) * PICO for key, parts in found.items()}

    @property
    def compared(self) -> tuple[tuple[str, Cost], ...]:
        """This plan by name, then its baselines."""
        return ((self.plan, self), *self.against.items())

    def table(self) -> str:
        """Return everything as text, the comparison first."""
        from .words import text

        return text(self)

    def __str__(self) -> str:
        """Return ``table()``."""
        return self.table()

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON: energies in joules, memory in bytes."""
        values: dict[str, Any] = {
            f.name: getattr(self, f.name) for f in fields(self) if f.name not in _SPECIAL
        }
        return {
            **{k: dict(v) if isinstance(v, Mapping) else v for k, v in values.items()},
            "technology": self.technology.name,
            "source": self.technology.source,
            "entries": [
                {"layer": e.layer, "role": e.role, "kind": e.kind, "count": e.count,
                 "joules": e.picojoules * PICO}
                for e in self.entries
            ],
            "energy": self.energy,
            "product_energy": self.product_energy,
            "run_energy": self.run_energy,
            "total_memory": self.total_memory,
            "schedule": None if self.schedule is None else {
                "mean": self.schedule.mean,
                "static": self.schedule.static,
                "saving": self.schedule.saving,
                "backward": self.schedule.backward,
                "steps_at": {str(b): n for b, n in self.schedule.steps_at.items()},
            },
            "against": {
                name: {k: v for k, v in c.as_dict().items() if k not in ("entries", "against")}
                for name, c in self.against.items()
            },
        }  # fmt: skip


_SPECIAL = ("technology", "entries", "schedule", "against")
