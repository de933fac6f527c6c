"""Reading and writing what is kept between steps: values in the computing dtype and real bits."""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import KernelError
from ...formats import (
    DynamicFixedPoint,
    FixedPoint,
    FloatingPoint,
    Format,
    Microscaling,
    ScaledFormat,
)
from .. import groups
from ..dispatch import round_to
from ..elements import goes_far, in_steps, power_of_two, round_to_integers
from ..random import Key, random_words
from ..reference import parts
from ..scaled import Parts, ends, join
from .spec import Storage

E8M0_BIAS = 127
FINEST_UNIT = -126
"""Exponent below which the units of a compensation in ulps get no finer: its inverse is float32."""


def read(kept: Tensor, scale: Tensor | None, storage: Storage, dtype: torch.dtype) -> Tensor:
    """Return the values of a state, in the shape of its tensor and in ``dtype``.

    Args:
        kept: its memory, in ``storage.dtype``.
        scale: one e8m0 byte a flat block of it, None where the storage is not in blocks.
        storage: how it is kept.
        dtype: the computing dtype.
    """
    if not storage.in_blocks:
        return kept.to(dtype)
    assert scale is not None
    exponent = scale.to(torch.int64) - E8M0_BIAS  # 255 is NaN, as is MX_NAN
    flat = join(Parts(kept.reshape(-1).to(torch.float32), (exponent,)), storage.format)  # type: ignore[arg-type]
    return flat.to(dtype).view(kept.shape)


def write(
    kept: Tensor, scale: Tensor | None, value: Tensor, storage: Storage, key: Key | None
) -> None:
    """Round values into a state's memory, in place; arguments as for ``read``.

    Blocks run over the flattened tensor. NaN stays; a block with a NaN or an infinity is NaN.
    """
    precision = storage.precision
    if not storage.in_blocks:
        kept.copy_(round_to(value, precision, key))
        return
    assert scale is not None
    fmt = precision.format
    assert isinstance(fmt, Microscaling)
    flat = value.reshape(-1)
    elements, (exponent,) = parts(
        flat, fmt, precision.rounding, key, random_bits=precision.random_bits
    )
    if storage.above_zero:
        least = torch.full((), fmt.element.smallest, dtype=elements.dtype, device=flat.device)
        elements = torch.where((elements == 0) & (flat > 0), least, elements)
    kept.copy_(elements.to(kept.dtype).view(kept.shape))
    scale.copy_(exponent + E8M0_BIAS)


def ulp_exponent(p: Tensor, fmt: Format) -> Tensor:
    """Return the exponent of the distance between neighbours of ``p`` upwards in its format, int64.

    Args:
        p: values of the format.
        fmt: floating point or fixed point.

    Raises:
        KernelError: for another family of formats.
    """
    if isinstance(fmt, FixedPoint):
        return torch.full(p.shape, -fmt.fraction_bits, dtype=torch.int64, device=p.device)
    if not isinstance(fmt, FloatingPoint):
        raise KernelError("ulp", f"{fmt} has no ulp of its own", "use floating or fixed point")
    finite = p.to(torch.float64)  # isfinite knows no float8_e4m3fn
    finite = torch.where(finite.isfinite(), finite, 0.0)
    exponent = torch.frexp(finite).exponent.to(torch.int64) - 1
    exponent = torch.where(finite == 0, fmt.min_exponent, exponent).clamp(min=fmt.min_exponent)
    below = fmt.min_exponent if not fmt.subnormals else fmt.min_exponent - fmt.mantissa_bits
    small = finite.abs() < fmt.smallest_normal
    return torch.where(small, below, exponent - fmt.mantissa_bits)


def read_ulps(kept: Tensor, p: Tensor, storage: Storage, dtype: torch.dtype) -> Tensor:
    """Return a compensation kept in units of ulp(p) / 2^ulp_bits; ``p`` as stored beside it."""
    unit = power_of_two(_unit_exponent(p, storage))
    return (kept.to(torch.float64) * unit).to(dtype)


