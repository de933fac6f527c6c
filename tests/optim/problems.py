"""A small problem that every optimizer can be tried on."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


def problem(dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[nn.Sequential, Any]:
    """Return a network and a function that gives its loss on fixed data."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).to(dtype)
    generator = torch.Generator().manual_seed(9)
    x = torch.randn(32, 6, generator=generator).to(dtype)
    y = torch.randint(3, (32,), generator=generator)

    def loss() -> torch.Tensor:
        return nn.functional.cross_entropy(model(x).float(), y)

    return model, loss


def fit(loss: Callable[[], torch.Tensor], optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
