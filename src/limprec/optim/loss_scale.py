"""The scale of the loss that a plan asks for, as PyTorch's own gradient scaler."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.amp import GradScaler

from ..plan import DYNAMIC, Plan


class FixedScaler(GradScaler):
    """A gradient scaler whose scale stays; steps with gradients that are not finite are skipped.

    Args:
        factor: the scale, over 0.
        device: of the gradients, ``cpu`` or ``cuda``.
    """

    def __init__(self, factor: float, device: str = "cpu") -> None:
        super().__init__(device, init_scale=factor)
        self._factor = factor

    def update(self, new_scale: float | Tensor | None = None) -> None:
        """End the step; the scale is the same, or ``new_scale``."""
        super().update(self._factor if new_scale is None else new_scale)


def loss_scaler(plan: Plan | None, device: str = "cpu", **options: Any) -> GradScaler:
    """Return the gradient scaler for a plan's ``scaling.loss``.

    ``scaler.scale(loss).backward(); scaler.step(optimizer); scaler.update()``, as ever in PyTorch:
    the scaler multiplies the loss, divides the gradients again before the optimizer sees them, and
    skips a step of which a gradient is infinite or NaN. Formats with the ``ieee`` overflow let
    those through (fp16 and all wider than 8 bits; ``e5m2-ovf``); a saturating format hides them.

    Args:
        plan: its scale is ``dynamic``: it starts at 2^16, halves where a gradient is not finite and
            doubles after 2,000 steps without; another number: that one, always; 1, or no plan: a
            scaler that does nothing.
        device: of the gradients, ``cpu`` or ``cuda``.
        options: ``GradScaler``'s, for ``dynamic``: ``init_scale``, ``growth_factor``,
            ``backoff_factor``, ``growth_interval``.
    """
    loss = 1.0 if plan is None else plan.scaling.loss
    if loss == DYNAMIC:
        return GradScaler(device, **options)
    assert not isinstance(loss, str)
    if loss == 1:
        return GradScaler(device, enabled=False)
    return FixedScaler(float(loss), device)
