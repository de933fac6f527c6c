"""Adafactor with a write-back."""

from __future__ import annotations

from typing import Any, Unpack

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from ..errors import OptimizerError
from ..formats import Precision
from ..kernels import dtype_format
from ..kernels.steps import Flag, Rule, StepKey, Storage, computing_dtype
from .base import WriteBackOptimizer
from .options import check_implementation, check_not_negative
from .shards import require_whole
from .storage import StorageOptions


class Adafactor(WriteBackOptimizer):
    """``torch.optim.Adafactor`` for parameters of few bits (Shazeer & Stern, arXiv 1804.04235).

    The second moment of a matrix is kept as one number a row and one a column, in float32
    (float64 for float64 parameters) whatever the format: that costs next to nothing. With
    b = t^beta2_decay, rows r = r + b * (mean of grad^2 along the columns - r), columns c likewise
    along the rows, and V = r c / mean(r); vectors keep V whole.
    d = grad / sqrt(max(V, eps1^2)), divided by
    max(1, rms(d) / d_max);
    u = -max(eps2, rms(p)) * min(lr, 1 / sqrt(t)) * d - lr * weight_decay * p
    is added to p by the write-back. Means and norms are sums in a free order: the update agrees
    with torch's within rounding, not bit for bit; the write-back after it is exact.

    Args:
        params: parameters or groups; each group may have its own options.
        lr: bound of the relative step size, 0 or more.
        beta2_decay: exponent of the moment's decay, 0 or less.
        eps: eps1 (None: the machine epsilon of the parameter's dtype) and eps2.
        d: d_max, at least 1.
        weight_decay: 0 or more, decoupled.
        foreach: accepted for its default's sake.
        maximize: ascend instead.
        storage: how everything is kept, see ``StorageOptions``; the states are wide.

    Raises:
        OptimizerError: for an option out of range, an unknown write-back, or a sharded parameter.
        FormatError: for a format that does not fit the parameter's dtype.
    """

    rule = Rule.ADD
    directs = True

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-2,
        beta2_decay: float = -0.8,
        eps: tuple[float | None, float] = (None, 1e-3),
        d: float = 1.0,
        weight_decay: float = 0.0,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        **storage: Unpack[StorageOptions],
    ) -> None:
        """See the class."""
        check_implementation("Adafactor", differentiable=differentiable)
        defaults = {
            "lr": lr,
            "beta2_decay": beta2_decay,
            "eps": eps,
            "d": d,
            "weight_decay": weight_decay,
            "maximize": maximize,
        }
        super().__init__(params, defaults, storage)

    def _check_group(self, group: dict[str, Any]) -> None:
        super()._check_group(group)
        eps1, eps2 = group["eps"]
        if eps1 is not None:
            check_not_negative("Adafactor", "eps", eps1)
        check_not_negative("Adafactor", "eps", eps2)
        if not group["beta2_decay"] <= 0:
            raise OptimizerError(
                "Adafactor", f"beta2_decay is {group['beta2_decay']}", "give 0 or less"
            )
        if not group["d"] >= 1:
            raise OptimizerError("Adafactor", f"d is {group['d']}", "give 1 or more")
        if group["state_format"] is not None:
            raise OptimizerError(
                "Adafactor",
                f"state_format {group['state_format']}",
                "leave it out: the states are a number a row and column, in float32",
            )

    def _states(self, p: Tensor, group: dict[str, Any]) -> dict[str, Storage]:
        require_whole(p, "Adafactor")
        dtype = computing_dtype(p)
        kept = Storage(Precision(dtype_format(dtype, "Adafactor")), dtype)
        return dict.fromkeys(("row_var", "col_var") if p.ndim > 1 else ("variance",), kept)

    def _state_shape(self, p: Tensor, name: str) -> torch.Size:
        if name == "row_var":
            return torch.Size([*p.shape[:-1], 1])
        if name == "col_var":
            return torch.Size([*p.shape[:-2], 1, p.shape[-1]])
        return p.shape

    def _flags(self, group: dict[str, Any]) -> Flag:
        return Flag.DECOUPLED if group["weight_decay"] else Flag.NONE

    def _scalars(self, group: dict[str, Any], count: int) -> tuple[float, ...]:
        return (1.0, -float(group["lr"]) * group["weight_decay"])

    def _direction(self, p: Tensor, group: dict[str, Any], key: StepKey) -> Tensor:
        assert p.grad is not None
        state, count = self.state[p], self.state[p]["step"]
        grad = p.grad.to(computing_dtype(p))
        grad = -grad if group["maximize"] else grad
        weight = count ** group["beta2_decay"]
        eps1, eps2 = group["eps"]
        eps1 = torch.finfo(p.dtype).eps if eps1 is None else eps1
        square = grad * grad
        if p.ndim > 1:
            row, col = state["row_var"], state["col_var"]
            row.lerp_(square.mean(dim=-1, keepdim=True), weight)
            col.lerp_(square.mean(dim=-2, keepdim=True), weight)
            moment = row @ col / row.mean(dim=-2, keepdim=True).clamp(min=eps1)
        else:
            moment = state["variance"].lerp_(square, weight)
        direction = moment.clamp(min=eps1 * eps1).rsqrt() * grad
        too_long = (_rms(direction) / group["d"]).clamp(min=1.0)
        rate = min(float(group["lr"]), count**-0.5)
        factor = -rate * _rms(self._wide(p)).clamp(min=eps2) / too_long
        return torch.mul(direction, factor)


def _rms(x: Tensor) -> Tensor:
    """Return the root of the mean square, 0 for an empty tensor."""
    return torch.div(torch.linalg.vector_norm(x), max(x.numel(), 1) ** 0.5)
