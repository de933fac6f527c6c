"""The kernels of an optimizer step: one for many tensors, one for a tensor alone.

What is done to a block of elements is written once. ``steps.reference`` says what that is.
"""

# Parameters in upper case are compile-time constants, as everywhere in Triton.
# ruff: noqa: N803
# mypy: disallow-untyped-decorators=False

from __future__ import annotations

import triton
import triton.language as tl

from ..steps.spec import CARRY, FIRST_STATE, PARAMETER
from .bits import NAN
from .scaled import bits_of, float_of
from .step_memory import (
    BLOCK_ELEMENTS,
    SIGN,
    load,
    pack,
    pack_carry,
    random_words,
    read_carry,
    read_state,
    rounded,
    store,
    unpack,
    write_state,
)
from .step_rules import advance
from .step_spec import COUNTS, FLOATS

P_PLACE = tl.constexpr(PARAMETER)
CARRY_PLACE = tl.constexpr(CARRY)
STATE_PLACE = tl.constexpr(FIRST_STATE)

COLUMNS = tl.constexpr(16)
"""Numbers of a tensor in the table: nine addresses (parameter, gradient, carry, states, scales),
the number of elements, its first program, stream, offset and whether all addresses are multiples
of 16 bytes; two are left over."""

NOT_SPECIALIZED = ["low_seed", "high_seed", "step", "s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7"]
"""Arguments that change from step to step."""


_POINTERS = {
    name: tl.pointer_type({1: tl.int8, 2: tl.int16, 4: tl.int32}[dtype.itemsize])
    for dtype, name in {**FLOATS, **COUNTS}.items()
}


