"""Where results go: one file for each benchmark, machine and day."""

from __future__ import annotations

import platform
import re
from datetime import UTC, datetime
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def cpu_name() -> str:
    """Return what the processor calls itself."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else None
    return found[1].strip() if found else platform.processor() or platform.machine()


def today() -> str:
    """Return the date, in UTC."""
    return f"{datetime.now(UTC):%Y-%m-%d}"


def save(kind: str, report: str) -> None:
    """Write a report to ``results/KIND-PROCESSOR-DATE.md`` and say so."""
    slug = re.sub(r"[^a-z0-9]+", "-", cpu_name().lower()).strip("-")
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{kind}-{slug}-{today()}.md"
    path.write_text(report, encoding="utf-8")
    print(f"wrote {path}")
