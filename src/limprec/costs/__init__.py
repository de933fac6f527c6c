"""What a precision costs: energy per operation, multiply-adds and bits of training state.

``energy`` needs no torch; the other modules do, and are imported when a name of theirs is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .energy import (
    ENERGY_TABLES,
    HOROWITZ_45NM,
    JOUPPI_7NM,
    EnergyTable,
    add_energy,
    energy_table,
    mac_energy,
    multiply_energy,
)

if TYPE_CHECKING:
    from .macs import LayerMacs, count_macs, layer_macs
    from .state import training_state_bits
    from .step import step_energy

__all__ = [
    "ENERGY_TABLES",
    "HOROWITZ_45NM",
    "JOUPPI_7NM",
    "EnergyTable",
    "LayerMacs",
    "add_energy",
    "count_macs",
    "energy_table",
    "layer_macs",
    "mac_energy",
    "multiply_energy",
    "step_energy",
    "training_state_bits",
]

_LAZY = {
    "LayerMacs": "macs",
    "count_macs": "macs",
    "layer_macs": "macs",
    "step_energy": "step",
    "training_state_bits": "state",
}


def __getattr__(name: str) -> Any:
    """Import the module of a lazy name, and with it torch, on first use."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_LAZY[name]}", __name__), name)
