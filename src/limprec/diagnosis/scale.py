"""The loss scale of a training with a gradient scaler: its range, and steps that it skipped."""

from __future__ import annotations

from typing import Any

from ..errors import DiagnosisError
from .findings import Row


class ScaleWatch:
    """Asks a ``torch.amp.GradScaler`` at the sampled steps.

    Args:
        scaler: the scaler, or None for no loss scale.

    Raises:
        DiagnosisError: if it is no scaler.
    """

    def __init__(self, scaler: Any) -> None:
        if scaler is not None and not hasattr(scaler, "get_scale"):
            raise DiagnosisError(
                "diagnose", f"{type(scaler).__name__} is no scaler", "give a torch.amp.GradScaler"
            )
        self._scaler = scaler
        self._scales: list[float] = []
        self._skipped = 0

    def look(self) -> None:
        """Note the scale that a step begins with."""
        if self._scaler is not None:
            self._scales.append(float(self._scaler.get_scale()))

    def skipped(self) -> bool:
        """Whether the scaler has backed off since ``look``, and so has skipped that step."""
        if self._scaler is None or float(self._scaler.get_scale()) >= self._scales[-1]:
            return False
        self._skipped += 1
        return True

    def rows(self, sampled: int) -> list[Row]:
        """Return the row of the loss scale; none without a scaler."""
        if not self._scales:
            return []
        measures = {
            "scale_min": min(self._scales),
            "scale_max": max(self._scales),
            "skipped_steps": float(self._skipped),
            "skipped": self._skipped / max(sampled, 1),
        }
        return [Row("", "loss scale", "", measures=measures)]
