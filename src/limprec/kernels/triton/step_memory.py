"""Device code that reads and writes what is kept between steps, as ``steps.memory`` does.

Values are float32 bits here, and floats while they are computed with. A multiplication by a power
of two is exact: no number that leaves this file lies under the smallest subnormal of float32.
"""

# Parameters in upper case are compile-time constants, as everywhere in Triton.
# ruff: noqa: N803
# mypy: disallow-untyped-decorators=False

from __future__ import annotations

import triton
import triton.language as tl

from . import step_spec
from .bits import (
    INFINITY,
    NAN,
    assemble,
    exponent_of,
    narrow,
    power_of_two,
    round_to_step,
    widen,
)
from .elements import round_bits
from .philox import consecutive_words, log2_a_block, word_at
from .scaled import bits_of, float_of, mx_scale, round_mx

BLOCK_ELEMENTS = tl.constexpr(step_spec.BLOCK_ELEMENTS)
SIGN = tl.constexpr(-0x80000000)
E8M0_BIAS = tl.constexpr(127)
E8M0_NAN = tl.constexpr(255)


@triton.jit
def load(pointer: tl.tensor, lane: tl.tensor, left: tl.tensor, WHOLE: tl.constexpr) -> tl.tensor:
    """Return a block of memory; zeros where none is ``left``."""
    mask = None if WHOLE else lane < left
    return tl.load(pointer + lane, mask=mask, other=None if WHOLE else 0)


@triton.jit
def store(
    pointer: tl.tensor, lane: tl.tensor, raw: tl.tensor, left: tl.tensor, WHOLE: tl.constexpr
) -> None:
    """Write a block of memory, as far as any is ``left``."""
    tl.store(pointer + lane, raw, mask=None if WHOLE else lane < left)


@triton.jit
def unpack(raw: tl.tensor, KIND: tl.constexpr) -> tl.tensor:
    """Return the float32 bits of a memory's bits; exact."""
    if KIND == "e5m2":  # the upper byte of a float16
        bits = widen(raw.to(tl.int16) << 8, "float16")
    elif KIND == "e4m3":
        byte = raw.to(tl.int32)
        magnitude = byte & 0x7F
        small = assemble(magnitude, tl.full([], -9, tl.int32))
        bits = tl.where(magnitude < 8, small, (magnitude << 20) + (120 << 23))
        bits = tl.where(magnitude == 0x7F, NAN, bits)
        bits = tl.where(byte < 0, bits | SIGN, bits)
    else:
        bits = widen(raw, KIND)
    return bits


@triton.jit
def pack(bits: tl.tensor, KIND: tl.constexpr) -> tl.tensor:
    """Return the memory's bits of a float32 that it holds exactly."""
    if KIND == "e5m2":
        raw = (narrow(bits, "float16") >> 8).to(tl.int8)
    elif KIND == "e4m3":
        magnitude = bits & 0x7FFFFFFF
        count = float_of(tl.minimum(magnitude, 121 << 23) + (9 << 23)).to(tl.int32)
        byte = tl.where(magnitude < (121 << 23), count, (magnitude - (120 << 23)) >> 20)
        byte = tl.where(magnitude < INFINITY, byte, 0x7F)
        raw = (byte | tl.where(bits < 0, 0x80, 0)).to(tl.int8)
    else:
        raw = narrow(bits, KIND)
    return raw


@triton.jit
def random_words(
    start: tl.tensor,
    offset: tl.tensor,
    stream: tl.tensor,
    seed: tl.tensor,
    step: tl.tensor,
    MEMORY: tl.constexpr,
    SHIFTED: tl.constexpr,
    BLOCK: tl.constexpr,
) -> tl.tensor:
    """Return the random words of a block that starts ``start`` elements into its tensor.

    ``offset`` is the place of the tensor's first element in a whole of which it is a shard, a
    multiple of 8 unless ``SHIFTED``: an element then makes a random block for itself.
    """
    place = offset + start
    if SHIFTED:
        index = place + tl.arange(0, BLOCK)
        word = word_at(index, step, stream, seed, MEMORY.random_bits)
    else:
        first = place >> log2_a_block(MEMORY.random_bits)
        word = consecutive_words(first, step, stream, seed, BLOCK, MEMORY.random_bits)
    return word


@triton.jit
def rounded(bits: tl.tensor, word: tl.tensor, MEMORY: tl.constexpr) -> tl.tensor:
    """Round to the format that a memory keeps."""
    y = bits
    if MEMORY.precision is not None:
        y = round_bits(
            bits,
            word,
            0,
            MEMORY.precision.kind,
            MEMORY.precision.mode,
            MEMORY.precision.bits,
            MEMORY.precision.step,
            MEMORY.precision.least,
            MEMORY.precision.highest,
            MEMORY.precision.lowest,
            MEMORY.precision.beyond,
            MEMORY.precision.signed_zero,
        )
    return y


@triton.jit
def unit_of_ulps(p: tl.tensor, ULPS: tl.constexpr) -> tl.tensor:
    """Return the exponent of the unit that the compensation of the parameter ``p`` counts."""
    if ULPS.fixed:
        exponent = tl.full(p.shape, ULPS.below, tl.int32)
    else:
        magnitude = p & 0x7FFFFFFF
        magnitude = tl.where(magnitude < INFINITY, magnitude, 0)
        exponent = exponent_of(tl.maximum(magnitude, 1)) - ULPS.mantissa
        exponent = tl.where(magnitude < ULPS.normal, ULPS.below, exponent)
    return tl.maximum(exponent - ULPS.bits, ULPS.finest)