def write_ulps(kept: Tensor, p: Tensor, rest: Tensor, storage: Storage, key: Key | None) -> Tensor:
    """Round ``rest`` to units of ulp(p) / 2^ulp_bits and return the parameter to store.

    Half an ulp upwards is one code more than there are. ``p`` then becomes the next value of its
    format, and what is kept half an ulp downwards: the same sum. Codes beyond that, where ``p`` is
    a negative power of two or a value beside the gap around 0, saturate; NaN becomes 0.

    Args:
        kept: the memory: int8 or int16, in place.
        p: the parameter as rounded; under the format's largest value where ``rest`` is over 0.
        rest: what its rounding took.
        storage: how the compensation is kept.
        key: random key, needed where it is rounded stochastically.
    """
    precision = storage.precision
    words = None
    if key is not None and storage.is_random:
        words = random_words(key, rest.numel(), rest.device, precision.random_bits).view(rest.shape)
    unit = _unit_exponent(p, storage)
    units = in_steps(torch.nan_to_num(rest.to(torch.float64)), unit)
    half = 2 ** (storage.ulp_bits - 1)
    codes = round_to_integers(units, precision.rounding, words).clamp(-half, half)
    above = p.to(torch.float64) + 2 * half * power_of_two(unit)
    unit_above = _unit_exponent(above, storage)
    full = (codes == half) & ((p > 0) | (unit_above == unit))  # else neighbours may be nearer
    codes = torch.where(full, -half * power_of_two(unit - unit_above), codes.clamp(max=half - 1))
    kept.copy_(codes)
    return torch.where(full, above.to(p.dtype), p)


def write_scaled(
    kept: Tensor, p: Tensor, rest: Tensor, storage: Storage, parameter: Format, key: Key | None
) -> Tensor:
    """Round ``rest`` under a shared scale and return the parameter to store.

    The last code of dynamic fixed point and MX lies under the power of two above it, and clips what
    is between. Where that power is half the distance of dynamic fixed-point parameters, one whose
    ``rest`` is between steps over to its neighbour, with the last code on the other side, as often
    as is right on average; rounded to nearest it does not, nor outwards from the largest code.
    Where the power is less, or parameters are in another format, the scale is doubled.

    Args:
        kept: the memory, in place.
        p: the parameter as rounded.
        rest: what its rounding took.
        storage: how the compensation is kept.
        parameter: the format of ``p``.
        key: random key, needed where the compensation is rounded stochastically.
    """
    precision, fmt = storage.precision, storage.format
    assert isinstance(fmt, ScaledFormat)
    found, room = ends(rest, fmt), None
    if found is not None:
        last = groups.spread(found.last, rest.shape, fmt)
        clipped = rest.abs() > last
        if isinstance(parameter, DynamicFixedPoint) and clipped.any():
            power = groups.spread(found.power, rest.shape, fmt)
            gap = groups.spread(_spacing(p, parameter), rest.shape, parameter)
            at_half = clipped & (gap == 2 * power)
            beyond = p + torch.copysign(gap, rest)
            at_half &= beyond.abs() <= gap * parameter.code_max
            clipped &= 2 * power < gap  # a larger scale would cost every large tensor a bit
            end = torch.copysign(last, rest.to(torch.float64))
            if storage.is_random:
                assert key is not None
                words = random_words(key, rest.numel(), rest.device, precision.random_bits)
                share = (rest.abs() - last) / (gap - 2 * last)
                over = at_half & goes_far(share, words.view(rest.shape))
                p, end = torch.where(over, beyond.to(p.dtype), p), torch.where(over, -end, end)
            rest = torch.where(at_half, end, rest).to(rest.dtype)
        if clipped.any():
            wide = groups.amax(clipped.to(rest.dtype), fmt) > 0
            room = torch.where(wide, found.power, found.amax)
    kept.copy_(round_to(rest, precision, key, amax=room))
    return p


def _spacing(p: Tensor, fmt: DynamicFixedPoint) -> Tensor:
    exponent = torch.frexp(groups.amax(p.to(torch.float64), fmt)).exponent
    return power_of_two(exponent - fmt.bits + 1)


def _unit_exponent(p: Tensor, storage: Storage) -> Tensor:
    return (ulp_exponent(p, storage.format) - storage.ulp_bits).clamp(min=FINEST_UNIT)
