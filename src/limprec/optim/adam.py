"""Adam and AdamW with a write-back."""

from __future__ import annotations

import math
from typing import Any, Unpack

from torch.optim.optimizer import ParamsT

from ..kernels.steps import Flag, Rule
from .base import WriteBackOptimizer
from .options import check_betas, check_implementation, check_not_negative
from .storage import StorageOptions


class Adam(WriteBackOptimizer):
    """``torch.optim.Adam`` for parameters of few bits (Kingma & Ba, arXiv 1412.6980).

    g = grad + weight_decay * p; m = beta1 * m + (1 - beta1) * g; v = beta2 * v + (1 - beta2) * g^2;
    u = -lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps), and u is added to p by the
    write-back. With ``amsgrad`` the largest v so far stands for v (Reddi et al., ICLR 2018). t
    counts the steps of each parameter. Sums are computed in float32 (float64 for float64
    parameters); m and v are rounded when they are stored.

    Args:
        params: parameters or groups; each group may have its own options.
        lr: the learning rate, 0 or more.
        betas: decay rates of m and v, 0 to less than 1.
        eps: 0 or more. An element whose v is 0 moves by m / eps.
        weight_decay: 0 or more; added to the gradient.
        amsgrad: keep the largest v as well.
        maximize: ascend instead.
        decoupled_weight_decay: as in ``AdamW``.
        foreach, fused, capturable, differentiable: accepted for their defaults' sake; the kernel is
            chosen by itself, and a capturable or differentiable step is refused.
        storage: how everything is kept, see ``StorageOptions``.

    Raises:
        OptimizerError: for an option out of range or an unknown write-back.
        FormatError: for a format that does not fit the parameter's dtype.
    """

    rule = Rule.ADAM

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        decoupled_weight_decay: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        **storage: Unpack[StorageOptions],
    ) -> None:
        """See the class."""
        name = type(self).__name__
        check_implementation(name, capturable=capturable, differentiable=differentiable)
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        super().__init__(params, defaults, storage)

    def _check_group(self, group: dict[str, Any]) -> None:
        super()._check_group(group)
        name = type(self).__name__
        check_betas(name, group["betas"])
        check_not_negative(name, "eps", group["eps"])

    def _flags(self, group: dict[str, Any]) -> Flag:
        decay = Flag.DECOUPLED if group["decoupled_weight_decay"] else Flag.DECAY
        return (
            (Flag.MAXIMIZE if group["maximize"] else Flag.NONE)
            | (decay if group["weight_decay"] else Flag.NONE)
            | (Flag.AMSGRAD if group["amsgrad"] else Flag.NONE)
        )

    def _scalars(self, group: dict[str, Any], count: int) -> tuple[float, ...]:
        (beta1, beta2), lr, decay = group["betas"], float(group["lr"]), group["weight_decay"]
        return (
            -lr / (1 - beta1**count),
            -lr * decay if group["decoupled_weight_decay"] else decay,
            beta1,
            1 - beta1,
            beta2,
            1 - beta2,
            1 / math.sqrt(1 - beta2**count),
            group["eps"],
        )


class AdamW(Adam):
    """``torch.optim.AdamW`` for parameters of few bits (Loshchilov & Hutter, arXiv 1711.05101).

    As ``Adam``, but weight decay is part of the update: u = ... - lr * weight_decay * p. The
    write-back carries it, so that it is not rounded away.

    Args:
        params, lr, betas, eps, amsgrad, maximize: as for ``Adam``.
        weight_decay: 0 or more.
        foreach, fused, capturable, differentiable: as for ``Adam``.
        storage: how everything is kept, see ``StorageOptions``.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        **storage: Unpack[StorageOptions],
    ) -> None:
        """See the class."""
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            maximize=maximize,
            decoupled_weight_decay=True,
            capturable=capturable,
            differentiable=differentiable,
            **storage,
        )
