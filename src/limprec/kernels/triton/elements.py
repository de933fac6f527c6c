"""Device code of the roundings: one element, given as the bits of a float32, to one format.

The constants are those of ``spec.Spec``; the kernels bring the elements and their random words.
"""

# Parameters in upper case are compile-time constants, as everywhere in Triton.
# ruff: noqa: N803
# mypy: disallow-untyped-decorators=False

from __future__ import annotations

import triton
import triton.language as tl

from .bits import (
    DOWN,
    INFINITY,
    NAN,
    TOWARD_ZERO,
    UP,
    assemble,
    exponent_of,
    round_to_step,
    unit_of,
)
from .spec import Kind

FLOATING = tl.constexpr(int(Kind.FLOATING))
SATURATING = tl.constexpr(int(Kind.SATURATING))
DYNAMIC = tl.constexpr(int(Kind.DYNAMIC))


@triton.jit
def round_bits(
    bits: tl.tensor,
    word: tl.tensor,
    top: tl.tensor,
    KIND: tl.constexpr,
    MODE: tl.constexpr,
    BITS: tl.constexpr,
    STEP: tl.constexpr,
    LEAST: tl.constexpr,
    HIGHEST: tl.constexpr,
    LOWEST: tl.constexpr,
    BEYOND: tl.constexpr,
    SIGNED_ZERO: tl.constexpr,
) -> tl.tensor:
    """Return the bits of the rounded value.

    ``word`` is the element's random word, used where the mode is stochastic alone; ``top`` the
    largest magnitude of its group, used by dynamic fixed point alone. Either may be 0 elsewhere.
    """
    magnitude, negative = bits & 0x7FFFFFFF, bits < 0
    if KIND == FLOATING:
        y = _floating(magnitude, negative, word, MODE, BITS, STEP, LEAST, HIGHEST, BEYOND)
    elif KIND == DYNAMIC:
        y = _dynamic(magnitude, negative, word, top, MODE, BITS, HIGHEST)
    else:
        lsb = tl.full([], STEP, tl.int32)
        y = round_to_step(magnitude, negative, lsb, lsb, 0, word, MODE, False)
        if KIND == SATURATING:
            y = tl.minimum(y, tl.where(negative, LOWEST, HIGHEST))
        else:
            y, negative = _wrap(y, negative, BITS, STEP, HIGHEST)
            y = tl.where(magnitude == INFINITY, NAN, y)
    y = tl.where(magnitude > INFINITY, NAN, y)
    if not SIGNED_ZERO:
        negative = negative & (y > 0)
    return tl.where(negative, y | -2147483648, y)


@triton.jit
def _floating(
    magnitude: tl.tensor,
    negative: tl.tensor,
    word: tl.tensor,
    MODE: tl.constexpr,
    BITS: tl.constexpr,
    STEP: tl.constexpr,
    LEAST: tl.constexpr,
    HIGHEST: tl.constexpr,
    BEYOND: tl.constexpr,
) -> tl.tensor:
    """Return the rounded magnitude for floating point."""
    # Below -126 subnormals of the carrier are normal in the format.
    exponent = exponent_of(magnitude) if STEP < -126 else (magnitude >> 23) - 127
    # Without mantissa bits a power of two has an even or odd code as its exponent says.
    odd = exponent - STEP + 1
    step = tl.maximum(exponent, STEP) - BITS
    least = tl.full([], LEAST, tl.int32)
    y = round_to_step(magnitude, negative, step, least, odd, word, MODE, BITS == 0)
    over = y > HIGHEST
    held = over & (magnitude < INFINITY)  # where a directed rounding stops at the largest value
    if MODE == TOWARD_ZERO:
        y = tl.where(over, tl.where(held, HIGHEST, BEYOND), y)
    elif MODE == DOWN:
        y = tl.where(over, tl.where(held & ~negative, HIGHEST, BEYOND), y)
    elif MODE == UP:
        y = tl.where(over, tl.where(held & negative, HIGHEST, BEYOND), y)
    else:
        y = tl.where(over, BEYOND, y)
    return y


@triton.jit
def _wrap(
    magnitude: tl.tensor,
    negative: tl.tensor,
    BITS: tl.constexpr,
    STEP: tl.constexpr,
    HIGHEST: tl.constexpr,
) -> tl.tensor:
    """Take the code of a multiple of 2^STEP modulo 2^BITS; return its magnitude and sign."""
    up = unit_of(magnitude) - STEP
    count = tl.where(magnitude < 0x800000, magnitude, (magnitude & 0x7FFFFF) | 0x800000)
    raised = tl.where(up < 32, count << tl.minimum(tl.maximum(up, 0), 31), 0)
    code = tl.where(up < 0, count >> tl.minimum(tl.maximum(-up, 0), 31), raised)
    code = tl.where(negative, -code, code) & ((1 << BITS) - 1)
    code = tl.where(code > HIGHEST, code - (1 << BITS), code)
    return assemble(tl.abs(code), tl.full([], STEP, tl.int32)), code < 0


@triton.jit
def _dynamic(
    magnitude: tl.tensor,
    negative: tl.tensor,
    word: tl.tensor,
    top: tl.tensor,
    MODE: tl.constexpr,
    BITS: tl.constexpr,
    HIGHEST: tl.constexpr,
) -> tl.tensor:
    """Return the rounded magnitude for dynamic fixed point whose largest magnitude is ``top``."""
    step = tl.where(top > 0, exponent_of(tl.maximum(top, 1)) + 2 - BITS, 0)
    y = round_to_step(magnitude, negative, step, step, 0, word, MODE, False)
    # A step under 2^-149 cuts nothing, and nothing exceeds the largest code.
    highest = assemble(tl.full([], HIGHEST, tl.int32), tl.maximum(step, -149))
    y = tl.where(step < -149, y, tl.minimum(y, highest))
    return tl.where(top < INFINITY, y, NAN)
