import os
import urllib.error
import urllib.request
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test has a cache of its own, no data folder, and no internet."""

    def unreachable(*args: object, **kwargs: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    monkeypatch.delenv("LIMPREC_DATA", raising=False)
    monkeypatch.setenv("LIMPREC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


SHARED = Path(os.environ.get("LIMPREC_DATA", Path(__file__).parents[4] / "shared" / "data"))


@pytest.fixture
def shared_data() -> Path:
    """Return the real data, where they are."""
    if not SHARED.is_dir():
        pytest.skip("neither LIMPREC_DATA nor ../shared/data")
    return SHARED
