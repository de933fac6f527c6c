"""Device code of the random words: Philox4x32 with 7 rounds, as ``kernels.random`` has it."""

# Parameters in upper case are compile-time constants, as everywhere in Triton.
# ruff: noqa: N803
# mypy: disallow-untyped-decorators=False

from __future__ import annotations

import triton
import triton.language as tl

from .. import random

ROUNDS = tl.constexpr(random.ROUNDS)
MULTIPLIER_0 = tl.constexpr(random.MULTIPLIERS[0])
MULTIPLIER_1 = tl.constexpr(random.MULTIPLIERS[1])
WEYL_0 = tl.constexpr(random.WEYL[0])
WEYL_1 = tl.constexpr(random.WEYL[1])
HALF_WORD = tl.constexpr(random.HALF_WORD)


@triton.jit
def philox(block: tl.tensor, step: tl.tensor, stream: tl.tensor, seed: tl.tensor) -> tl.tensor:
    """Return the four words of each int64 ``block`` number.

    ``seed``, ``stream`` and ``step`` are integers of any type that holds them.
    """
    x0, x1 = block.to(tl.uint32), (block >> 32).to(tl.uint32)
    x2, x3 = tl.zeros_like(x0) + step.to(tl.uint32), tl.zeros_like(x0) + stream.to(tl.uint32)
    k0, k1 = seed.to(tl.uint32), (seed.to(tl.uint64) >> 32).to(tl.uint32)
    for _ in tl.static_range(ROUNDS):
        y0, y2 = x0, x2
        x0, x2 = tl.umulhi(y2, MULTIPLIER_1) ^ x1 ^ k0, tl.umulhi(y0, MULTIPLIER_0) ^ x3 ^ k1
        x1, x3 = y2 * MULTIPLIER_1, y0 * MULTIPLIER_0
        k0, k1 = k0 + WEYL_0, k1 + WEYL_1
    return x0, x1, x2, x3


@triton.jit
def log2_a_block(RANDOM_BITS: tl.constexpr) -> tl.constexpr:
    """Return log2 of how many elements share a random block, 4 or 8."""
    return 3 if RANDOM_BITS <= HALF_WORD else 2


@triton.jit
def blocks_of(COUNT: tl.constexpr, RANDOM_BITS: tl.constexpr) -> tl.constexpr:
    """Return how many random blocks serve ``COUNT`` elements."""
    return COUNT >> log2_a_block(RANDOM_BITS)


@triton.jit
def consecutive_words(
    block: tl.tensor,
    step: tl.tensor,
    stream: tl.tensor,
    seed: tl.tensor,
    COUNT: tl.constexpr,
    RANDOM_BITS: tl.constexpr,
) -> tl.tensor:
    """Return the random words of ``COUNT`` neighbours, the first of which opens a random block.

    Args:
        block: int64 number of that random block; of shape (..., 1) for several runs of neighbours.
        step: as in ``random.Key``; so are ``stream`` and ``seed``, all of them integers.
        stream: which tensor.
        seed: the 64-bit key, signed or not.
        COUNT: a power of two, from 8 up.
        RANDOM_BITS: how many upper bits of each word are random, 1 to 32; the others are 0.
    """
    x0, x1, x2, x3 = philox(block + tl.arange(0, blocks_of(COUNT, RANDOM_BITS)), step, stream, seed)
    word = tl.interleave(tl.interleave(x0, x2), tl.interleave(x1, x3))
    if RANDOM_BITS <= HALF_WORD:
        word = tl.interleave(word << HALF_WORD, word)
    return _cut(word, RANDOM_BITS)


@triton.jit
def word_at(
    index: tl.tensor,
    step: tl.tensor,
    stream: tl.tensor,
    seed: tl.tensor,
    RANDOM_BITS: tl.constexpr,
) -> tl.tensor:
    """Return the random word of the element of each int64 ``index``: a random block for each.

    For elements that are no neighbours; the others share the work in ``consecutive_words``.
    """
    x0, x1, x2, x3 = philox(index >> log2_a_block(RANDOM_BITS), step, stream, seed)
    place = index.to(tl.int32)
    if RANDOM_BITS <= HALF_WORD:
        place = place >> 1
    first = tl.where((place & 2) == 0, x0, x2)
    second = tl.where((place & 2) == 0, x1, x3)
    word = tl.where((place & 1) == 0, first, second)
    if RANDOM_BITS <= HALF_WORD:
        word = tl.where((index & 1) == 0, word << HALF_WORD, word)
    return _cut(word, RANDOM_BITS)


@triton.jit
def _cut(word: tl.tensor, RANDOM_BITS: tl.constexpr) -> tl.tensor:
    """Clear all but the upper bits of each word."""
    if RANDOM_BITS < 32:
        word = word & (0xFFFFFFFF << (32 - RANDOM_BITS) & 0xFFFFFFFF)
    return word
