"""Lightning: counting lost updates during a fit, through checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from torch import Tensor
from torch.amp import GradScaler

from ..diagnosis import UpdateMeter
from ..optim.base import WriteBackOptimizer
from .torchvision import import_torchvision

if find_spec("torchvision"):
    import_torchvision()  # Lightning imports it too, where it may need the same help
import lightning.pytorch as pl

__all__ = ["LossScale", "LostUpdates", "pl"]


class LossScale(pl.plugins.Precision):
    """Scales the loss of a fit, and unscales the gradients before they are clipped and applied.

    ``pl.Trainer(plugins=[LossScale(lp.loss_scaler(plan))])``. The scale is part of the checkpoint.

    Args:
        scaler: the gradient scaler.
    """

    def __init__(self, scaler: GradScaler) -> None:
        self.scaler = scaler

    def pre_backward(self, tensor: Tensor, module: pl.LightningModule) -> Tensor:  # type: ignore[override]  # likewise
        """Scale the loss."""
        scaled: Tensor = super().pre_backward(self.scaler.scale(tensor), module)
        return scaled

    def optimizer_step(  # type: ignore[override]  # as Lightning's own, which takes them by name
        self,
        optimizer: Any,
        model: pl.LightningModule,
        closure: Callable[[], Any],
        **kwargs: Any,
    ) -> Any:
        """Run the closure, unscale, let the module clip, and step unless a gradient is infinite."""
        if closure() is None:  # the module skipped the batch
            return None
        self.scaler.unscale_(optimizer)
        self._after_closure(model, optimizer)
        result = self.scaler.step(optimizer, **kwargs)
        self.scaler.update()
        return result

    def state_dict(self) -> dict[str, Any]:
        """Return the scale."""
        return self.scaler.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take a scale over."""
        self.scaler.load_state_dict(state_dict)


class LostUpdates(pl.Callback):
    """Watches a fit with ``UpdateMeter`` and logs ``updates_lost`` each epoch.

    Watches the first limprec optimizer of the module; with another optimizer it logs nothing.
    What it counts is part of the checkpoint. After the fit ``meter`` holds the whole training's.

    Args:
        movement: see ``UpdateMeter``.
    """

    def __init__(self, *, movement: bool = False) -> None:
        self.meter: UpdateMeter | None = None
        self._movement = movement
        self._saved: dict[str, Any] | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start watching, from the counts of the checkpoint if there was one."""
        for optimizer in trainer.optimizers:
            if isinstance(optimizer, WriteBackOptimizer):
                self.meter = UpdateMeter(optimizer, movement=self._movement)
                if self._saved is not None:
                    self.meter.load_state_dict(self._saved)
                break

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the share so far."""
        if self.meter is not None and self.meter.share is not None:
            pl_module.log("updates_lost", self.meter.share)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop watching; the counts stay."""
        if self.meter is not None:
            self.meter.close()

    def state_dict(self) -> dict[str, Any]:
        """Return the counts."""
        return self.meter.state_dict() if self.meter is not None else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep saved counts for when the fit starts."""
        self._saved = state_dict or None
