"""Stopping a trial that does not promise anything: our own rule, since it serves two objectives.

All trials see the same batches in the same order. The training is cut into ``PARTS``, and the mean
training loss of each part is compared with that of finished trials in the same part. A trial stops
at the end of a part, from the second on,

- if its loss is not finite;
- if it is ``REACH`` times that of the reference: too far for its accuracy to matter;
- if it is ``BEATEN`` times that of a finished trial that costs no more: it will not be on the
  front.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from ...integrations.lightning import pl
from .front import Trial

PARTS = 8
REACH, BEATEN = 3.0, 1.5
_FIRST = 2


class TrialStoppedError(Exception):
    """A trial was stopped early; the message says why, ``curve`` how far it came."""

    def __init__(self, reason: str, curve: tuple[float, ...]) -> None:
        super().__init__(reason)
        self.curve = curve


class LossWatch(pl.Callback):
    """Keeps the mean training loss of each part and stops the training where a rule says so.

    Args:
        judge: called with the parts so far; returns why to stop, or None.
        on_step: called with the share of the training that is done, 0 to 1.
    """

    def __init__(
        self,
        judge: Callable[[Sequence[float]], str | None],
        on_step: Callable[[float], None] = lambda share: None,
    ) -> None:
        self._judge, self._on_step = judge, on_step
        self._sum, self._count = 0.0, 0
        self.curve: list[float] = []

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Add a step; raise ``TrialStoppedError`` at the end of a part, where a rule says so."""
        total, done = int(trainer.estimated_stepping_batches), trainer.global_step
        self._sum += float(outputs["loss"])
        self._count += 1
        self._on_step(done / total)
        parts = min(PARTS, total)
        if done * parts // total == (done - 1) * parts // total:
            return
        self.curve.append(self._sum / self._count)
        self._sum, self._count = 0.0, 0
        if done < total and (reason := self._judge(self.curve)):
            raise TrialStoppedError(reason, tuple(self.curve))

    def state_dict(self) -> dict[str, Any]:
        """Return the parts so far."""
        return {"curve": self.curve, "sum": self._sum, "count": self._count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take them back."""
        self.curve = list(state_dict["curve"])
        self._sum, self._count = state_dict["sum"], state_dict["count"]


def why_stop(
    curve: Sequence[float], price: float, trials: Sequence[Trial], reference: Trial | None
) -> str | None:
    """Return why a trial should stop, or None.

    Args:
        curve: its mean loss in each part so far.
        price: of its plan.
        trials: finished ones.
        reference: the reference's, None while it is being trained itself.
    """
    if reference is None:
        return None
    part, loss = len(curve), curve[-1]
    if part < _FIRST:
        return None
    if not math.isfinite(loss):
        return "its loss is not finite"
    if len(reference.curve) >= part and loss > REACH * reference.curve[part - 1]:
        return f"its loss is {loss / reference.curve[part - 1]:.1f} times the reference's"
    for trial in trials:
        if trial.accuracy is None or trial.price > price or len(trial.curve) < part:
            continue
        if loss > BEATEN * trial.curve[part - 1]:
            return f"its loss is far above that of trial {trial.number}, which costs no more"
    return None
