"""A progress bar over epochs and steps, as a Lightning callback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """Give bars that show once training starts, so that bad input leaves its one line alone.

    They are on standard error: standard output stays for results.
    """
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
    )
    try:
        yield bars
    finally:
        if bars.live.is_started:
            bars.stop()


class StepProgress(pl.Callback):
    """Moves one bar by one a training step, and shows the test accuracy of the last epoch."""

    def __init__(self, bars: Progress, label: str) -> None:
        self._bars, self._label = bars, label

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the bar, where a resumed run left it."""
        total, done = int(trainer.estimated_stepping_batches), trainer.global_step
        self._task = self._bars.add_task(self._label, total=total, completed=done, note="")
        self._bars.start()

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
