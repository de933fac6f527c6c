"""The energy of a training step of a lab's network, measured on this machine."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from ..integrations.zeus import Measured, measure
from .models import Task, build_model


def measure_step(model: str, task: Task, batch: int, *, seconds: float = 2.0) -> Measured | None:
    """Measure plain fp32 training steps (SGD with momentum) on random inputs.

    Args:
        model: a name of ``lab.models``.
        task: what it is built for.
        batch: samples of a step.
        seconds: how long steps are repeated.

    Returns:
        What the counters say, None where there are none.

    Raises:
        IntegrationError: if Zeus is not installed.
        LabError: if the model does not fit the task.
    """
    return measure(training_step(model, task, batch), seconds=seconds)


def training_step(model: str, task: Task, batch: int) -> Callable[[], None]:
    """Return a function that does one step, on the GPU if there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = build_model(model, task, seed=0).to(device)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    if task.kind == "text":
        x = torch.randint(task.classes, (batch, *task.input_shape), generator=generator)
        labels = x
    else:
        x = torch.randn(batch, *task.input_shape, generator=generator)
        labels = torch.randint(task.classes, (batch,), generator=generator)
    x, labels = x.to(device), labels.to(device)

    def step() -> None:
        logits = network(x)
        optimizer.zero_grad()
        loss = F.cross_entropy(logits.flatten(0, -2), labels.flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step
