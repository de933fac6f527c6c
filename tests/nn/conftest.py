"""Machines that are fast in one thing or another."""

import pytest

from limprec.nn import ways


@pytest.fixture
def bfloat16_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that multiplies bfloat16 faster than float32, and no bytes."""
    monkeypatch.setattr(ways, "has_fast_integers", lambda layer, x: False)
    monkeypatch.setattr(ways, "has_fast_bfloat16", lambda device: True)


@pytest.fixture
def integer_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that multiplies bytes fastest."""
    monkeypatch.setattr(ways, "has_fast_integers", lambda layer, x: True)
    monkeypatch.setattr(ways, "has_fast_bfloat16", lambda device: False)


@pytest.fixture
def plain_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that multiplies float32 fastest."""
    monkeypatch.setattr(ways, "has_fast_integers", lambda layer, x: False)
    monkeypatch.setattr(ways, "has_fast_bfloat16", lambda device: False)
