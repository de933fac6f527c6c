"""A write-back for an optimizer of somebody else's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any, Unpack

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT

from ..errors import OptimizerError
from ..kernels.steps import Flag, Rule, StepKey, computing_dtype
from .base import WriteBackOptimizer
from .storage import StorageOptions


class WriteBackWrapper(WriteBackOptimizer):
    """Gives a write-back to any optimizer whose step is a function of parameters and gradients.

    Before each step the inner optimizer's parameters are filled with float32 copies of the model's
    (float64 for float64), and their gradients likewise; its step moves them, and how far they came
    is the update that the write-back stores. Between steps the copies take no memory. What this is
    not: a saving in the inner optimizer's states, which stay as it makes them, or in the peak
    during a step, which holds the float32 copies and gradients. An update under half a float32 ulp
    of its parameter is lost, as in float32 training.

    ::

        opt = WriteBackWrapper(model.parameters(), lambda p: torch.optim.NAdam(p, lr=1e-3))

    Args:
        params: parameters or groups; the options of a group go to the inner optimizer's.
        make: makes the inner optimizer from parameters or groups.
        storage: how parameters are kept, see ``StorageOptions``; ``state_format`` is refused.

    Raises:
        OptimizerError: for a write-back that a dtype cannot have, or a ``state_format``.
    """

    rule = Rule.ADD
    directs = True

    def __init__(
        self,
        params: ParamsT,
        make: Callable[[Any], Optimizer],
        **storage: Unpack[StorageOptions],
    ) -> None:
        """See the class."""
        if storage.get("state_format") is not None:
            raise OptimizerError(
                "WriteBackWrapper",
                "state_format",
                "leave it out: the inner optimizer decides",
            )
        self._copies: dict[Tensor, Tensor] = {}
        self._before: dict[Tensor, Tensor] = {}
        super().__init__(params, {}, storage)
        groups = [
            {
                **{k: v for k, v in group.items() if k not in ("params", *self.defaults)},
                "params": [self._copies[p] for p in group["params"]],
            }
            for group in self.param_groups
        ]
        self._empty_copies()
        self.inner = make(groups)
        """The inner optimizer; learning-rate schedulers go to it."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Do one step of the inner optimizer; parameters without a gradient are left alone."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._before = {}
        for _, p, _ in self._enumerate():
            copy = self._copies[p]
            if p.grad is None:
                copy.grad = None
                continue
            self._before[p] = self._wide(p).clone()
            copy.data = self._before[p].clone()
            copy.grad = p.grad.to(copy.dtype)
        self.inner.step()
        self._step_all()
        self._before = {}
        self._empty_copies()
        return loss

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, to the inner optimizer too."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        for p in group["params"]:
            self._copies[p] = torch.nn.Parameter(p.detach().to(computing_dtype(p)))
        if hasattr(self, "inner"):
            own = {k: v for k, v in group.items() if k not in ("params", *self.defaults)}
            copies = [self._copies[p] for p in group["params"]]
            self.inner.add_param_group({**own, "params": copies})
            self._empty_copies()

    def state_dict(self) -> dict[str, Any]:
        """Return this optimizer's state, and the inner one's under ``inner``."""
        return {**super().state_dict(), "inner": self.inner.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a checkpoint of this wrapper around the same kind of optimizer.

        Raises:
            OptimizerError: for another optimizer's checkpoint; nothing is changed.
        """
        if "inner" not in state_dict:
            raise OptimizerError(
                "WriteBackWrapper.load_state_dict",
                "a checkpoint of no wrapper",
                "load the inner optimizer's with .inner.load_state_dict",
            )
        super().load_state_dict({k: v for k, v in state_dict.items() if k != "inner"})
        self.inner.load_state_dict(deepcopy(state_dict["inner"]))  # torch would share it

    def _flags(self, group: dict[str, Any]) -> Flag:
        return Flag.NONE

    def _scalars(self, group: dict[str, Any], count: int) -> Sequence[float]:
        return (1.0, 0.0)

    def _direction(self, p: Tensor, group: dict[str, Any], key: StepKey) -> Tensor:
        return self._copies[p].detach() - self._before[p]

    def _empty_copies(self) -> None:
        for copy in self._copies.values():
            copy.grad = None
            copy.data = copy.data.new_zeros(()).expand(copy.shape)  # keeps the shape, no memory
