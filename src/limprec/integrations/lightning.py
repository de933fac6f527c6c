"""Lightning: counting lost updates during a fit, through checkpoints."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from ..diagnosis import UpdateMeter
from ..optim.base import WriteBackOptimizer
from .torchvision import import_torchvision

if find_spec("torchvision"):
    import_torchvision()  # Lightning imports it too, where it may need the same help
import lightning.pytorch as pl

__all__ = ["LostUpdates", "pl"]


class LostUpdates(pl.Callback):
    """Logs ``updates_lost``, the share of non-zero updates that left no trace, each epoch.

    Watches the first limprec optimizer of the module; with another optimizer it logs nothing.
    Its counts are part of the checkpoint. After the fit ``share`` holds the whole training's.
    """

    def __init__(self) -> None:
        self._meter: UpdateMeter | None = None
        self._before = (0, 0)

    @property
    def lost(self) -> int:
        """Updates that left no trace, resumed ones included."""
        return self._before[0] + (self._meter.lost if self._meter else 0)

    @property
    def nonzero(self) -> int:
        """Updates that were not zero, resumed ones included."""
        return self._before[1] + (self._meter.nonzero if self._meter else 0)

    @property
    def share(self) -> float | None:
        """Share lost, or None if there was nothing to watch."""
        return self.lost / self.nonzero if self.nonzero else None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start watching."""
        for optimizer in trainer.optimizers:
            inner = getattr(optimizer, "optimizer", optimizer)
            if isinstance(inner, WriteBackOptimizer):
                self._meter = UpdateMeter(inner)
                break

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the share so far."""
        if self.share is not None:
            pl_module.log("updates_lost", self.share)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop watching; the counts stay."""
        if self._meter is not None:
            self._meter.close()

    def state_dict(self) -> dict[str, Any]:
        """Return the counts."""
        return {"lost": self.lost, "nonzero": self.nonzero}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from saved counts."""
        self._before = (state_dict["lost"], state_dict["nonzero"])
