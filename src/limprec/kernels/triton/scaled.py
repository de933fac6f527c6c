"""Device code of the shared scales: one element to MX, NVFP4 and affine integers.

MX is arithmetic of integers on the bits of float32, as the scalar formats are. The other two are
defined by operations of float32, each rounded to nearest even: division is ``tl.div_rn``, and the
kernels are compiled without contraction.
"""

# Parameters in upper case are compile-time constants, as everywhere in Triton, which knows no `in`
# and keeps the branches of an `if` statement apart.
# ruff: noqa: N803, SIM108, SIM109
# mypy: disallow-untyped-decorators=False

from __future__ import annotations

import triton
import triton.language as tl

from ...formats import NVFP4
from .bits import INFINITY, NAN, NEAREST, assemble, exponent_of, round_to_step
from .elements import round_bits
from .spec import Kind, make_spec

MX_FLOATING = tl.constexpr(int(Kind.MX_FLOATING))
SYMMETRIC = tl.constexpr(int(Kind.SYMMETRIC))
ZERO_POINT = tl.constexpr(int(Kind.ZERO_POINT))

_BLOCK_SCALE = make_spec(f"{NVFP4().scale}")
SCALE_KIND, SCALE_BITS, SCALE_STEP, SCALE_LEAST, SCALE_HIGHEST, SCALE_BEYOND = (
    tl.constexpr(_BLOCK_SCALE.constants[name])
    for name in ("KIND", "BITS", "STEP", "LEAST", "HIGHEST", "BEYOND")
)
ELEMENT_MAX = tl.constexpr(NVFP4().element.max)


@triton.jit
def float_of(bits: tl.tensor) -> tl.tensor:
    """Return the float32 of these bits."""
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def bits_of(value: tl.tensor) -> tl.tensor:
    """Return the bits of a float32."""
    return value.to(tl.int32, bitcast=True)


@triton.jit
def ordered(bits: tl.tensor) -> tl.tensor:
    """Return an integer that orders floats as they are ordered; applied twice it gives the bits."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def mx_scale(top: tl.tensor, PEAK: tl.constexpr) -> tl.tensor:
    """Return the exponent of the scale of an MX block whose largest magnitude is ``top``."""
    scale = tl.minimum(tl.maximum(exponent_of(tl.maximum(top, 1)) - PEAK, -127), 127)
    return tl.where(top > 0, scale, -127)


@triton.jit
def round_mx(
    bits: tl.tensor,
    word: tl.tensor,
    top: tl.tensor,
    KIND: tl.constexpr,
    MODE: tl.constexpr,
    BITS: tl.constexpr,
    STEP: tl.constexpr,
    LEAST: tl.constexpr,
    HIGHEST: tl.constexpr,
    PEAK: tl.constexpr,
) -> tl.tensor:
    """Return the bits of an MX element times the scale of its block.

    ``top`` is the largest magnitude of the block; the element's format moves with the scale.
    """
    magnitude, negative = bits & 0x7FFFFFFF, bits < 0
    scale = mx_scale(top, PEAK)
    least = scale + LEAST
    if KIND == MX_FLOATING:
        step = tl.maximum(exponent_of(magnitude), scale + STEP) - BITS
    else:
        step = least
    y = round_to_step(magnitude, negative, step, least, 0, word, MODE, False)
    y = tl.minimum(y, assemble(tl.full([], HIGHEST, tl.int32), scale + (PEAK - BITS)))
    if KIND != MX_FLOATING:
        negative = negative & (y > 0)
    y = tl.where(top < INFINITY, y, NAN)
    return tl.where(negative, y | -2147483648, y)


@triton.jit
def round_nvfp4(
    bits: tl.tensor,
    word: tl.tensor,
    top: tl.tensor,
    scale: tl.tensor,
    KIND: tl.constexpr,
    MODE: tl.constexpr,
    BITS: tl.constexpr,
    STEP: tl.constexpr,
    LEAST: tl.constexpr,
    HIGHEST: tl.constexpr,
    BEYOND: tl.constexpr,
) -> tl.tensor:
    """Return the bits of an NVFP4 value; ``scale`` is the tensor's, a float32, NaN if it has none.

    ``KIND`` and the constants after it are those of the element's format.
    """
    sixth = tl.div_rn(float_of(top), ELEMENT_MAX)
    ratio = tl.where(scale == 0, 0.0, tl.div_rn(sixth, scale))
    block = float_of(
        round_bits(
            bits_of(ratio),
            0,
            0,
            SCALE_KIND,
            NEAREST,
            SCALE_BITS,
            SCALE_STEP,
            SCALE_LEAST,
            SCALE_HIGHEST,
            0,
            SCALE_BEYOND,
            True,
        )
    )
    both = block * scale
    relative = bits_of(tl.div_rn(float_of(bits), both))
    relative = tl.where(both == 0, bits & -2147483648, relative)
    element = round_bits(relative, word, 0, KIND, MODE, BITS, STEP, LEAST, HIGHEST, 0, BEYOND, True)
    return bits_of(float_of(element) * block * scale)


@triton.jit
def round_affine(
    bits: tl.tensor,
    word: tl.tensor,
    low: tl.tensor,
    high: tl.tensor,
    KIND: tl.constexpr,
    MODE: tl.constexpr,
    LOWEST: tl.constexpr,
    HIGHEST: tl.constexpr,
) -> tl.tensor:
    """Return the bits of an affine integer's value.

    ``low`` and ``high`` are bits of the group's smallest and largest element; the symmetric kind
    looks at ``high`` alone, the largest magnitude. Codes run from ``LOWEST`` to ``HIGHEST``.
    """
    finite = ((low & 0x7FFFFFFF) < INFINITY) & ((high & 0x7FFFFFFF) < INFINITY)
    least, most = float_of(low), float_of(high)
    if KIND == SYMMETRIC:
        step = tl.div_rn(most, HIGHEST * 1.0)
        zero = tl.zeros_like(most)
    else:
        if KIND == ZERO_POINT:
            least, most = tl.minimum(least, 0.0), tl.maximum(most, 0.0)
        step = tl.div_rn(most - least, (HIGHEST - LOWEST) * 1.0)
        zero = least
        if KIND == ZERO_POINT:
            offset = tl.where(step == 0, 0.0, tl.div_rn(least, step))
            zero = _to_integer(LOWEST - offset, 0, NEAREST)
            zero = tl.minimum(tl.maximum(zero, LOWEST), HIGHEST)
    x = float_of(bits)
    from_zero = x if KIND == SYMMETRIC or KIND == ZERO_POINT else x - zero
    relative = tl.where(step == 0, 0.0, tl.div_rn(from_zero, step))
    code = _to_integer(relative, word, MODE)
    if KIND == ZERO_POINT:
        code = code + zero
    code = tl.minimum(tl.maximum(code, LOWEST), HIGHEST)
    if KIND == SYMMETRIC or KIND == ZERO_POINT:
        y = (code - zero) * step
    else:
        y = code * step + zero
    y = tl.where(y == 0, 0.0, y)  # integers have no negative zero
    finite = finite & ((bits_of(step) & 0x7FFFFFFF) < INFINITY)
    return tl.where(finite, bits_of(y), NAN)


@triton.jit
def _to_integer(value: tl.tensor, word: tl.tensor, MODE: tl.constexpr) -> tl.tensor:
    """Round a float32 to an integer, as a float32."""
    bits = bits_of(value)
    ones = tl.full([], 0, tl.int32)
    y = round_to_step(bits & 0x7FFFFFFF, bits < 0, ones, ones, 0, word, MODE, False)
    return float_of(y | (bits & -2147483648))
