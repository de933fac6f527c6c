"""Values to words and back: the codes of scalar formats, a whole tensor at a time."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from ..errors import KernelError
from ..formats import E8M0, FixedPoint, FloatingPoint, ListedFormat, ScalarFormat
from .elements import in_steps, power_of_two, scale


def encode(x: Tensor, fmt: ScalarFormat) -> tuple[Tensor, Tensor]:
    """Return the code of each element, int64, and where an element is no value of the format.

    NaN gives the quiet NaN without a sign, -0 the code of 0 where the format has no -0; a code of
    64 bits wraps to a negative int64. Where an element is no value its code means nothing.
    """
    x = x.to(torch.float64)
    if isinstance(fmt, FloatingPoint):
        codes = _encode_floating(x, fmt)
    elif isinstance(fmt, FixedPoint):
        step = torch.full((), -fmt.fraction_bits, dtype=torch.int64, device=x.device)
        q = in_steps(x, step)
        whole = q.isfinite().logical_and(q == q.round())
        q = torch.where(whole, q, 0.0).clamp(fmt.code_min, fmt.code_max)
        codes = q.to(torch.int64) & ((1 << fmt.bits) - 1)
    elif isinstance(fmt, ListedFormat):
        table, words, _ = _listed(fmt, x.device)
        index = torch.searchsorted(table, x.contiguous()).clamp(max=len(table) - 1)
        codes = words[index]
        if fmt.has_nan:
            codes = torch.where(x.isnan(), fmt.encode(torch.nan), codes)
    elif isinstance(fmt, E8M0):
        positive = (x > 0) & x.isfinite()
        exponent = torch.frexp(torch.where(positive, x, 1.0)).exponent.to(torch.int64)
        codes = torch.where(positive, (exponent + 126).clamp(0, 254), 255)
    else:
        raise KernelError("encode", f"no codes for {fmt!r}", "use a format of limprec.formats")
    back = decode(codes, fmt)
    same = (back == x) | (back.isnan() & x.isnan())
    return codes, ~same


def decode(codes: Tensor, fmt: ScalarFormat) -> Tensor:
    """Return the value of each code (int64, 0 to 2^bits - 1), in float64."""
    if isinstance(fmt, FloatingPoint):
        return _decode_floating(codes, fmt)
    if isinstance(fmt, FixedPoint):
        signed = torch.where(codes > fmt.code_max, codes - (1 << fmt.bits), codes)
        step = torch.full((), -fmt.fraction_bits, dtype=torch.int64, device=codes.device)
        return scale(signed.to(torch.float64), step)
    if isinstance(fmt, ListedFormat):
        return _listed(fmt, codes.device)[2][codes]
    if isinstance(fmt, E8M0):
        return torch.where(codes == 255, torch.nan, power_of_two(codes - 127))
    raise KernelError("decode", f"no codes for {fmt!r}", "use a format of limprec.formats")


def _encode_floating(x: Tensor, fmt: FloatingPoint) -> Tensor:
    finite = torch.where(x.isfinite(), x, 0.0)
    exponent = torch.frexp(finite).exponent.to(torch.int64) - 1
    exponent = torch.where(finite == 0, fmt.min_exponent, exponent)
    exponent = exponent.clamp(fmt.min_exponent, fmt.max_exponent)
    steps = in_steps(finite.abs(), exponent - fmt.mantissa_bits).clamp(max=2.0**53)
    magnitude = ((exponent - fmt.min_exponent) << fmt.mantissa_bits) + steps.to(torch.int64)
    magnitude = magnitude.clamp(max=fmt.largest_code)
    sign = x.signbit() & ((x != 0) | fmt.has_negative_zero)
    if fmt.has_infinity:
        magnitude = torch.where(x.isinf(), fmt.largest_code + 1, magnitude)
    codes = magnitude | (sign.to(torch.int64) << (fmt.bits - 1))
    return torch.where(x.isnan(), fmt.encode(torch.nan), codes) if fmt.has_nan else codes


def _decode_floating(codes: Tensor, fmt: FloatingPoint) -> Tensor:
    top = fmt.bits - 1
    negative = (codes >> top) & 1 == 1
    magnitude = codes & ((1 << top) - 1)
    exponent, mantissa = magnitude >> fmt.mantissa_bits, magnitude & ((1 << fmt.mantissa_bits) - 1)
    normal = exponent > 0
    hidden = normal.to(torch.int64) << fmt.mantissa_bits
    steps = torch.where(normal | fmt.subnormals, mantissa + hidden, 0).to(torch.float64)
    step = (exponent - 1).clamp(min=0) + (fmt.min_exponent - fmt.mantissa_bits)
    y = scale(steps, torch.where(magnitude > fmt.largest_code, 0, step))
    if fmt.has_infinity:
        y = torch.where(magnitude == fmt.largest_code + 1, torch.inf, y)
    y = torch.where(negative, -y, y)
    nan = magnitude > fmt.largest_code + fmt.has_infinity
    if not fmt.has_negative_zero:
        nan |= negative & (magnitude == 0)
    return torch.where(nan, torch.nan, y)


@lru_cache(maxsize=64)
def _listed(fmt: ListedFormat, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return values and their codes in the order of the table, and values in that of the codes."""
    table = torch.tensor(fmt.table, dtype=torch.float64, device=device)
    words = torch.tensor([fmt.code_of(i) for i in range(len(fmt.table))], device=device)
    by_code = torch.full((1 << fmt.bits,), torch.nan, dtype=torch.float64, device=device)
    by_code[words] = table
    return table, words, by_code
