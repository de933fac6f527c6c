"""Progress over epochs and steps, as a Lightning callback: a bar, or lines where it cannot be."""

from __future__ import annotations

import time
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


LINE_EVERY = 60.0
"""Seconds between two lines where standard error is no terminal."""


class StepProgress(pl.Callback):
    """Moves one bar by one a training step, and shows the test accuracy of the last epoch.

    Where standard error is no terminal, a line a minute tells step, loss and the time left.
    """

    def __init__(self, bars: Progress, label: str) -> None:
        self._bars, self._label = bars, label

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the bar, where a resumed run left it."""
        total, done = int(trainer.estimated_stepping_batches), trainer.global_step
        self._task = self._bars.add_task(self._label, total=total, completed=done, note="")
        self._total, self._first, self._note = total, done, ""
        self._started = self._lined = time.monotonic()
        if self._bars.console.is_terminal:
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
        done, now = trainer.global_step, time.monotonic()
        self._bars.update(self._task, completed=done)
        if not self._bars.console.is_terminal and now - self._lined >= LINE_EVERY:
            self._lined = now
            left = (now - self._started) / (done - self._first) * (self._total - done)
            loss = float(trainer.callback_metrics["loss"])
            self._bars.console.print(
                f"{self._label}: step {done} of {self._total}, loss {loss:.4f},{self._note}"
                f" {left / 60:.0f} min left",
                soft_wrap=True,
                highlight=False,
            )

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the accuracy: the test set is run before an epoch ends."""
        accuracy = trainer.callback_metrics.get("test_accuracy")
        if accuracy is not None:
            self._note = f" test {float(accuracy):.2%},"
            self._bars.update(self._task, note=self._note.strip(" ,"))
