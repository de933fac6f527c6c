"""The kernels: one rounds a tensor, one finds its largest magnitude. ``reference`` says how."""

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
    STOCHASTIC,
    TOWARD_ZERO,
    UP,
    assemble,
    exponent_of,
    narrow,
    round_to_step,
    unit_of,
    widen,
)
from .philox import words
from .spec import Kind

FLOATING = tl.constexpr(int(Kind.FLOATING))
SATURATING = tl.constexpr(int(Kind.SATURATING))
DYNAMIC = tl.constexpr(int(Kind.DYNAMIC))
LARGEST_PARTS = tl.constexpr(8)
"""Blocks that one program of ``largest`` reads: few programs meet at the one result."""


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


@triton.jit(do_not_specialize=["seed", "step", "stream", "first"])
def round_elements(
    x: tl.tensor,
    out: tl.tensor,
    top: tl.tensor,
    count: tl.tensor,
    seed: tl.tensor,
    step: tl.tensor,
    stream: tl.tensor,
    first: tl.tensor,
    CARRIER: tl.constexpr,
    KIND: tl.constexpr,
    MODE: tl.constexpr,
    BITS: tl.constexpr,
    STEP: tl.constexpr,
    LEAST: tl.constexpr,
    HIGHEST: tl.constexpr,
    LOWEST: tl.constexpr,
    BEYOND: tl.constexpr,
    SIGNED_ZERO: tl.constexpr,
    PHASE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Round ``count`` elements of ``x`` into ``out``; both are pointers to a carrier's bits.

    ``top`` points to the largest magnitude, for dynamic fixed point. Element 0 takes word ``PHASE``
    of the random block ``first``, so a program starts ``PHASE`` elements early.
    """
    start = tl.program_id(0).to(tl.int64) * BLOCK - PHASE
    lane = tl.arange(0, BLOCK)
    inside = lane < tl.minimum(count - start, BLOCK).to(tl.int32)
    if PHASE > 0:
        inside = inside & ((lane >= PHASE) | (start >= 0))
    raw = tl.load(x + start + lane, mask=inside, other=0)
    bits = widen(raw, CARRIER)
    magnitude, negative = bits & 0x7FFFFFFF, bits < 0
    word = 0
    if MODE == STOCHASTIC:
        block = first.to(tl.int64) + tl.program_id(0).to(tl.int64) * (BLOCK // 4)
        block += tl.arange(0, BLOCK // 4)
        word = words(block, step.to(tl.int64), stream.to(tl.int64), seed.to(tl.int64))
    if KIND == FLOATING:
        y = _floating(magnitude, negative, word, MODE, BITS, STEP, LEAST, HIGHEST, BEYOND)
    elif KIND == DYNAMIC:
        y = _dynamic(magnitude, negative, word, tl.load(top), MODE, BITS, HIGHEST)
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
    y = tl.where(negative, y | -2147483648, y)
    tl.store(out + start + lane, narrow(y, CARRIER), mask=inside)


@triton.jit
def largest(
    x: tl.tensor, top: tl.tensor, count: tl.tensor, CARRIER: tl.constexpr, BLOCK: tl.constexpr
) -> None:
    """Raise ``top`` to the largest magnitude of ``x``; a NaN counts as larger than infinity."""
    start = tl.program_id(0).to(tl.int64) * (BLOCK * LARGEST_PARTS)
    lane = tl.arange(0, BLOCK)
    most = tl.zeros([BLOCK], tl.int32)
    for part in tl.static_range(LARGEST_PARTS):
        at = start + part * BLOCK + lane
        raw = tl.load(x + at, mask=at < count, other=0)
        most = tl.maximum(most, widen(raw, CARRIER) & 0x7FFFFFFF)
    tl.atomic_max(top, tl.max(most, axis=0))
