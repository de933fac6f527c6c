"""A progress bar over epochs and steps, as a Lightning callback."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ..integrations.lightning import pl


def progress_bars() -> Progress:
    """Return the bars, on standard error so that standard output stays for results."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
    )


class StepProgress(pl.Callback):
    """Moves one bar by one a training step, and shows the test accuracy of the last epoch."""

    def __init__(self, bars: Progress, label: str) -> None:
        self._bars = bars
        self._task = bars.add_task(label, total=None, note="")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Learn how many steps there are, and how many a resumed run has done."""
        total = int(trainer.estimated_stepping_batches)
        self._bars.update(self._task, total=total, completed=trainer.global_step)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Move on."""
        self._bars.update(self._task, completed=trainer.global_step)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the accuracy: the test set is run before an epoch ends."""
        accuracy = trainer.callback_metrics.get("test_accuracy")
        if accuracy is not None:
            self._bars.update(self._task, note=f"test {float(accuracy):.2%}")
