"""The answer about one tensor: the least and the advised width, and why."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Width:
    """Bits that one tensor needs.

    Args:
        least: the smallest width that works.
        advised: the width to choose.
        unit: what the two count: ``bits``, ``exponent bits``, ``mantissa bits``, ``element bits``.
        reason: why, in plain English.
        formats: short names of a format of the least and of the advised width, where the family
            leaves nothing open.
    """

    least: int
    advised: int
    unit: str
    reason: str
    formats: tuple[str, str] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return asdict(self)
