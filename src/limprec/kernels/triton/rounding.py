"""The kernels: one rounds a tensor, one finds its largest magnitude. ``reference`` says how."""

# Parameters in upper case are compile-time constants, as everywhere in Triton.
# ruff: noqa: N803
# mypy: disallow-untyped-decorators=False

from __future__ import annotations

import triton
import triton.language as tl

from .bits import STOCHASTIC, narrow, widen
from .elements import DYNAMIC, round_bits
from .philox import blocks_of, consecutive_words

LARGEST_PARTS = tl.constexpr(8)
"""Blocks that one program of ``largest`` reads: few programs meet at the one result."""


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
    RANDOM_BITS: tl.constexpr,
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
    word = 0
    if MODE == STOCHASTIC:
        block = first.to(tl.int64) + tl.program_id(0).to(tl.int64) * blocks_of(BLOCK, RANDOM_BITS)
        word = consecutive_words(block, step, stream, seed, BLOCK, RANDOM_BITS)
    most = tl.load(top) if KIND == DYNAMIC else 0
    y = round_bits(
        widen(raw, CARRIER),
        word,
        most,
        KIND,
        MODE,
        BITS,
        STEP,
        LEAST,
        HIGHEST,
        LOWEST,
        BEYOND,
        SIGNED_ZERO,
    )
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
    tl.atomic_max(top, tl.max(most, axis=0), sem="relaxed")
