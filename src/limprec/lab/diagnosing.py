"""A short training run that is watched: what ``limprec diagnose`` does."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ..diagnosis import Report, diagnose
from ..errors import LabError
from .data import DataSet
from .run import RunConfig
from .trainer import Training


def diagnose_run(
    config: RunConfig,
    data: DataSet,
    *,
    steps: int,
    every: int,
    shadow: bool = False,
    accumulator: str | None = None,
    chunk: int | None = None,
    kahan: bool = False,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Train for some steps as the config says, on a GPU if there is one, and diagnose.

    Args:
        config: the run; its schedule is that of the whole training.
        data: its data set, loaded.
        steps: most steps, 1 or more; fewer if the training ends before.
        every: see ``lp.diagnose``, as the next four.
        shadow: compare gradients with float32.
        accumulator: judge sums in this format; None for the plan's, if it has one.
        chunk: terms in a partial sum.
        kahan: whether its sums are compensated.
        on_step: called with the steps done and all of them.

    Raises:
        LabError: for ``steps`` out of range.
        DiagnosisError: for the other options.
    """
    if steps < 1:
        raise LabError("diagnose", f"steps is {steps}", "give 1 or more")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    training = Training(config, data).to(device)
    made = training.configure_optimizers()
    optimizer, schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
    total = min(steps, training.total_steps)
    options = {"shadow": shadow, "accumulator": accumulator, "chunk": chunk, "kahan": kahan}
    with diagnose(training.model, optimizer, every=every, **options) as watch:  # type: ignore[arg-type]
        for done, (x, y) in enumerate(_batches(config, data, total), 1):
            optimizer.zero_grad()
            logits = training(x.to(device)).flatten(0, -2)
            loss = F.cross_entropy(logits, y.to(device).flatten())
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            on_step(done, total)
    return watch.report()


def _batches(config: RunConfig, data: DataSet, total: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the first batches of a training, epoch after epoch."""
    batches = data.train_batches(config.batch_size, seed=config.seed)
    for epoch in range(config.epochs):
        batches.set_epoch(epoch)
        for batch in batches:
            if total == 0:
                return
            total -= 1
            yield batch
