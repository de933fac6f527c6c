"""Averages of weights over training, in few bits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Unpack

import torch
from torch import Tensor

from ..kernels.steps import Rule
from .base import WriteBackOptimizer
from .held import HeldTensors
from .options import check_fraction
from .storage import StorageOptions


class WeightAverage:
    """An exponential moving average of weights in their own few bits, losing no contribution.

    a = a + (1 - decay) * (w - a): with decay 0.999 and bfloat16 each contribution is a few
    thousandths of an ulp of a, and an average rounded to nearest stands still. Here the write-back
    keeps them, by default Kahan's.

    Args:
        params: the weights to average, e.g. ``model.parameters()``; the average starts from them.
        decay: 0 to less than 1.
        optimizer: the weights are what this optimizer knows of them, compensation included, and not
            only their rounded images.
        storage: how the average is kept, see ``StorageOptions``.

    Raises:
        OptimizerError: for a decay out of range or a write-back that a dtype cannot have.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        decay: float = 0.999,
        *,
        optimizer: WriteBackOptimizer | None = None,
        **storage: Unpack[StorageOptions],
    ) -> None:
        """See the class."""
        check_fraction("WeightAverage", "decay", decay)
        self.params, self.decay, self._optimizer = list(params), decay, optimizer
        self._held = HeldTensors([p.detach() for p in self.params], Rule.AVERAGE, storage)
        self._held.set(self._weights())

    @property
    def tensors(self) -> list[Tensor]:
        """The averages as stored, in the order of the weights."""
        return self._held.tensors

    def update(self) -> None:
        """Take the weights as they are now into the average."""
        self._held.add(self._weights(), (1 - self.decay,))

    def exact(self) -> list[Tensor]:
        """Return copies of the averages with what is kept beside them, in the computing dtype."""
        return self._held.exact()

    @torch.no_grad()
    def copy_to(self, params: Iterable[Tensor] | None = None) -> None:
        """Copy the averages into parameters: those averaged, or others of their shapes."""
        targets = self.params if params is None else list(params)
        for target, average in zip(targets, self._held.exact(), strict=True):
            target.copy_(average)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the model hold the averages inside the context, its own weights again after it."""
        own = [p.detach().clone() for p in self.params]
        self.copy_to()
        try:
            yield
        finally:
            with torch.no_grad():
                for p, value in zip(self.params, own, strict=True):
                    p.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """Return the state."""
        return self._held.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state.

        Raises:
            OptimizerError: if it is of other tensors or another write-back; nothing is changed.
        """
        self._held.load_state_dict(state)

    def _weights(self) -> list[Tensor]:
        if self._optimizer is None:
            return [p.detach() for p in self.params]
        return [self._optimizer.exact(p) for p in self.params]