@triton.constexpr_function
def pointer_to(kind: str) -> tl.pointer_type:
    """Return the type of a pointer to the bits of a kind of memory."""
    return _POINTERS[kind]


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def step_many(
    table: tl.tensor,
    tensors: tl.tensor,
    low_seed: tl.tensor,
    high_seed: tl.tensor,
    step: tl.tensor,
    s0: tl.tensor,
    s1: tl.tensor,
    s2: tl.tensor,
    s3: tl.tensor,
    s4: tl.tensor,
    s5: tl.tensor,
    s6: tl.tensor,
    s7: tl.tensor,
    C: tl.constexpr,
    SHIFTED: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Step a block of one of many tensors.

    Args:
        table: int64, ``COLUMNS`` numbers a tensor.
        tensors: int32, the tensor of each program.
        low_seed: lower 32 bits of the key, as a signed integer.
        high_seed: upper 32 bits.
        step: the group's number of steps.
        s0: float32 bits of the rule's first number; the others follow.
        s1: see there, and so on.
        s2: see there.
        s3: see there.
        s4: see there.
        s5: see there.
        s6: see there.
        s7: see there.
        C: a ``step_spec.Constants``.
        SHIFTED: whether a shard starts at no multiple of 8.
        BLOCK: elements of a program.
    """
    row = table + tl.load(tensors + tl.program_id(0)).to(tl.int64) * COLUMNS
    count = tl.load(row + 9)
    start = (tl.program_id(0).to(tl.int64) - tl.load(row + 10)) * BLOCK
    stream = tl.load(row + 11)
    offset = tl.load(row + 12)
    straight = tl.load(row + 13)
    left = tl.minimum(count - start, BLOCK).to(tl.int32)
    p = tl.load(row).to(pointer_to(C.p.kind))
    grad = tl.load(row + 1).to(pointer_to(C.grad.kind))
    carry = tl.load(row + 2).to(pointer_to(C.p.kind if C.carry is None else C.carry.kind))
    a = tl.load(row + 3).to(pointer_to(C.states[0].kind if C.count > 0 else C.p.kind))
    b = tl.load(row + 4).to(pointer_to(C.states[1].kind if C.count > 1 else C.p.kind))
    c = tl.load(row + 5).to(pointer_to(C.states[2].kind if C.count > 2 else C.p.kind))
    a_scale = tl.load(row + 6).to(tl.pointer_type(tl.int8))
    b_scale = tl.load(row + 7).to(tl.pointer_type(tl.int8))
    c_scale = tl.load(row + 8).to(tl.pointer_type(tl.int8))
    if (straight != 0) & (left == BLOCK):
        _step_block(
            tl.multiple_of(p, 16),
            tl.multiple_of(grad, 16),
            tl.multiple_of(carry, 16),
            tl.multiple_of(a, 16),
            tl.multiple_of(b, 16),
            tl.multiple_of(c, 16),
            tl.multiple_of(a_scale, 16),
            tl.multiple_of(b_scale, 16),
            tl.multiple_of(c_scale, 16),
            *(start, left, stream, offset, low_seed, high_seed, step),
            *(s0, s1, s2, s3, s4, s5, s6, s7),
            *(C, SHIFTED, True, BLOCK),
        )
    else:
        _step_block(
            *(p, grad, carry, a, b, c, a_scale, b_scale, c_scale),
            *(start, left, stream, offset, low_seed, high_seed, step),
            *(s0, s1, s2, s3, s4, s5, s6, s7),
            *(C, SHIFTED, False, BLOCK),
        )


@triton.jit(do_not_specialize=[*NOT_SPECIALIZED, "stream", "offset"])
def step_one(
    p: tl.tensor,
    grad: tl.tensor,
    carry: tl.tensor,
    a: tl.tensor,
    b: tl.tensor,
    c: tl.tensor,
    a_scale: tl.tensor,
    b_scale: tl.tensor,
    c_scale: tl.tensor,
    count: tl.tensor,
    stream: tl.tensor,
    offset: tl.tensor,
    low_seed: tl.tensor,
    high_seed: tl.tensor,
    step: tl.tensor,
    s0: tl.tensor,
    s1: tl.tensor,
    s2: tl.tensor,
    s3: tl.tensor,
    s4: tl.tensor,
    s5: tl.tensor,
    s6: tl.tensor,
    s7: tl.tensor,
    C: tl.constexpr,
    SHIFTED: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Step a block of a tensor; arguments as in the table and in ``step_many``."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    left = tl.minimum(count - start, BLOCK).to(tl.int32)
    if left == BLOCK:
        _step_block(
            *(p, grad, carry, a, b, c, a_scale, b_scale, c_scale),
            *(start, left, stream, offset, low_seed, high_seed, step),
            *(s0, s1, s2, s3, s4, s5, s6, s7),
            *(C, SHIFTED, True, BLOCK),
        )
    else:
        _step_block(
            *(p, grad, carry, a, b, c, a_scale, b_scale, c_scale),
            *(start, left, stream, offset, low_seed, high_seed, step),
            *(s0, s1, s2, s3, s4, s5, s6, s7),
            *(C, SHIFTED, False, BLOCK),
        )


@triton.jit
def _step_block(
    p: tl.tensor,
    grad: tl.tensor,
    carry: tl.tensor,
    a: tl.tensor,
    b: tl.tensor,
    c: tl.tensor,
    a_scale: tl.tensor,
    b_scale: tl.tensor,
    c_scale: tl.tensor,
    start: tl.tensor,
    left: tl.tensor,
    stream: tl.tensor,
    offset: tl.tensor,
    low_seed: tl.tensor,
    high_seed: tl.tensor,
    step: tl.tensor,
    s0: tl.tensor,
    s1: tl.tensor,
    s2: tl.tensor,
    s3: tl.tensor,
    s4: tl.tensor,
    s5: tl.tensor,
    s6: tl.tensor,
    s7: tl.tensor,
    C: tl.constexpr,
    SHIFTED: tl.constexpr,
    WHOLE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Step the ``left`` elements from ``start`` on; pointers are those of the tensors."""
    lane, group = tl.arange(0, BLOCK), start // BLOCK_ELEMENTS
    p, carry = p + start, carry + start
    a, b, c = a + start, b + start, c + start
    a_scale, b_scale, c_scale = a_scale + group, b_scale + group, c_scale + group
    g_bits = unpack(load(grad + start, lane, left, WHOLE), C.grad.kind)
    before = unpack(load(p, lane, left, WHOLE), C.p.kind)
    beside = 0 if C.carry is None else load(carry, lane, left, WHOLE)
    x, y, z = 0.0, 0.0, 0.0
    if C.count > 0:
        x = read_state(a, a_scale, lane, left, C.states[0], WHOLE, BLOCK)
    if C.count > 1:
        y = read_state(b, b_scale, lane, left, C.states[1], WHOLE, BLOCK)
    if C.count > 2:
        z = read_state(c, c_scale, lane, left, C.states[2], WHOLE, BLOCK)
    g = float_of(g_bits ^ SIGN) if C.maximize else float_of(g_bits)
    w = _wide(before, beside, C)
    update, x, y, z = advance(
        *(g, w, x, y, z),
        *(float_of(s0), float_of(s1), float_of(s2), float_of(s3)),
        *(float_of(s4), float_of(s5), float_of(s6), float_of(s7)),
        C,
    )
    seed = (high_seed.to(tl.int64) << 32) | (low_seed.to(tl.int64) & 0xFFFFFFFF)
    if C.count > 0:
        word = _words(start, offset, stream + STATE_PLACE, seed, step, C.states[0], SHIFTED, BLOCK)
        write_state(a, a_scale, x, word, lane, left, C.states[0], WHOLE, BLOCK)
    if C.count > 1:
        word = _words(
            start, offset, stream + STATE_PLACE + 1, seed, step, C.states[1], SHIFTED, BLOCK
        )
        write_state(b, b_scale, y, word, lane, left, C.states[1], WHOLE, BLOCK)
    if C.count > 2:
        word = _words(
            start, offset, stream + STATE_PLACE + 2, seed, step, C.states[2], SHIFTED, BLOCK
        )
        write_state(c, c_scale, z, word, lane, left, C.states[2], WHOLE, BLOCK)
    if C.strategy == "nearest" or C.strategy == "stochastic":
        word = _words(start, offset, stream + P_PLACE, seed, step, C.p, SHIFTED, BLOCK)
        after = rounded(bits_of(w + update), word, C.p)
        store(p, lane, pack(after, C.p.kind), left, WHOLE)
    elif C.strategy == "master":
        copy = bits_of(w + update)
        store(carry, lane, copy, left, WHOLE)
        store(p, lane, pack(rounded(copy, 0, C.nearest), C.p.kind), left, WHOLE)
    elif C.strategy == "split":
        total = w + update
        bits = tl.where(total == total, bits_of(total), NAN)
        lower = bits << 16 >> 16  # sign extended
        store(p, lane, ((bits - lower) >> 16).to(tl.int16), left, WHOLE)
        store(carry, lane, lower.to(tl.int16), left, WHOLE)
    else:
        word = _words(start, offset, stream + CARRY_PLACE, seed, step, C.carry, SHIFTED, BLOCK)
        after, rest = _write_back(before, update, beside, C)
        after, raw = pack_carry(rest, after, word, C.carry)
        if C.strategy == "lazy":
            raw = tl.where(float_of(after) == float_of(before), raw, 0)
        store(p, lane, pack(after, C.p.kind), left, WHOLE)
        store(carry, lane, raw, left, WHOLE)


@triton.jit
def _words(
    start: tl.tensor,
    offset: tl.tensor,
    stream: tl.tensor,
    seed: tl.tensor,
    step: tl.tensor,
    MEMORY: tl.constexpr,
    SHIFTED: tl.constexpr,
    BLOCK: tl.constexpr,
) -> tl.tensor:
    """Return the random words of a memory, 0 where it takes none."""
    word = 0
    if MEMORY.is_random:
        word = random_words(start, offset, stream, seed, step, MEMORY, SHIFTED, BLOCK)
    return word


@triton.jit
def _wide(p: tl.tensor, beside: tl.tensor, C: tl.constexpr) -> tl.tensor:
    """Return the parameter as the rule sees it, from its bits and the memory beside it."""
    bits = p
    if C.strategy == "master":
        bits = beside
    elif C.strategy == "split":
        bits = p + beside.to(tl.int32)
    return float_of(bits)


@triton.jit
def _write_back(
    bits: tl.tensor, update: tl.tensor, beside: tl.tensor, C: tl.constexpr
) -> tuple[tl.tensor, tl.tensor]:
    """Return the bits of the parameter after a Kahan or lazy step, and what its rounding took."""
    before = float_of(bits)
    y = update + read_carry(beside, bits, C.carry)
    if C.strict:
        y = float_of(rounded(bits_of(y), 0, C.carry_nearest))
    total = before + y
    after = rounded(bits_of(total), 0, C.nearest)
    t = float_of(after)
    rest = y - (t - before) if C.strategy == "kahan" else tl.where(t == before, y, 0.0)
    low = float_of(tl.full([], C.low, tl.int32))
    high = float_of(tl.full([], C.high, tl.int32))
    return after, tl.where((total <= high) & (total >= low), rest, 0.0)
