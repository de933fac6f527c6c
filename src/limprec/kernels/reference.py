"""The semantics of rounding, in plain PyTorch: short, in float64, judged by the scalar oracle.

Every fast kernel equals this file bit for bit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import KernelError
from ..formats import DynamicFixedPoint, FixedPoint, FloatingPoint, Format, Rounding
from .random import Key, random_words


def quantize(x: Tensor, fmt: Format, rounding: Rounding, key: Key | None) -> Tensor:
    """Return ``x`` rounded to ``fmt``: same shape and dtype, a new tensor.

    Args:
        x: floating-point tensor whose dtype holds every value of ``fmt`` (see ``carrier``).
        fmt: the format.
        rounding: the rounding mode.
        key: the random key; needed for ``stochastic``, else ignored.

    NaN, infinities and overflow: as the format's docstring says.
    """
    words = None
    if rounding is Rounding.STOCHASTIC:
        assert key is not None, "stochastic rounding needs a key"
        words = random_words(key, x.numel(), x.device).view(x.shape)
    wide = x.to(torch.float64)
    if isinstance(fmt, FloatingPoint):
        return _floating(wide, fmt, rounding, words).to(x.dtype)
    if isinstance(fmt, FixedPoint):
        return _fixed(wide, fmt, rounding, words).to(x.dtype)
    if isinstance(fmt, DynamicFixedPoint):
        return _dynamic(wide, fmt, rounding, words).to(x.dtype)
    raise KernelError("quantize", f"no kernel for {fmt!r}", "use a format of limprec.formats")


def round_to_integers(q: Tensor, rounding: Rounding, words: Tensor | None) -> Tensor:
    """Round float64 ``q`` to integers; NaN and infinities stay."""
    if rounding is Rounding.NEAREST:
        return torch.round(q)
    if rounding is Rounding.TOWARD_ZERO:
        return torch.trunc(q)
    if rounding is Rounding.DOWN:
        return torch.floor(q)
    if rounding is Rounding.UP:
        return torch.ceil(q)
    low = q.abs().floor()
    rest = q.abs() - low
    if rounding is Rounding.NEAREST_AWAY:
        return torch.copysign(low + (rest >= 0.5), q)
    assert words is not None, "stochastic rounding needs random words"
    away = (rest * 2.0**32).floor() + words >= 2.0**32
    return torch.copysign(low + away, q)


def power_of_two(exponent: Tensor) -> Tensor:
    """Return 2^exponent as float64, exactly, for integers from -1022 to 1023."""
    return ((exponent.to(torch.int64) + 1023) << 52).view(torch.float64)


def scale(x: Tensor, exponent: Tensor) -> Tensor:
    """Return x * 2^exponent, in two factors so that neither overflows."""
    half = exponent.div(2, rounding_mode="floor")
    return x * power_of_two(half) * power_of_two(exponent - half)


def _in_steps(x: Tensor, step_exponent: Tensor) -> Tensor:
    """Express ``x`` in units of 2^step_exponent; an underflow must not look like an exact zero."""
    q = scale(x, -step_exponent)
    return torch.where((q == 0) & (x != 0), torch.copysign(torch.full_like(x, 2.0**-60), x), q)


def _fixed(x: Tensor, fmt: FixedPoint, rounding: Rounding, words: Tensor | None) -> Tensor:
    step = torch.full((), -fmt.fraction_bits, dtype=torch.int64, device=x.device)
    code = round_to_integers(_in_steps(x, step), rounding, words)
    if fmt.overflow == "wrap":
        code = torch.where(code.isfinite(), code, torch.nan)
        code = torch.remainder(code, 2.0**fmt.bits)
        code = torch.where(code > fmt.code_max, code - 2.0**fmt.bits, code)
    else:
        code = code.clamp(fmt.code_min, fmt.code_max)
    return scale(code + 0.0, step)  # + 0.0: fixed point has no negative zero


def _dynamic(x: Tensor, fmt: DynamicFixedPoint, rounding: Rounding, words: Tensor | None) -> Tensor:
    if x.numel() == 0:
        return x
    amax = x.abs().amax()
    exponent = torch.frexp(amax).exponent.to(torch.int64)  # floor(log2 amax) + 1
    step = torch.where(amax > 0, exponent - fmt.bits + 1, 0)
    step = torch.where(amax.isfinite(), step, 0)
    code = round_to_integers(_in_steps(x, step), rounding, words)
    y = scale(code.clamp(-fmt.code_max, fmt.code_max) + 0.0, step)
    return torch.where(amax.isfinite(), y, torch.nan)


def _floating(x: Tensor, fmt: FloatingPoint, rounding: Rounding, words: Tensor | None) -> Tensor:
    finite = x.isfinite()
    exponent = torch.frexp(torch.where(finite, x, 0.0)).exponent.to(torch.int64) - 1
    step = exponent.clamp(min=fmt.min_exponent) - fmt.mantissa_bits
    if not fmt.subnormals:
        step = torch.where(x.abs() < fmt.smallest_normal, fmt.min_exponent, step)
    y = scale(round_to_integers(_in_steps(x, step), rounding, words), step)
    y = torch.where(finite, y, x)
    over = y.abs() > fmt.max
    peak = torch.copysign(torch.full_like(x, fmt.max), x)
    if fmt.overflow == "saturate" or not (fmt.has_infinity or fmt.has_nan):
        y = torch.where(over, peak, y)
    else:
        beyond = torch.copysign(torch.full_like(x, torch.inf), x) if fmt.has_infinity else torch.nan
        y = torch.where(over, torch.where(finite & _held_back(x, rounding), peak, beyond), y)
    return y if fmt.has_negative_zero else y + 0.0


def _held_back(x: Tensor, rounding: Rounding) -> Tensor:
    """Where a directed rounding stops at the largest finite value (IEEE 754-2019, section 7.4)."""
    if rounding is Rounding.TOWARD_ZERO:
        return torch.ones_like(x, dtype=torch.bool)
    if rounding is Rounding.DOWN:
        return x > 0
    if rounding is Rounding.UP:
        return x < 0
    return torch.zeros_like(x, dtype=torch.bool)
