"""What all tests share."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# The machines that run this are shared: time says nothing about an example.
settings.register_profile("limprec", deadline=None)
settings.load_profile("limprec")

os.environ.setdefault("COLUMNS", "80")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep tests away from the user's caches and data."""
    if "LIMPREC_CACHE" not in os.environ:
        base = tmp_path_factory.getbasetemp().parent / "limprec-cache"
        monkeypatch.setenv("LIMPREC_CACHE", str(base))


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """Return a folder for a run's results."""
    return tmp_path / "run"
