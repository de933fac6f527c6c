"""One training run on Lightning: checkpoints, logs, resuming, and a measured result."""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..costs import step_energy, training_state_bits
from ..errors import LabError
from ..integrations.lightning import LossScale, LostUpdates, pl
from ..nn import convert, set_bits
from ..optim import loss_scaler
from ..optim.base import WriteBackOptimizer
from ..plan import Plan
from ..schedule import BitScheduler
from .data import DataSet
from .models import Task, build_model
from .optimizers import build_optimizer
from .products import WideProducts
from .run import RunConfig, RunResult, environment

LOGGERS = (pl.loggers.CSVLogger, pl.loggers.TensorBoardLogger)


class Training(pl.LightningModule):
    """A model, its data and its optimizer, as a run describes them."""

    def __init__(self, config: RunConfig, data: DataSet) -> None:
        super().__init__()
        self.config, self.data = config, data
        task = Task(data.kind, tuple(data.input_shape), data.num_classes)
        self.model: nn.Module = build_model(config.model, task, config.seed)
        if config.plan is not None:
            convert(self.model, config.plan, compute=config.compute, seed=config.seed)
        self.dtype_of_run: torch.dtype = getattr(torch, config.dtype)
        if self.dtype_of_run != torch.float32:  # channels last: twice as fast in 16 bits
            self.model.to(self.dtype_of_run, memory_format=torch.channels_last)  # type: ignore[call-overload]
        batches = data.train_batches(config.batch_size, seed=config.seed)
        self.total_steps = config.epochs * len(batches)
        self.bits: BitScheduler | None = None
        if config.schedule is not None:
            self.bits = BitScheduler(self.model, config.schedule, self.total_steps)
        self.history: list[dict[str, float]] = []
        self._sums = torch.zeros(3, dtype=torch.float64)  # train loss, correct, count

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, in float32."""
        if self.dtype_of_run != torch.float32 and x.is_floating_point():
            x = x.to(self.dtype_of_run, memory_format=torch.channels_last)
        with WideProducts() if self.config.wide_products else nullcontext():
            logits: Tensor = self.model(x)
        return logits.float()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the mean cross entropy of a batch."""
        loss, sums = self._loss(batch)
        self._sums += sums
        self.log("loss", loss, prog_bar=True)
        return loss

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Take the forward bits of the step; they follow from its number alone."""
        if self.bits is not None:
            self.bits.at(self.global_step)

    def on_train_epoch_start(self) -> None:
        """Start the epoch's means."""
        self._sums.zero_()

    def on_validation_epoch_start(self) -> None:
        """Start the test means, in the most bits."""
        if self.bits is not None:
            set_bits(self.model, self.bits.schedule.high)
        self._test = torch.zeros(3, dtype=torch.float64)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Add a test batch."""
        self._test += self._loss(batch)[1]

    def on_validation_epoch_end(self) -> None:
        """Log the test means, and keep them as the epoch's record."""
        loss, accuracy = (self._test[:2] / self._test[2]).tolist()
        self.log_dict({"test_loss": loss, "test_accuracy": accuracy}, prog_bar=True)
        train = (self._sums / self._sums[2].clamp(min=1)).tolist()
        record = {
            "epoch": self.current_epoch + 1,
            "train_loss": train[0],
            "train_accuracy": train[1],
            "test_loss": loss,
            "test_accuracy": accuracy,
        }
        self.history = [*self.history[: self.current_epoch], record]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the history beside the state."""
        checkpoint["history"] = self.history

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the history back."""
        self.history = list(checkpoint["history"])

    def train_dataloader(self) -> Any:
        """Return the epoch's batches; reloaded each epoch, so the order depends on it alone."""
        batches = self.data.train_batches(self.config.batch_size, seed=self.config.seed)
        batches.set_epoch(self.current_epoch)
        return batches

    def val_dataloader(self) -> Any:
        """Return the test batches."""
        return self.data.test_batches(max(self.config.batch_size, 256))

    def configure_optimizers(self) -> Any:
        """Return the run's optimizer, and its rate's schedule: a warm-up, then a cosine to 0."""
        config = self.config
        optimizer = build_optimizer(
            config.optimizer,
            self.model.parameters(),
            config.momentum,
            lr=config.lr,
            weight_decay=config.weight_decay,
            writeback=config.writeback,
            format=None if config.plan is None else "plan",
            compensation_rounding=config.compensation_rounding,
            seed=config.seed,
        )
        total, warmup = self.total_steps, config.warmup

        def rate(step: int) -> float:
            rising = min(1.0, (step + 1) / (warmup + 1))
            return rising * 0.5 * (1 + math.cos(math.pi * min(step, total) / total))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def _loss(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the mean cross entropy, and (its sum, right answers, count) as float64."""
        x, y = batch
        logits, y = self(x).flatten(0, -2), y.flatten()
        loss = F.cross_entropy(logits, y)
        correct = (logits.detach().argmax(1) == y).sum().double()
        count = correct.new_tensor(y.numel())
        return loss, torch.stack([loss.detach().double() * count, correct, count]).cpu()


def train(
    config: RunConfig,
    data: DataSet,
    out: Path,
    *,
    label: str = "run",
    resume: bool = False,
    callbacks: tuple[pl.Callback, ...] = (),
) -> RunResult:
    """Train as the config says and return what was measured.

    Args:
        config: the run.
        data: its data set, loaded.
        out: folder of the run: ``checkpoints/last.ckpt`` each epoch, ``metrics.csv``, TensorBoard
            events, ``result.json`` at the end.
        label: how tables call the run.
        resume: go on from ``last.ckpt`` if there is one.
        callbacks: more Lightning callbacks, e.g. a progress bar.

    Raises:
        LabError: if ``out`` holds a checkpoint and ``resume`` is not set.
    """
    checkpoints = out / "checkpoints"
    last = checkpoints / "last.ckpt"
    if last.exists() and not resume:
        raise LabError("train", f"{out} holds a run", "add --resume or choose another --out")
    Training(config, data).configure_optimizers()  # what is wrong shows before a folder is made
    with _quiet_lightning():
        training = Training(config, data)
        watch = LostUpdates(movement=True)
        trainer = pl.Trainer(
            max_epochs=config.epochs,
            accelerator="auto",
            devices=1,
            logger=[kind(out, name="", version="") for kind in LOGGERS],
            callbacks=[
                watch,
                pl.callbacks.ModelCheckpoint(
                    checkpoints, filename=last.stem, enable_version_counter=False
                ),
                *callbacks,
            ],
            plugins=_loss_scale(config.plan),
            reload_dataloaders_every_n_epochs=1,
            num_sanity_val_steps=0,
            enable_progress_bar=False,
            enable_model_summary=False,
            log_every_n_steps=10,
        )
        started = time.perf_counter()
        trainer.fit(training, ckpt_path=str(last) if resume and last.exists() else None)
        seconds = time.perf_counter() - started
    optimizer = trainer.optimizers[0]
    assert isinstance(optimizer, WriteBackOptimizer)
    final = training.history[-1]
    result = RunResult(
        label=label,
        config=config.as_dict(),
        accuracy=final["test_accuracy"],
        loss=final["test_loss"],
        updates_lost=watch.meter.share if watch.meter else None,
        movement_lost=watch.meter.movement_lost if watch.meter else None,
        state_bits=training_state_bits(optimizer),
        mac_energy=step_energy(
            training.model,
            config.plan if training.dtype_of_run == torch.float32 else Plan.uniform("bf16"),
            data.input_shape,
            dtype=torch.long if data.kind == "text" else training.dtype_of_run,
            schedule=config.schedule,
            steps=training.total_steps,
        ),
        history=tuple(training.history),
        seconds=seconds,
        environment=environment(),
    )
    result.save(out / "result.json")
    return result


def _loss_scale(plan: Plan | None) -> Any:
    """Return what scales the loss, nothing where the plan does not ask for it."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    scaler = loss_scaler(plan, device)
    return [LossScale(scaler)] if scaler.is_enabled() else []


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Keep Lightning's advice off the screen; its errors still come through."""
    loggers = [logging.getLogger(n) for n in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
