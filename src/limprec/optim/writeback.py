"""How an update is added to a parameter that has few bits. Written once, for every optimizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from ..errors import OptimizerError
from ..formats import Precision, Rounding, ScalarFormat, ScaledFormat
from ..kernels import Key, round_to


class WriteBack(StrEnum):
    """The strategies; p is the parameter, u the update, Q the parameter's format."""

    NEAREST = "nearest"
    """p = Q(p + u): an update under half an ulp of p is lost."""
    STOCHASTIC = "stochastic"
    """p = Q(p + u) rounded stochastically: right on average, noisy."""
    KAHAN = "kahan"
    """What Q takes from p + u is kept in a compensation c and added to the next update."""
    MASTER = "master"
    """u is added to a full-precision copy, of which p is the rounded image."""


def parse_write_back(name: str) -> WriteBack:
    """Return the strategy called ``name``.

    Raises:
        OptimizerError: if there is none of that name.
    """
    try:
        return WriteBack(name)
    except ValueError:
        raise OptimizerError(
            "writeback", f"unknown write-back {name!r}", "use one of " + ", ".join(WriteBack)
        ) from None


@dataclass(frozen=True)
class UpdateEvent:
    """One write-back of one parameter, for whoever counts what gets lost.

    ``carry`` is the compensation or the full-precision copy, None where there is neither.
    """

    update: Tensor
    before: Tensor
    after: Tensor
    carry_before: Tensor | None
    carry_after: Tensor | None


Observer = Callable[[Tensor, UpdateEvent], None]
"""Called with the parameter and the event after each write-back."""


@dataclass(frozen=True)
class Storage:
    """How one parameter is stored and written back.

    Args:
        precision: format and rounding of the parameter; only ``nearest`` and ``stochastic`` make
            sense and the strategy picks between them.
        compensation: format and rounding of the compensation.
        strategy: the write-back.
        strict: round y = u + c to the compensation's format first, as hardware with one word
            length does.
    """

    precision: Precision
    compensation: Precision
    strategy: WriteBack
    strict: bool = False


def carry_name(strategy: WriteBack) -> str | None:
    """Return the state key of the tensor that a strategy keeps beside the parameter."""
    return {WriteBack.KAHAN: "compensation", WriteBack.MASTER: "master"}.get(strategy)


def first_rounding(p: Tensor, wide: Tensor, storage: Storage, key: Key | None) -> Tensor | None:
    """Round a parameter into its format, in place, and return the carry that loses nothing.

    Args:
        p: the parameter as it is stored; it is overwritten.
        wide: its value in the computing dtype.
        storage: how it is stored.
        key: random key of the compensation, needed where that rounds stochastically.

    Returns:
        The compensation (what the rounding took, in the dtype of ``p``), the full-precision copy,
        or None.
    """
    rounded = round_to(wide, _nearest(storage.precision), None)
    carry = None
    if storage.strategy is WriteBack.MASTER:
        carry = wide.clone()
    elif storage.strategy is WriteBack.KAHAN:
        rest = _residual(storage, wide, wide - rounded)
        carry = round_to(rest, storage.compensation, key).to(p.dtype)
    p.copy_(rounded)
    return carry


def write_back(
    p: Tensor,
    update: Tensor,
    carry: Tensor | None,
    storage: Storage,
    parameter_key: Key | None,
    carry_key: Key | None,
) -> None:
    """Add an update to a parameter, in place, by its strategy: the semantics.

    Kahan: y = u + c, t = Q(p + y), c = Qc(y - (t - p)), p = t, all sums in the dtype of ``update``.
    Where p + y leaves the range of the format (or is not finite), c becomes 0, so that it does
    not wind up against a parameter that cannot follow.

    What this guarantees, and no more: after n steps p + c is off the exact sum by at most
    n * ulp(c_max) / 2 (ulp in the compensation's format, one whole ulp if c is rounded
    stochastically), as long as the computing dtype is exact. With c rounded to nearest, updates
    under half an ulp of c are lost and nearby ones drift; with c rounded stochastically the
    error has mean zero.

    Args:
        p: the parameter as stored, of any floating dtype that holds the format.
        update: what to add, in the computing dtype (float32, or float64 for float64 parameters).
        carry: compensation or full-precision copy, in place; None where the strategy has none.
        storage: formats and strategy.
        parameter_key: random key of the parameter, needed for ``stochastic``.
        carry_key: random key of the compensation, needed where it is rounded stochastically.
    """
    wide = p.to(update.dtype)
    if storage.strategy is WriteBack.MASTER:
        assert carry is not None
        carry.add_(update)
        p.copy_(round_to(carry, _nearest(storage.precision), None))
    elif storage.strategy is WriteBack.KAHAN:
        assert carry is not None
        y = update + carry.to(update.dtype)
        if storage.strict:
            y = round_to(y, _nearest(storage.compensation), None)
        total = wide + y
        t = round_to(total, _nearest(storage.precision), None)
        rest = _residual(storage, total, y - (t - wide))
        carry.copy_(round_to(rest, storage.compensation, carry_key))
        p.copy_(t)
    elif storage.strategy is WriteBack.STOCHASTIC:
        precision = Precision(storage.precision.format, Rounding.STOCHASTIC)
        p.copy_(round_to(wide + update, precision, parameter_key))
    else:
        p.copy_(round_to(wide + update, _nearest(storage.precision), None))


def _nearest(precision: Precision) -> Precision:
    return Precision(precision.format)


def _residual(storage: Storage, total: Tensor, rest: Tensor) -> Tensor:
    """Drop the residual where the sum lies outside the format's range."""
    fmt = storage.precision.format
    if isinstance(fmt, ScaledFormat):
        inside = total.isfinite()  # the scales follow the sum: no finite one is outside
    else:
        assert isinstance(fmt, ScalarFormat)
        inside = (total <= fmt.max) & (total >= fmt.min)
    return torch.where(inside, rest, 0.0)
