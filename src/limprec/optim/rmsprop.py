"""RMSprop with a write-back."""

from __future__ import annotations

from typing import Any, Unpack

from torch.optim.optimizer import ParamsT

from ..kernels.steps import Flag, Rule
from .base import WriteBackOptimizer
from .options import check_fraction, check_implementation, check_not_negative
from .storage import StorageOptions


class RMSprop(WriteBackOptimizer):
    """``torch.optim.RMSprop`` for parameters of few bits.

    g = grad + weight_decay * p; v = alpha * v + (1 - alpha) * g^2; if centered,
    a = alpha * a + (1 - alpha) * g and a^2 is taken from v (not below 0, where few bits could
    lead); d = g / (sqrt(v) + eps); with momentum b = momentum * b + d stands for d; u = -lr * d is
    added to p by the write-back. Sums are computed in float32 (float64 for float64 parameters);
    states are rounded when they are stored.

    Args:
        params: parameters or groups; each group may have its own options.
        lr: the learning rate, 0 or more.
        alpha: 0 to less than 1.
        eps: 0 or more.
        weight_decay: 0 or more; added to the gradient.
        momentum: 0 to less than 1; 0 keeps no buffer.
        centered: divide by the standard deviation instead.
        maximize: ascend instead.
        foreach, capturable, differentiable: accepted for their defaults' sake; the kernel is chosen
            by itself, and a capturable or differentiable step is refused.
        storage: how everything is kept, see ``StorageOptions``.

    Raises:
        OptimizerError: for an option out of range or an unknown write-back.
        FormatError: for a format that does not fit the parameter's dtype.
    """

    rule = Rule.RMSPROP

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        **storage: Unpack[StorageOptions],
    ) -> None:
        """See the class."""
        check_implementation("RMSprop", capturable=capturable, differentiable=differentiable)
        defaults = {
            "lr": lr,
            "alpha": alpha,
            "eps": eps,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "centered": centered,
            "maximize": maximize,
        }
        super().__init__(params, defaults, storage)

    def _check_group(self, group: dict[str, Any]) -> None:
        super()._check_group(group)
        check_fraction("RMSprop", "momentum", group["momentum"])
        check_fraction("RMSprop", "alpha", group["alpha"])
        check_not_negative("RMSprop", "eps", group["eps"])

    def _flags(self, group: dict[str, Any]) -> Flag:
        return (
            (Flag.MAXIMIZE if group["maximize"] else Flag.NONE)
            | (Flag.DECAY if group["weight_decay"] else Flag.NONE)
            | (Flag.MOMENTUM if group["momentum"] else Flag.NONE)
            | (Flag.CENTERED if group["centered"] else Flag.NONE)
        )

    def _scalars(self, group: dict[str, Any], count: int) -> tuple[float, ...]:
        alpha = group["alpha"]
        return (
            -float(group["lr"]),
            group["weight_decay"],
            group["momentum"],
            alpha,
            1 - alpha,
            group["eps"],
        )