@triton.jit
def read_carry(raw: tl.tensor, p: tl.tensor, MEMORY: tl.constexpr) -> tl.tensor:
    """Return the compensation beside ``p`` as a float32."""
    if MEMORY.ulps is None:
        value = float_of(unpack(raw, MEMORY.kind))
    else:
        value = raw.to(tl.float32) * float_of(power_of_two(unit_of_ulps(p, MEMORY.ulps)))
    return value


@triton.jit
def pack_carry(
    rest: tl.tensor, p: tl.tensor, word: tl.tensor, MEMORY: tl.constexpr
) -> tuple[tl.tensor, tl.tensor]:
    """Return the parameter's bits and the memory's of a finite ``rest`` beside it.

    In ulps, half of one upwards makes ``p`` the next value; what is more saturates.
    """
    bits = bits_of(rest)
    if MEMORY.ulps is None:
        raw = pack(rounded(bits, word, MEMORY), MEMORY.kind)
    else:
        unit = unit_of_ulps(p, MEMORY.ulps)
        negative, magnitude = bits < 0, bits & 0x7FFFFFFF
        y = round_to_step(magnitude, negative, unit, unit, 0, word, MEMORY.precision.mode, False)
        half: tl.constexpr = 1 << (MEMORY.ulps.bits - 1)
        count = tl.minimum(float_of(y) * float_of(power_of_two(-unit)), half * 1.0).to(tl.int32)
        above = bits_of(float_of(p) + float_of(power_of_two(unit + MEMORY.ulps.bits)))
        wider = unit_of_ulps(above, MEMORY.ulps) - unit
        full = ~negative & (count == half) & ((float_of(p) > 0) | (wider == 0))
        code = tl.where(negative, -count, tl.minimum(count, half - 1))
        code = tl.where(full, -(half >> tl.minimum(tl.maximum(wider, 0), 1)), code)
        p = tl.where(full, above, p)
        raw = code.to(tl.int8) if MEMORY.kind == "int8" else code.to(tl.int16)
    return p, raw


@triton.jit
def read_state(
    pointer: tl.tensor,
    scales: tl.tensor,
    lane: tl.tensor,
    left: tl.tensor,
    MEMORY: tl.constexpr,
    WHOLE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> tl.tensor:
    """Return a block of a state as float32; ``scales`` point to e8m0 bytes, for blocks."""
    value = float_of(unpack(load(pointer, lane, left, WHOLE), MEMORY.kind))
    if MEMORY.blocks:
        groups: tl.constexpr = BLOCK // BLOCK_ELEMENTS
        group = tl.arange(0, groups)
        byte = load(scales, group, tl.cdiv(left, BLOCK_ELEMENTS), WHOLE).to(tl.int32) & 0xFF
        scale = tl.where(byte == E8M0_NAN, NAN, power_of_two(byte - E8M0_BIAS))
        rows = tl.reshape(value, (groups, BLOCK_ELEMENTS)) * float_of(scale)[:, None]
        value = tl.reshape(rows, (BLOCK,))
    return value


@triton.jit
def write_state(
    pointer: tl.tensor,
    scales: tl.tensor,
    value: tl.tensor,
    word: tl.tensor,
    lane: tl.tensor,
    left: tl.tensor,
    MEMORY: tl.constexpr,
    WHOLE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Round a block of a state into its memory."""
    if MEMORY.blocks:
        groups: tl.constexpr = BLOCK // BLOCK_ELEMENTS
        bits = bits_of(value)
        if not WHOLE:
            bits = tl.where(lane < left, bits, 0)
        bits = tl.reshape(bits, (groups, BLOCK_ELEMENTS))
        if MEMORY.is_random:
            word = tl.reshape(word, (groups, BLOCK_ELEMENTS))
        elements, byte = scaled(bits, word, MEMORY)
        raw = tl.reshape(pack(elements, MEMORY.kind), (BLOCK,))
        store(scales, tl.arange(0, groups), byte, tl.cdiv(left, BLOCK_ELEMENTS), WHOLE)
    else:
        raw = pack(rounded(bits_of(value), word, MEMORY), MEMORY.kind)
    store(pointer, lane, raw, left, WHOLE)


@triton.jit
def scaled(bits: tl.tensor, word: tl.tensor, MEMORY: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:
    """Return the elements (float32 bits) of rows of values, and a scale byte for each row.

    A row is rounded where it stands, and only then divided: nothing small is lost before.
    """
    magnitude = bits & 0x7FFFFFFF
    top = tl.max(magnitude, axis=1)
    scale = mx_scale(top, MEMORY.precision.peak)
    y = round_mx(
        bits,
        word,
        top[:, None],
        MEMORY.precision.kind,
        MEMORY.precision.mode,
        MEMORY.precision.bits,
        MEMORY.precision.step,
        MEMORY.precision.least,
        MEMORY.precision.highest,
        MEMORY.precision.peak,
    )
    if MEMORY.above_zero:
        least = power_of_two(scale + MEMORY.precision.least)[:, None]
        y = tl.where((y == 0) & (bits > 0), least, y)
    y = bits_of(float_of(y) * float_of(power_of_two(-scale))[:, None])
    byte = tl.where(top < INFINITY, scale + E8M0_BIAS, E8M0_NAN)
    return y, byte.to(tl.int8)
