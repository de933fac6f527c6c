"""Stochastic gradient descent with a write-back."""

from __future__ import annotations

from typing import Any, Unpack

from torch.optim.optimizer import ParamsT

from ..errors import OptimizerError
from ..kernels.steps import Flag, Rule
from .base import WriteBackOptimizer
from .options import check_fraction, check_implementation
from .storage import StorageOptions


class SGD(WriteBackOptimizer):
    """``torch.optim.SGD`` for parameters of few bits: no update has to be lost.

    g = grad + weight_decay * p; m = momentum * m + (1 - dampening) * g (the first m is g);
    u = -lr * (g + momentum * m if nesterov else m), and u is added to p by the write-back.
    Sums are computed in float32 (float64 for float64 parameters); m is rounded when it is stored.

    Args:
        params: parameters or groups; each group may have its own options.
        lr: the learning rate, 0 or more.
        momentum: 0 to less than 1; 0 keeps no buffer.
        dampening: as in ``torch.optim.SGD``.
        weight_decay: 0 or more; added to the gradient, so the write-back carries it too.
        nesterov: needs momentum and zero dampening.
        maximize: ascend instead.
        foreach, fused, differentiable: accepted for their defaults' sake; the kernel is chosen by
            itself, and a differentiable step is refused.
        storage: how everything is kept, see ``StorageOptions``.

    Raises:
        OptimizerError: for a negative rate, an unknown write-back, or Nesterov without momentum.
        FormatError: for a format that does not fit the parameter's dtype.
    """

    rule = Rule.SGD

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        differentiable: bool = False,
        **storage: Unpack[StorageOptions],
    ) -> None:
        """See the class."""
        check_implementation("SGD", differentiable=differentiable)
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
        }
        super().__init__(params, defaults, storage)

    def _check_group(self, group: dict[str, Any]) -> None:
        super()._check_group(group)
        check_fraction("SGD", "momentum", group["momentum"])
        if group["nesterov"] and (group["momentum"] == 0 or group["dampening"] != 0):
            raise OptimizerError(
                "SGD", "nesterov without momentum or with dampening", "set momentum, dampening=0"
            )

    def _flags(self, group: dict[str, Any]) -> Flag:
        return (
            (Flag.MAXIMIZE if group["maximize"] else Flag.NONE)
            | (Flag.DECAY if group["weight_decay"] else Flag.NONE)
            | (Flag.MOMENTUM if group["momentum"] else Flag.NONE)
            | (Flag.NESTEROV if group["nesterov"] else Flag.NONE)
        )

    def _scalars(self, group: dict[str, Any], count: int) -> tuple[float, ...]:
        gain = 1.0 if count == 1 else 1 - group["dampening"]
        return (-float(group["lr"]), group["weight_decay"], group["momentum"], gain)
