"""The kernels of shared scales: one rounds runs of elements, one finds what their scales follow.

``runs.Runs`` says which elements make a run. Where one program sees whole groups, the first kernel
does it all in one pass.
"""

# Parameters in upper case are compile-time constants, as everywhere in Triton, which knows no `in`.
# ruff: noqa: N803, SIM109
# mypy: disallow-untyped-decorators=False

from __future__ import annotations

import triton
import triton.language as tl

from .bits import STOCHASTIC, narrow, widen
from .elements import DYNAMIC, FLOATING, round_bits
from .philox import consecutive_words, log2_a_block, word_at
from .scaled import ordered, round_affine, round_mx, round_nvfp4
from .spec import Kind

MX_FLOATING = tl.constexpr(int(Kind.MX_FLOATING))
MX_FIXED = tl.constexpr(int(Kind.MX_FIXED))
NVFP4_KIND = tl.constexpr(int(Kind.NVFP4))
ZERO_POINT = tl.constexpr(int(Kind.ZERO_POINT))
FROM_LEAST = tl.constexpr(int(Kind.FROM_LEAST))
LOWEST_KEY = tl.constexpr(-(2**31))


@triton.jit
def _place(
    count: tl.tensor,
    size: tl.tensor,
    length: tl.tensor,
    blocks: tl.tensor,
    stride: tl.tensor,
    parts: tl.tensor,
    GROUPS: tl.constexpr,
    WIDTH: tl.constexpr,
) -> tl.tensor:
    """Return this program's runs, where its part of each begins, its elements, which there are."""
    program = tl.program_id(0)
    run = (program // parts).to(tl.int64) * GROUPS + tl.arange(0, GROUPS)
    along = run // stride
    number = along % blocks
    skipped = (program % parts).to(tl.int64) * WIDTH
    held = tl.where(run < count, tl.minimum(length - number * size, size) - skipped, 0)
    begin = (along // blocks * length + number * size + skipped) * stride + run % stride
    lane = tl.arange(0, WIDTH)
    at = begin[:, None] + lane[None, :] * stride
    return run, begin, at, lane[None, :] < held[:, None]


@triton.jit
def _extremes(bits: tl.tensor, inside: tl.tensor, KIND: tl.constexpr) -> tl.tensor:
    """Return what each run's scale follows: its largest magnitude, twice; or both its ends.

    These are the ``ordered`` smallest element, negated by ``~``, and the ``ordered`` largest.
    """
    if KIND == ZERO_POINT or KIND == FROM_LEAST:
        key = ordered(bits)
        high = tl.max(tl.where(inside, key, LOWEST_KEY), axis=1)
        low = tl.max(tl.where(inside, ~key, LOWEST_KEY), axis=1)
    else:
        high = tl.max(bits & 0x7FFFFFFF, axis=1)
        low = high
    return low, high


@triton.jit
def extremes_of_runs(
    x: tl.tensor,
    extremes: tl.tensor,
    count: tl.tensor,
    size: tl.tensor,
    length: tl.tensor,
    blocks: tl.tensor,
    stride: tl.tensor,
    parts: tl.tensor,
    entries: tl.tensor,
    CARRIER: tl.constexpr,
    KIND: tl.constexpr,
    GROUPS: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:
    """Raise the entries of ``extremes``, first those of ``high``, then those of ``low``."""
    run, _, at, inside = _place(count, size, length, blocks, stride, parts, GROUPS, WIDTH)
    bits = widen(tl.load(x + at, mask=inside, other=0), CARRIER)
    low, high = _extremes(bits, inside, KIND)
    tl.atomic_max(extremes + run % entries, high, mask=run < count, sem="relaxed")
    if KIND == ZERO_POINT or KIND == FROM_LEAST:
        tl.atomic_max(extremes + entries + run % entries, low, mask=run < count, sem="relaxed")


@triton.jit(do_not_specialize=["seed", "step", "stream", "offset"])
def round_runs(
    x: tl.tensor,
    out: tl.tensor,
    extremes: tl.tensor,
    scale: tl.tensor,
    count: tl.tensor,
    size: tl.tensor,
    length: tl.tensor,
    blocks: tl.tensor,
    stride: tl.tensor,
    parts: tl.tensor,
    entries: tl.tensor,
    seed: tl.tensor,
    step: tl.tensor,
    stream: tl.tensor,
    offset: tl.tensor,
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
    PEAK: tl.constexpr,
    RANDOM_BITS: tl.constexpr,
    OPENS_BLOCKS: tl.constexpr,
    WHOLE: tl.constexpr,
    GROUPS: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:
    """Round the runs of ``x`` into ``out``; both are pointers to a carrier's bits.

    ``extremes`` points to what ``extremes_of_runs`` found, unless ``WHOLE``; ``scale`` to NVFP4's
    scale of the tensor, a float32. Element 0 has the random word number ``offset``;
    ``OPENS_BLOCKS`` says that what a program takes of a run opens a random block.
    """
    run, begin, at, inside = _place(count, size, length, blocks, stride, parts, GROUPS, WIDTH)
    bits = widen(tl.load(x + at, mask=inside, other=0), CARRIER)
    if WHOLE:
        low, high = _extremes(bits, inside, KIND)
    else:
        entry = run % entries
        high = tl.load(extremes + entry, mask=run < count, other=0)
        low = high
        if KIND == ZERO_POINT or KIND == FROM_LEAST:
            low = tl.load(extremes + entries + entry, mask=run < count, other=0)
    low, high = low[:, None], high[:, None]
    word = 0
    if MODE == STOCHASTIC:
        first = offset.to(tl.int64)
        if OPENS_BLOCKS:
            block = (first + begin)[:, None] >> log2_a_block(RANDOM_BITS)
            word = consecutive_words(block, step, stream, seed, WIDTH, RANDOM_BITS)
        else:
            word = word_at(first + at, step, stream, seed, RANDOM_BITS)
    if KIND == DYNAMIC:
        y = round_bits(bits, word, high, KIND, MODE, BITS, 0, 0, HIGHEST, 0, 0, SIGNED_ZERO)
    elif KIND == MX_FLOATING or KIND == MX_FIXED:
        y = round_mx(bits, word, high, KIND, MODE, BITS, STEP, LEAST, HIGHEST, PEAK)
    elif KIND == NVFP4_KIND:
        whole = tl.load(scale)
        y = round_nvfp4(bits, word, high, whole, FLOATING, MODE, BITS, STEP, LEAST, HIGHEST, BEYOND)
    else:
        if KIND == ZERO_POINT or KIND == FROM_LEAST:
            low, high = ordered(~low), ordered(high)
        y = round_affine(bits, word, low, high, KIND, MODE, LOWEST, HIGHEST)
    tl.store(out + at, narrow(y, CARRIER), mask=inside)
