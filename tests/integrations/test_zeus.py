"""Measured energy: with counters of our own make, with none, and without Zeus."""

from __future__ import annotations

import sys
import types
from dataclasses import dataclass

import pytest

from limprec.errors import IntegrationError
from limprec.integrations.zeus import measure


@dataclass
class Window:
    time: float
    gpu_energy: dict
    cpu_energy: dict | None = None
    dram_energy: dict | None = None


class Monitor:
    """Stands for ``zeus.monitor.ZeusMonitor``, 0.16; each call of ``work`` takes 2 joules."""

    gpu_indices: tuple = (0,)
    cpu_indices: tuple = (0,)
    total = 0.0
    ran = 0

    def begin_window(self, name: str) -> None:
        self.start = Monitor.total

    def end_window(self, name: str) -> Window:
        return Window(0.5, {0: Monitor.total - self.start}, {0: 1.0}, None)

    @staticmethod
    def work() -> None:
        Monitor.total += 2.0
        Monitor.ran += 1


@pytest.fixture
def zeus(monkeypatch):
    module = types.ModuleType("zeus.monitor")
    module.ZeusMonitor = Monitor
    monkeypatch.setitem(sys.modules, "zeus", types.ModuleType("zeus"))
    monkeypatch.setitem(sys.modules, "zeus.monitor", module)
    monkeypatch.setattr(Monitor, "total", 0.0)
    monkeypatch.setattr(Monitor, "ran", 0)


def test_counters_are_read_around_the_steps_alone(zeus):
    found = measure(Monitor.work, seconds=0, warmup=3)
    assert found is not None
    assert (found.joules, found.steps) == ({"GPU 0": 2.0, "CPU 0": 1.0}, 1)
    assert found.per_step == 3.0
    assert Monitor.ran == 4


def test_no_counter_means_none_and_no_work(zeus, monkeypatch):
    monkeypatch.setattr(Monitor, "gpu_indices", ())
    monkeypatch.setattr(Monitor, "cpu_indices", ())
    assert measure(Monitor.work) is None
    assert Monitor.ran == 0


def test_without_zeus(monkeypatch):
    monkeypatch.setitem(sys.modules, "zeus", None)
    monkeypatch.delitem(sys.modules, "zeus.monitor", raising=False)
    with pytest.raises(IntegrationError, match=r"pip install 'limprec\[energy\]'"):
        measure(lambda: None)
