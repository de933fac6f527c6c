"""Device code of the random words: Philox4x32 with 7 rounds, as ``kernels.random`` has it."""

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


@triton.jit
def words(block: tl.tensor, step: tl.tensor, stream: tl.tensor, seed: tl.tensor) -> tl.tensor:
    """Return the words of consecutive elements, four to each of the int64 ``block`` numbers."""
    x0, x1 = block.to(tl.uint32), (block >> 32).to(tl.uint32)
    x2, x3 = tl.zeros_like(x0) + step.to(tl.uint32), tl.zeros_like(x0) + stream.to(tl.uint32)
    k0, k1 = seed.to(tl.uint32), (seed >> 32).to(tl.uint32)
    for _ in tl.static_range(ROUNDS):
        y0, y2 = x0, x2
        x0, x2 = tl.umulhi(y2, MULTIPLIER_1) ^ x1 ^ k0, tl.umulhi(y0, MULTIPLIER_0) ^ x3 ^ k1
        x1, x3 = y2 * MULTIPLIER_1, y0 * MULTIPLIER_0
        k0, k1 = k0 + WEYL_0, k1 + WEYL_1
    return tl.interleave(tl.interleave(x0, x2), tl.interleave(x1, x3))
