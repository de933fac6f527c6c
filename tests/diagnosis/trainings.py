"""Small trainings that are watched: healthy ones, and what faults are planted in."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import limprec as lp
from limprec.diagnosis import Report, diagnose

Change = Callable[[Tensor], Tensor]
BATCH, WIDTH, INPUTS = 64, 48, 32


def clusters(classes: int, count: int = 512) -> tuple[Tensor, Tensor]:
    """Return points around a centre for each class, and their classes."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(classes, INPUTS, generator=generator)
    y = torch.arange(count) % classes
    return centres[y] + 0.5 * torch.randn(count, INPUTS, generator=generator), y


class Network(nn.Module):
    """Two hidden layers, with a norm between them if wanted."""

    def __init__(self, classes: int, *, norm: bool = False) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.first = nn.Linear(INPUTS, WIDTH)
            self.norm = nn.LayerNorm(WIDTH) if norm else nn.Identity()
            self.second = nn.Linear(WIDTH, WIDTH)
            self.head = nn.Linear(WIDTH, classes)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = F.relu(self.norm(self.first(x)))
        logits: Tensor = self.head(F.relu(self.second(y)))
        return logits


def steps(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    y: Tensor,
    count: int,
    loss_scale: float = 1.0,
) -> None:
    """Train for some steps."""
    for step in range(count):
        batch = torch.arange(step * BATCH, (step + 1) * BATCH) % len(x)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x[batch]).float(), y[batch]) * loss_scale
        loss.backward()
        optimizer.step()


def planned(
    *,
    classes: int = 10,
    writeback: str = "kahan",
    lr: float = 0.1,
    loss_scale: float = 1.0,
    change: Change = lambda x: x,
    watch: dict[str, Any] | None = None,
    count: int = 24,
    fmt: str = "dfx8",
    **roles: str,
) -> Report:
    """Train under a uniform plan with single roles changed."""
    x, y = clusters(classes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # plans of planted faults may be warned of
        plan = lp.Plan.uniform(fmt, **roles)  # type: ignore[arg-type]
        model = lp.convert(Network(classes), plan)
    optimizer = lp.optim.SGD(
        model.parameters(), lr / loss_scale, momentum=0.9, writeback=writeback, format="plan"
    )
    with diagnose(model, optimizer, **{"every": 3, **(watch or {})}) as watching:
        steps(model, optimizer, change(x), y, count, loss_scale)
    return watching.report()


def in_dtype(
    make: Callable[[Any], torch.optim.Optimizer],
    *,
    dtype: torch.dtype = torch.bfloat16,
    norm: bool = True,
    count: int = 24,
    **watch: Any,
) -> Report:
    """Train in a dtype, without a plan."""
    x, y = clusters(10)
    model = Network(10, norm=norm).to(dtype)
    optimizer = make(model.parameters())
    with diagnose(model, optimizer, **{"every": 3, **watch}) as watching:
        steps(model, optimizer, x.to(dtype), y, count)
    return watching.report()


def scaled(scale: float, *, backoff: float = 0.5, count: int = 24, **watch: Any) -> Report:
    """Train in float16 under autocast with a gradient scaler that never grows."""
    x, y = clusters(10)
    model = Network(10, norm=True)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", scale, backoff_factor=backoff, growth_interval=10**6)
    with diagnose(model, optimizer, **{"every": 3, "scaler": scaler, **watch}) as watching:
        for step in range(count):
            batch = torch.arange(step * BATCH, (step + 1) * BATCH) % len(x)
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.float16):
                loss = F.cross_entropy(model(x[batch]).float(), y[batch])
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
    return watching.report()
