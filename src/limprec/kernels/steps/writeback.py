"""How an update is added to a parameter that has few bits. Written once, for every optimizer."""

from __future__ import annotations

import torch
from torch import Tensor

from ...formats import Precision, Rounding, ScalarFormat, ScaledFormat
from ..dispatch import round_to
from ..random import Key
from .memory import read, read_ulps, write, write_scaled, write_ulps
from .spec import StepSpec, Storage, WriteBack


def carry_name(strategy: WriteBack) -> str | None:
    """Return the state key of the tensor that a strategy keeps beside the parameter."""
    return {
        WriteBack.KAHAN: "compensation",
        WriteBack.LAZY: "pending",
        WriteBack.MASTER: "master",
        WriteBack.SPLIT: "low_bits",
    }.get(strategy)


def wide(p: Tensor, carry: Tensor | None, spec: StepSpec, dtype: torch.dtype) -> Tensor:
    """Return the parameter as precisely as a rule sees it: the full-precision copy, or ``p``.

    What Kahan and lazy keep beside ``p`` is no part of it: it belongs to the updates.
    """
    if spec.strategy is WriteBack.MASTER:
        assert carry is not None
        return carry.to(dtype)
    if spec.strategy is WriteBack.SPLIT:
        assert carry is not None
        return join_halves(p, carry)
    return p.to(dtype)


def exact(p: Tensor, carry: Tensor | None, spec: StepSpec, dtype: torch.dtype) -> Tensor:
    """Return all that is known of the parameter: ``wide`` and what lies beside it."""
    w = wide(p, carry, spec, dtype)
    if carry is None or spec.strategy not in (WriteBack.KAHAN, WriteBack.LAZY):
        return w
    assert spec.carry is not None
    return w + _read_carry(carry, p, spec.carry, dtype)


def first_rounding(p: Tensor, value: Tensor, spec: StepSpec, key: Key | None) -> Tensor | None:
    """Round a value into a parameter, in place, and return the carry that loses nothing.

    Args:
        p: the parameter's memory; it is overwritten.
        value: what it is to be, in the computing dtype and the shape of ``p``.
        spec: how it is stored.
        key: random key of the carry, needed where that is rounded stochastically.

    Returns:
        What the strategy keeps beside ``p``, in its storage; None where it keeps nothing.
    """
    if spec.carry is None:
        p.copy_(round_to(value, _nearest(spec.parameter), None))
        return None
    carry = torch.zeros_like(p, dtype=spec.carry.dtype)
    if spec.strategy is WriteBack.SPLIT:
        _store_halves(p, carry, value)
    elif spec.strategy is WriteBack.MASTER:
        carry.copy_(value)
        p.copy_(round_to(value, _nearest(spec.parameter), None))
    else:
        rounded = round_to(value, _nearest(spec.parameter), None)
        rest = torch.where(_inside(value, spec), value - rounded, 0.0)
        p.copy_(_write_carry(carry, rounded, rest, spec, key))
    return carry


