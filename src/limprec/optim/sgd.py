"""Stochastic gradient descent with a write-back."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim.optimizer import ParamsT

from ..errors import OptimizerError
from .base import FormatLike, WriteBackOptimizer, _computing_dtype

_MOMENTUM = "momentum_buffer"


class SGD(WriteBackOptimizer):
    """``torch.optim.SGD`` for parameters of few bits: no update has to be lost.

    g = grad + weight_decay * p; m = momentum * m + (1 - dampening) * g (the first m is g);
    u = -lr * (g + momentum * m if nesterov else m), and u is added to p by the write-back.
    Sums are computed in float32 (float64 for float64 parameters) and rounded when stored.

    Args:
        params: parameters or groups; each group may have its own options.
        lr: the learning rate, 0 or more.
        momentum: 0 to less than 1; 0 keeps no buffer.
        dampening: as in ``torch.optim.SGD``.
        weight_decay: 0 or more; added to the gradient, so the write-back carries it too.
        nesterov: needs momentum and zero dampening.
        maximize: ascend instead.
        writeback: ``nearest``, ``stochastic``, ``kahan`` or ``master`` (see ``WriteBack``).
        format: the parameters' format: None for that of their dtype, ``plan`` for the weight and
            bias formats of the plan that the model was converted under (dtype for the others),
            or a name. The parameters are rounded to nearest here, and what that takes goes into
            the compensation or the full-precision copy.
        state_format: the momentum's format and rounding, e.g. ``dfx8:stochastic``; None for the
            plan's, else the parameter's.
        compensation_format: the compensation's, likewise.
        compensation_rounding: ``nearest`` or ``stochastic``; None for the one that
            ``compensation_format`` or the plan says. Stochastic removes the drift of small updates.
        strict: round u + c to the compensation's format first.
        seed: owns every stochastic rounding of this optimizer.

    Raises:
        OptimizerError: for a negative rate, an unknown write-back, or Nesterov without momentum.
        FormatError: for a format that does not fit the parameter's dtype.
        KernelError: for parameters of a dtype that carries no format.
    """

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
        writeback: str = "kahan",
        format: FormatLike = None,
        state_format: FormatLike = None,
        compensation_format: FormatLike = None,
        compensation_rounding: str | None = None,
        strict: bool = False,
        seed: int = 0,
    ) -> None:
        """See the class."""
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
            "writeback": writeback,
            "format": format,
            "state_format": state_format,
            "compensation_format": compensation_format,
            "compensation_rounding": compensation_rounding,
            "strict": strict,
            "seed": seed,
        }
        super().__init__(params, defaults)

    def _check_group(self, group: dict[str, Any]) -> None:
        super()._check_group(group)
        if not 0 <= group["momentum"] < 1:
            raise OptimizerError(
                "SGD", f"momentum is {group['momentum']}", "give 0 or more, less than 1"
            )
        if group["nesterov"] and (group["momentum"] == 0 or group["dampening"] != 0):
            raise OptimizerError(
                "SGD", "nesterov without momentum or with dampening", "set momentum, dampening=0"
            )

    def _states(self, group: dict[str, Any]) -> tuple[str, ...]:
        return (_MOMENTUM,) if group["momentum"] else ()

    def _update(self, p: Tensor, group: dict[str, Any], index: int) -> Tensor:
        dtype = _computing_dtype(p)
        assert p.grad is not None
        grad = p.grad.to(dtype)
        if group["maximize"]:
            grad = -grad
        if group["weight_decay"]:
            grad = grad + group["weight_decay"] * p.to(dtype)
        if not group["momentum"]:
            return -float(group["lr"]) * grad
        buffer = self.state[p].get(_MOMENTUM)
        if buffer is not None:
            value = group["momentum"] * buffer.to(dtype) + (1 - group["dampening"]) * grad
        else:
            value = grad
        m = self._store_state(p, group, index, _MOMENTUM, value)
        direction = grad + group["momentum"] * m if group["nesterov"] else m
        return -float(group["lr"]) * direction
