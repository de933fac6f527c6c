"""Device code on the bits of float32: shifts, adds and comparisons of 32-bit integers.

A magnitude is an int32 whose value is the bit pattern of a non-negative float32. What happens to
floats is conversion alone, of integers up to 2^24 and between carriers, always exact: nothing here
depends on contraction, on flushed subnormals or on the rounding of an instruction.
"""

# Parameters in upper case are compile-time constants, as everywhere in Triton.
# ruff: noqa: N803
# mypy: disallow-untyped-decorators=False

from __future__ import annotations

import triton
import triton.language as tl

from .spec import Mode

INFINITY = tl.constexpr(0x7F800000)
NAN = tl.constexpr(0x7FC00000)
NEAREST = tl.constexpr(int(Mode.NEAREST))
NEAREST_AWAY = tl.constexpr(int(Mode.NEAREST_AWAY))
TOWARD_ZERO = tl.constexpr(int(Mode.TOWARD_ZERO))
DOWN = tl.constexpr(int(Mode.DOWN))
UP = tl.constexpr(int(Mode.UP))
STOCHASTIC = tl.constexpr(int(Mode.STOCHASTIC))


@triton.jit
def widen(raw: tl.tensor, CARRIER: tl.constexpr) -> tl.tensor:
    """Return the float32 bits of a carrier's bits; exact."""
    bits = raw
    if CARRIER == "bfloat16":
        bits = raw.to(tl.int32) << 16
    elif CARRIER == "float16":
        bits = raw.to(tl.float16, bitcast=True).to(tl.float32).to(tl.int32, bitcast=True)
    return bits


@triton.jit
def narrow(bits: tl.tensor, CARRIER: tl.constexpr) -> tl.tensor:
    """Return the carrier's bits of a float32 that it holds exactly."""
    raw = bits
    if CARRIER == "bfloat16":
        raw = (bits >> 16).to(tl.int16)
    elif CARRIER == "float16":
        raw = bits.to(tl.float32, bitcast=True).to(tl.float16).to(tl.int16, bitcast=True)
    return raw


@triton.jit
def exponent_of(magnitude: tl.tensor) -> tl.tensor:
    """Return floor(log2 x), also of subnormals; x > 0."""
    field = magnitude >> 23
    count = magnitude & 0x7FFFFF
    biased = (count.to(tl.float32).to(tl.int32, bitcast=True) >> 23) - 149
    return tl.where(field > 0, field, biased) - 127


@triton.jit
def power_of_two(exponent: tl.tensor) -> tl.tensor:
    """Return the magnitude 2^exponent for exponents up to 127; 0 under -149."""
    subnormal = tl.where(exponent < -149, 0, 1) << tl.minimum(tl.maximum(exponent + 149, 0), 23)
    return tl.where(exponent < -126, subnormal, (exponent + 127) << 23)


@triton.jit
def assemble(count: tl.tensor, unit: tl.tensor) -> tl.tensor:
    """Return the magnitude count * 2^unit: count from 0 to 2^24, unit from -149, product exact."""
    bits = count.to(tl.float32).to(tl.int32, bitcast=True)
    subnormal = count << tl.minimum(unit + 149, 31)
    normal = (count > 0) & ((bits >> 23) + unit > 0)
    return tl.where(normal, bits + (unit << 23), tl.where(count > 0, subnormal, 0))


@triton.jit
def unit_of(magnitude: tl.tensor) -> tl.tensor:
    """Return the exponent of the last bit of a float32."""
    return tl.maximum(magnitude >> 23, 1) - 150


@triton.jit
def round_to_step(
    magnitude: tl.tensor,
    negative: tl.tensor,
    step: tl.tensor,
    least: tl.tensor,
    odd: tl.tensor,
    word: tl.tensor,
    MODE: tl.constexpr,
    PARITY: tl.constexpr,
) -> tl.tensor:
    """Round a magnitude to a multiple of 2^step, or to 0 or 2^least where it is under 2^least.

    Where nothing can be cut off (a step finer than the magnitude's own last bit) it stays. At or
    above 2^least a step is at most the leading bit, so that cutting and carrying is all within the
    pattern. ``odd`` overrules the last bit kept, which decides ties, if ``PARITY``.
    """
    unit = unit_of(magnitude)
    whole = (magnitude & 0x7FFFFF) | 0x800000
    cut = tl.minimum(tl.maximum(step - unit, 0), 31)
    kept = -1 << cut
    floor = power_of_two(least)
    if MODE == NEAREST:
        last = odd if PARITY else whole >> cut
        y = magnitude + (~kept >> 1) + (last & tl.minimum(cut, 1))
        far = magnitude > power_of_two(least - 1)
    elif MODE == NEAREST_AWAY:
        y = magnitude + (-kept >> 1)
        far = magnitude >= tl.maximum(power_of_two(least - 1), 1)
    elif MODE == DOWN:
        y = magnitude + tl.where(negative, ~kept, 0)
        far = negative & (magnitude > 0)
    elif MODE == UP:
        y = magnitude + tl.where(negative, 0, ~kept)
        far = ~negative & (magnitude > 0)
    elif MODE == STOCHASTIC:
        y = magnitude + ((word >> 1) >> (31 - cut).to(tl.uint32)).to(tl.int32)
        share = share_of_step(magnitude, whole, least - unit)
        far = share + word < share  # the sum of two uint32 wrapped around
    else:
        y = magnitude
        far = magnitude < 0
    return tl.where(magnitude < floor, tl.where(far, floor, 0), y & kept)


@triton.jit
def share_of_step(magnitude: tl.tensor, whole: tl.tensor, above: tl.tensor) -> tl.tensor:
    """Return x / 2^least in units of 2^-32, rounded down; ``above`` is least less the unit of x."""
    count = tl.where(magnitude < 0x800000, magnitude, whole).to(tl.uint32)
    high = (count << tl.minimum(tl.maximum(31 - above, 0), 31).to(tl.uint32)) << 1
    low = count >> tl.minimum(tl.maximum(above - 32, 0), 31).to(tl.uint32)
    return tl.where(above < 32, high, low)
