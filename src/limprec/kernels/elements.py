"""Rounding element by element: the scalar formats, in float64."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from ..errors import KernelError
from ..formats import E8M0, FixedPoint, FloatingPoint, Format, ListedFormat, Rounding


def round_elements(x: Tensor, fmt: Format, rounding: Rounding, words: Tensor | None) -> Tensor:
    """Round float64 ``x`` to a scalar format; ``words`` are its random words, if any."""
    if isinstance(fmt, FloatingPoint):
        return _floating(x, fmt, rounding, words)
    if isinstance(fmt, FixedPoint):
        return _fixed(x, fmt, rounding, words)
    if isinstance(fmt, ListedFormat):
        return _listed(x, fmt, rounding, words)
    if isinstance(fmt, E8M0):
        return _power_of_two(x, fmt, rounding, words)
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
    return torch.copysign(low + goes_far(rest, words), q)


def goes_far(share: Tensor, words: Tensor | None) -> Tensor:
    """Return where stochastic rounding takes the far neighbour, ``share`` of the gap away."""
    assert words is not None, "stochastic rounding needs random words"
    return (share * 2.0**32).floor() + words >= 2.0**32


def power_of_two(exponent: Tensor) -> Tensor:
    """Return 2^exponent as float64, exactly, for integers from -1022 to 1023."""
    return ((exponent.to(torch.int64) + 1023) << 52).view(torch.float64)


def scale(x: Tensor, exponent: Tensor) -> Tensor:
    """Return x * 2^exponent, in two factors so that neither overflows."""
    half = exponent.div(2, rounding_mode="floor")
    return x * power_of_two(half) * power_of_two(exponent - half)


def in_steps(x: Tensor, step_exponent: Tensor) -> Tensor:
    """Express ``x`` in units of 2^step_exponent; an underflow must not look like an exact zero."""
    q = scale(x, -step_exponent)
    return torch.where((q == 0) & (x != 0), torch.copysign(torch.full_like(x, 2.0**-60), x), q)


def _fixed(x: Tensor, fmt: FixedPoint, rounding: Rounding, words: Tensor | None) -> Tensor:
    step = torch.full((), -fmt.fraction_bits, dtype=torch.int64, device=x.device)
    code = round_to_integers(in_steps(x, step), rounding, words)
    if fmt.overflow == "wrap":
        code = torch.where(code.isfinite(), code, torch.nan)
        code = torch.remainder(code, 2.0**fmt.bits)
        code = torch.where(code > fmt.code_max, code - 2.0**fmt.bits, code)
    else:
        code = code.clamp(fmt.code_min, fmt.code_max)
    return scale(code + 0.0, step)  # + 0.0: fixed point has no negative zero


def _floating(x: Tensor, fmt: FloatingPoint, rounding: Rounding, words: Tensor | None) -> Tensor:
    finite = x.isfinite()
    exponent = torch.frexp(torch.where(finite, x, 0.0)).exponent.to(torch.int64) - 1
    step = exponent.clamp(min=fmt.min_exponent) - fmt.mantissa_bits
    if not fmt.subnormals:
        step = torch.where(x.abs() < fmt.smallest_normal, fmt.min_exponent, step)
    q = in_steps(x, step)
    steps = round_to_integers(q, rounding, words)
    if fmt.mantissa_bits == 0 and rounding is Rounding.NEAREST:
        # One step is the lower power of two: a tie goes up, unless the code below is the even one.
        even = (exponent - fmt.min_exponent).remainder(2) == 1
        steps = torch.where((q.abs() == 1.5) & even, torch.copysign(torch.ones_like(q), q), steps)
    y = scale(steps, step)
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


def _power_of_two(x: Tensor, fmt: E8M0, rounding: Rounding, words: Tensor | None) -> Tensor:
    exponent = torch.frexp(torch.where(x.isfinite(), x, 1.0)).exponent.to(torch.int64) - 1
    y = scale(round_to_integers(in_steps(x, exponent), rounding, words), exponent)
    y = y.clamp(min=fmt.min)
    stops = x.isfinite() & _held_back(x, rounding)
    y = torch.where(y > fmt.max, torch.where(stops, fmt.max, torch.nan), y)
    return torch.where(x > 0, y, torch.nan)


def _listed(x: Tensor, fmt: ListedFormat, rounding: Rounding, words: Tensor | None) -> Tensor:
    table, thresholds = _tables(fmt, x.device)
    last = len(fmt.table) - 1
    x = x.contiguous()
    above = torch.searchsorted(table, x).clamp(1, last)  # the first value that is not under x
    low, high = table[above - 1], table[above]
    if rounding in (Rounding.NEAREST, Rounding.NEAREST_AWAY):
        index = torch.searchsorted(thresholds, x)  # the value whose upper threshold reaches x
        tie = thresholds[index.clamp(max=last - 1)] == x
        odd = (index - fmt.origin).remainder(2) == 1
        up = odd if rounding is Rounding.NEAREST else x >= 0
        y = table[(index + (tie & up)).clamp(max=last)]
    else:
        outward = x >= 0  # away from zero is up
        if rounding is Rounding.STOCHASTIC:
            near, far = torch.where(outward, low, high), torch.where(outward, high, low)
            up = goes_far((x - near) / (far - near), words) == outward
        elif rounding is Rounding.TOWARD_ZERO:
            up = ~outward
        else:
            up = torch.full_like(outward, rounding is Rounding.UP)
        y = torch.where(up, high, low)
    y = torch.where(x == low, low, torch.where(x == high, high, y))
    y = torch.where(x < fmt.min, fmt.min, torch.where(x > fmt.max, fmt.max, y))
    out = x.isnan() | x.isinf() if fmt.keeps_infinity_out else x.isnan()
    return torch.where(out, torch.nan, y)


@lru_cache(maxsize=64)
def _tables(fmt: ListedFormat, device: torch.device) -> tuple[Tensor, Tensor]:
    def tensor(values: tuple[float, ...]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64, device=device)

    return tensor(fmt.table), tensor(fmt.thresholds)
