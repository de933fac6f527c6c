"""Gradients summed over micro-batches, in few bits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Unpack

from torch import Tensor

from ..errors import OptimizerError
from ..kernels.steps import Rule
from .held import HeldTensors
from .storage import StorageOptions


class GradientAccumulator:
    """Sums gradients of micro-batches without losing the small ones.

    ``backward`` alone adds each micro-batch's gradient to ``p.grad`` rounded to nearest: of equal
    gradients in bfloat16, the 257th changes nothing. Here each one is taken out of ``p.grad`` and
    added under a write-back. By default a compensation of 8 bits in units of ulp / 2^8 stands
    beside the sum: 3 bytes a parameter in bfloat16, for 4 of a float32 sum.

    ::

        accumulator = GradientAccumulator(model.parameters())
        for batch in micro_batches:
            loss(batch).backward()
            accumulator.add(1 / len(micro_batches))
        accumulator.finish()
        optimizer.step()

    Args:
        params: the parameters whose gradients are summed.
        storage: how the sums are kept, see ``StorageOptions``.

    Raises:
        OptimizerError: for a write-back that a dtype cannot have.
    """

    def __init__(self, params: Iterable[Tensor], **storage: Unpack[StorageOptions]) -> None:
        """See the class."""
        self.params = list(params)
        options: StorageOptions = {"compensation_format": "ulp8", **storage}
        zeros = [p.detach().new_zeros(()).expand(p.shape) for p in self.params]
        self._held = HeldTensors([p.detach() for p in self.params], Rule.ADD, options)
        self._zeros = zeros
        self._seen: set[int] = set()
        self._held.set(zeros)

    def add(self, weight: float = 1.0) -> None:
        """Take the gradients out of ``p.grad`` and add them, each times ``weight``.

        NaN and infinities propagate. Parameters without a gradient are left alone.
        """
        grads = [p.grad for p in self.params]
        self._held.add(grads, (weight, 0.0))
        self._seen |= {i for i, grad in enumerate(grads) if grad is not None}
        for p in self.params:
            p.grad = None

    def finish(self) -> None:
        """Put the sums into ``p.grad``, rounded to its dtype, and start again from zero.

        Raises:
            OptimizerError: if a parameter has a gradient that was not added.
        """
        if any(p.grad is not None for p in self.params):
            raise OptimizerError(
                "GradientAccumulator.finish", "a gradient that was not added", "call add() first"
            )
        for i, (p, total) in enumerate(zip(self.params, self._held.exact(), strict=True)):
            if i in self._seen:
                p.grad = total.to(p.dtype)
        self._held.set(self._zeros)
        self._seen.clear()

    def state_dict(self) -> dict[str, Any]:
        """Return the state, also in the middle of an accumulation."""
        return {**self._held.state_dict(), "seen": sorted(self._seen)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state.

        Raises:
            OptimizerError: if it is of other tensors or another write-back; nothing is changed.
        """
        self._held.load_state_dict(state)
        self._seen = set(state["seen"])
