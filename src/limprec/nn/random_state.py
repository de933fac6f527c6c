"""The random state of a converted model."""

from __future__ import annotations

import torch
from torch import Tensor


class RandomState:
    """The random state of a converted model: the one thing of ours in its ``state_dict``.

    ``step`` counts training forwards of the root module; a recomputed inner forward (activation
    checkpointing) and an evaluation leave it, so that they round as the step did. Both numbers
    live in one tensor, so that a compiled step need not be compiled again when they change.
    """

    def __init__(self, seed: int, step: int = 0) -> None:
        self.tensor = torch.tensor([seed, step], dtype=torch.int64, device="cpu")
        self._read: tuple[Tensor, tuple[int, int]] | None = None

    @property
    def numbers(self) -> tuple[int, int]:
        """Seed and step, read from the tensor when it is another one, whoever advanced it."""
        if self._read is None or self._read[0] is not self.tensor:
            self._read = self.tensor, (self.seed, self.step)
        return self._read[1]

    @property
    def seed(self) -> int:
        """Owner of every random bit."""
        return int(self.tensor[0])

    @property
    def step(self) -> int:
        """Training forwards so far."""
        return int(self.tensor[1])

    @step.setter
    def step(self, value: int) -> None:
        self.tensor = torch.tensor([self.seed, value], dtype=torch.int64, device="cpu")

    def set(self, seed: int, step: int) -> None:
        """Take over a saved state."""
        self.tensor = torch.tensor([seed, step], dtype=torch.int64, device="cpu")

    def advance(self) -> None:
        """Count a step; what rounded before keeps the numbers that it had."""
        self.tensor = self.tensor + torch.tensor([0, 1], dtype=torch.int64, device="cpu")
