"""Muon with a write-back."""

from __future__ import annotations

import math
from typing import Any, Unpack

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from ..errors import OptimizerError
from ..kernels.steps import Flag, Rule, StepKey, Storage, computing_dtype
from ..kernels.steps.memory import read, write
from ..kernels.steps.spec import FIRST_STATE
from .base import WriteBackOptimizer
from .kept import SCALE
from .options import check_fraction, check_not_negative
from .shards import require_whole
from .storage import StorageOptions, state_storage

_BUFFER = "momentum_buffer"
_ADJUSTMENTS = ("original", "match_rms_adamw")


class Muon(WriteBackOptimizer):
    """``torch.optim.Muon`` for matrices of few bits (Jordan et al., 2024, kellerjordan.github.io).

    m = m + (1 - momentum) * (grad - m); d = grad + momentum * (m - grad) if nesterov else m; d is
    brought near the closest matrix with orthonormal rows or columns by Newton-Schulz steps, whose
    products run in bfloat16; u = -rate * d - lr * weight_decay * p is added to p by the write-back.
    The products are sums in a free order: the update agrees with torch's within rounding, not bit
    for bit; the write-back after it is exact. m is rounded when it is stored.

    Args:
        params: matrices (hidden layers; leave embeddings, the classifier, biases and norms to
            another optimizer), or groups of them.
        lr: the learning rate, 0 or more.
        weight_decay: 0 or more, decoupled.
        momentum: 0 to less than 1.
        nesterov: look ahead.
        ns_coefficients: of the Newton-Schulz polynomial a X + b (X X^T) X + c (X X^T)^2 X.
        eps: least norm that d is divided by.
        ns_steps: Newton-Schulz steps, from 1 to 99.
        adjust_lr_fn: ``original`` (also None): rate = lr * sqrt(max(1, rows / columns));
            ``match_rms_adamw``: rate = lr * 0.2 * sqrt(max(rows, columns)) (arXiv 2502.16982).
        storage: how everything is kept, see ``StorageOptions``.

    Raises:
        OptimizerError: for an option out of range, an unknown write-back, a parameter that is no
            matrix, or a sharded one.
        FormatError: for a format that does not fit the parameter's dtype.
    """

    rule = Rule.ADD
    directs = True

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
        **storage: Unpack[StorageOptions],
    ) -> None:
        """See the class."""
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "nesterov": nesterov,
            "ns_coefficients": ns_coefficients,
            "eps": eps,
            "ns_steps": ns_steps,
            "adjust_lr_fn": adjust_lr_fn,
        }
        super().__init__(params, defaults, storage)

    def _check_group(self, group: dict[str, Any]) -> None:
        super()._check_group(group)
        check_fraction("Muon", "momentum", group["momentum"])
        check_not_negative("Muon", "eps", group["eps"])
        if not 1 <= group["ns_steps"] < 100:
            raise OptimizerError("Muon", f"ns_steps is {group['ns_steps']}", "give 1 to 99")
        if len(group["ns_coefficients"]) != 3:
            raise OptimizerError(
                "Muon", f"ns_coefficients are {group['ns_coefficients']}", "give three numbers"
            )
        if group["adjust_lr_fn"] not in (None, *_ADJUSTMENTS):
            raise OptimizerError(
                "Muon",
                f"unknown adjust_lr_fn {group['adjust_lr_fn']!r}",
                "use one of " + ", ".join(_ADJUSTMENTS),
            )
        for p in group["params"]:
            if p.ndim != 2:
                raise OptimizerError(
                    "Muon",
                    f"a parameter of shape {tuple(p.shape)}",
                    "give matrices, and the others to another optimizer",
                )

    def _states(self, p: Tensor, group: dict[str, Any]) -> dict[str, Storage]:
        require_whole(p, "Muon")
        return {_BUFFER: state_storage(p, group, _BUFFER)}

    def _flags(self, group: dict[str, Any]) -> Flag:
        return Flag.DECOUPLED if group["weight_decay"] else Flag.NONE

    def _scalars(self, group: dict[str, Any], count: int) -> tuple[float, ...]:
        return (1.0, -float(group["lr"]) * group["weight_decay"])

    def _direction(self, p: Tensor, group: dict[str, Any], key: StepKey) -> Tensor:
        assert p.grad is not None
        state, storage = self.state[p], self._kept[p].states[_BUFFER]
        scale = state.get(_BUFFER + SCALE)
        grad = p.grad.to(computing_dtype(p))
        m = read(state[_BUFFER], scale, storage, grad.dtype).lerp(grad, 1 - group["momentum"])
        write(state[_BUFFER], scale, m, storage, key.at(FIRST_STATE) if storage.is_random else None)
        direction = grad.lerp(m, group["momentum"]) if group["nesterov"] else m
        near = orthogonalize(direction, group["ns_coefficients"], group["ns_steps"], group["eps"])
        rows, columns = p.shape
        if group["adjust_lr_fn"] == "match_rms_adamw":
            rate = 0.2 * math.sqrt(max(rows, columns))
        else:
            rate = math.sqrt(max(1.0, rows / columns))
        return near.to(grad.dtype) * (-float(group["lr"]) * rate)


def orthogonalize(
    x: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float
) -> Tensor:
    """Return a matrix near the closest one to ``x`` with orthonormal rows or columns, in bfloat16.

    Newton-Schulz: X <- a X + (b G + c G G) X with G = X X^T, from X = x / max(|x|, eps).

    Args:
        x: a matrix of any floating dtype.
        coefficients: a, b, c.
        steps: how often.
        eps: least norm to divide by.
    """
    a, b, c = coefficients
    wide = x.shape[0] <= x.shape[1]
    y = (x if wide else x.T).bfloat16()
    y = y / y.norm().clamp(min=eps)
    for _ in range(steps):
        gram = y @ y.T
        y = torch.addmm(y, torch.addmm(gram, gram, gram, beta=b, alpha=c), y, beta=a)
    return y if wide else y.T
