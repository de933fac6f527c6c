"""What a precision costs: energy and memory of a training step, by layer, role and kind.

``tables`` and ``energy`` need no torch; the other modules do, and are imported when a name of
theirs is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .energy import add_energy, mac_energy, multiply_energy
from .tables import ENERGY_TABLES, HOROWITZ_45NM, JOUPPI_7NM, EnergyTable, energy_table

if TYPE_CHECKING:
    from .cyclic import ScheduleCost, cpt_cost, schedule_cost
    from .estimate import cost, step_energy
    from .result import Cost, Entry
    from .state import training_state_bits
    from .tracing import cross_entropy, trace

__all__ = [
    "ENERGY_TABLES",
    "HOROWITZ_45NM",
    "JOUPPI_7NM",
    "Cost",
    "EnergyTable",
    "Entry",
    "ScheduleCost",
    "add_energy",
    "cost",
    "cpt_cost",
    "cross_entropy",
    "energy_table",
    "mac_energy",
    "multiply_energy",
    "schedule_cost",
    "step_energy",
    "trace",
    "training_state_bits",
]

_LAZY = {
    **dict.fromkeys(("ScheduleCost", "cpt_cost", "schedule_cost"), "cyclic"),
    **dict.fromkeys(("cost", "step_energy"), "estimate"),
    **dict.fromkeys(("Cost", "Entry"), "result"),
    **dict.fromkeys(("cross_entropy", "trace"), "tracing"),
    "training_state_bits": "state",
}


def __getattr__(name: str) -> Any:
    """Import the module of a lazy name, and with it torch, on first use."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_LAZY[name]}", __name__), name)