def write_back(
    p: Tensor,
    update: Tensor,
    carry: Tensor | None,
    spec: StepSpec,
    parameter_key: Key | None,
    carry_key: Key | None,
) -> None:
    """Add an update to a parameter, in place, by its strategy: the semantics.

    Kahan: y = u + c, t = Q(p + y), c = Qc(y - (t - p)), p = t, all sums in the dtype of ``update``.
    Lazy: b = b + u, t = Q(p + b); where t differs from p, p = t and b = 0, elsewhere b = Qb(b).
    Where a compensation cannot hold half an ulp, t becomes its neighbour (see ``memory``). Where
    the sum leaves the range of the format (or is not finite), c and b become 0, so that they do not
    wind up against a parameter that cannot follow.

    What Kahan guarantees, and no more: after n steps p + c is off the exact sum by at most
    n * ulp(c_max) / 2 (ulp in the compensation's format, one whole ulp if c is rounded
    stochastically), as long as the computing dtype is exact. With c rounded to nearest, updates
    under half an ulp of c are lost and nearby ones drift; with c rounded stochastically the
    error has mean zero.

    Args:
        p: the parameter's memory.
        update: what to add, in the computing dtype (float32, or float64 for float64 parameters).
        carry: what the strategy keeps beside ``p``, in place; None where it keeps nothing.
        spec: formats and strategy.
        parameter_key: random key of the parameter, needed for ``stochastic``.
        carry_key: random key of the carry, needed where it is rounded stochastically.
    """
    if spec.strategy in (WriteBack.NEAREST, WriteBack.STOCHASTIC):
        p.copy_(round_to(p.to(update.dtype) + update, spec.parameter.precision, parameter_key))
        return
    assert carry is not None
    assert spec.carry is not None
    if spec.strategy is WriteBack.MASTER:
        carry.add_(update)
        p.copy_(round_to(carry, _nearest(spec.parameter), None))
        return
    if spec.strategy is WriteBack.SPLIT:
        _store_halves(p, carry, join_halves(p, carry) + update)
        return
    before = p.to(update.dtype)
    y = update + _read_carry(carry, p, spec.carry, update.dtype)
    if spec.strict:
        y = round_to(y, _nearest(spec.carry), None)
    total = before + y
    t = round_to(total, _nearest(spec.parameter), None)
    rest = (
        y - (t - before) if spec.strategy is WriteBack.KAHAN else torch.where(t == before, y, 0.0)
    )
    rest = torch.where(_inside(total, spec), rest, 0.0)
    t = _write_carry(carry, t, rest, spec, carry_key)
    if spec.strategy is WriteBack.LAZY and (spec.carry.ulp_bits or _is_scaled(spec.carry)):
        carry.masked_fill_(t != before, 0)
    p.copy_(t)


def join_halves(p: Tensor, low: Tensor) -> Tensor:
    """Return the float32 whose upper half, rounded to nearest away, is the bfloat16 ``p``.

    Args:
        p: bfloat16.
        low: int16, the lower half as a signed number: negative where ``p`` was rounded up.
    """
    upper = p.contiguous().view(torch.int16).to(torch.int32) << 16
    return (upper + low).view(torch.float32)


def _store_halves(p: Tensor, low: Tensor, value: Tensor) -> None:
    """Split float32 values into ``p`` and ``low``, in place; every NaN becomes the same one."""
    bits = value.contiguous().view(torch.int32)
    bits = torch.where(value.isnan(), 0x7FC00000, bits)
    lower = bits << 16 >> 16  # sign extended
    upper = (bits - lower) >> 16
    p.copy_(upper.to(torch.int16).view(torch.bfloat16))
    low.copy_(lower)


def _read_carry(carry: Tensor, p: Tensor, storage: Storage, dtype: torch.dtype) -> Tensor:
    if storage.ulp_bits:
        return read_ulps(carry, p, storage, dtype)
    return read(carry, None, storage, dtype)


def _write_carry(carry: Tensor, t: Tensor, rest: Tensor, spec: StepSpec, key: Key | None) -> Tensor:
    """Write what rounding took, in place, and return the parameter to store beside it."""
    storage = spec.carry
    assert storage is not None
    if storage.ulp_bits:
        return write_ulps(carry, t, rest, storage, key)
    if _is_scaled(storage):
        return write_scaled(carry, t, rest, storage, spec.parameter.format, key)
    write(carry, None, rest, storage, key)
    return t


def _is_scaled(storage: Storage) -> bool:
    return isinstance(storage.format, ScaledFormat)


def _nearest(storage: Storage) -> Precision:
    return Precision(storage.format, Rounding.NEAREST)


def _inside(total: Tensor, spec: StepSpec) -> Tensor:
    """Where a sum lies in the range of the parameter's format."""
    fmt = spec.parameter.format
    if isinstance(fmt, ScaledFormat):
        return total.isfinite()  # the scales follow the sum: no finite one is outside
    assert isinstance(fmt, ScalarFormat)
    return (total <= fmt.max) & (total >= fmt.min)
