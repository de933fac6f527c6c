"""Lion with a write-back."""

from __future__ import annotations

from typing import Any, Unpack

from torch.optim.optimizer import ParamsT

from ..kernels.steps import Flag, Rule
from .base import WriteBackOptimizer
from .options import check_betas
from .storage import StorageOptions


class Lion(WriteBackOptimizer):
    """Lion (Chen et al., arXiv 2302.06675) for parameters of few bits.

    u = -lr * (sign(beta1 * m + (1 - beta1) * grad) + weight_decay * p) is added to p by the
    write-back, then m = beta2 * m + (1 - beta2) * grad. Sums are computed in float32 (float64 for
    float64 parameters); m is rounded when it is stored. The sign of 0 is 0, that of NaN is NaN.

    Args:
        params: parameters or groups; each group may have its own options.
        lr: the learning rate, 0 or more; a third to a tenth of AdamW's.
        betas: 0 to less than 1.
        weight_decay: 0 or more, decoupled.
        maximize: ascend instead.
        storage: how everything is kept, see ``StorageOptions``.

    Raises:
        OptimizerError: for an option out of range or an unknown write-back.
        FormatError: for a format that does not fit the parameter's dtype.
    """

    rule = Rule.LION

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        **storage: Unpack[StorageOptions],
    ) -> None:
        """See the class."""
        defaults = {"lr": lr, "betas": betas, "weight_decay": weight_decay, "maximize": maximize}
        super().__init__(params, defaults, storage)

    def _check_group(self, group: dict[str, Any]) -> None:
        super()._check_group(group)
        check_betas("Lion", group["betas"])

    def _flags(self, group: dict[str, Any]) -> Flag:
        return (Flag.MAXIMIZE if group["maximize"] else Flag.NONE) | (
            Flag.DECOUPLED if group["weight_decay"] else Flag.NONE
        )

    def _scalars(self, group: dict[str, Any], count: int) -> tuple[float, ...]:
        (beta1, beta2), lr = group["betas"], float(group["lr"])
        return (-lr, -lr * group["weight_decay"], beta1, 1 - beta1, beta2, 1 - beta2)
