"""Zeus: joules that the machine's own counters measured (GPU through NVML, CPU through RAPL)."""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import IntegrationError

NO_COUNTER = "no energy counter on this machine"
_WINDOW = "limprec"


@dataclass(frozen=True)
class Measured:
    """Energy of repeated steps.

    Args:
        joules: counter (``GPU 0``, ``CPU 0``, ``DRAM 0``) -> joules of all steps; what else the
            machine did meanwhile is in it, and so is what it draws at rest.
        seconds: they took.
        steps: how many.
    """

    joules: Mapping[str, float]
    seconds: float
    steps: int

    @property
    def per_step(self) -> float:
        """Joules of one step, all counters together."""
        return math.fsum(self.joules.values()) / self.steps


def measure(
    step: Callable[[], object], *, seconds: float = 2.0, warmup: int = 3
) -> Measured | None:
    """Repeat a step and read the counters before and after.

    Args:
        step: what is measured, e.g. one training step.
        seconds: repeat it for at least so long: counters move every 10 to 100 ms alone.
        warmup: steps before the first reading.

    Returns:
        What was measured, or None where the machine has no counter, or none that may be read
        (RAPL wants root); the step does not run then.

    Raises:
        IntegrationError: if Zeus is not installed.
    """
    try:
        monitor: Any = importlib.import_module("zeus.monitor").ZeusMonitor()
    except ImportError as error:
        raise IntegrationError(
            "measure", f"no module {error.name}", "install it: pip install 'limprec[energy]'"
        ) from error
    if not monitor.gpu_indices and not monitor.cpu_indices:
        return None
    for _ in range(warmup):
        step()
    monitor.begin_window(_WINDOW)
    started, steps = time.monotonic(), 0
    while not steps or time.monotonic() - started < seconds:
        step()
        steps += 1
    found = monitor.end_window(_WINDOW)
    counters = {"GPU": found.gpu_energy, "CPU": found.cpu_energy, "DRAM": found.dram_energy}
    joules = {
        f"{kind} {index}": float(energy)
        for kind, energies in counters.items()
        for index, energy in (energies or {}).items()
    }
    return Measured(joules, float(found.time), steps)
