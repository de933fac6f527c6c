"""The semantics of sums at accumulator precision: short, in float64, judged by exact rationals.

A float64 holds every product of operands of at most 26 significant bits exactly. The sum of two
float64 numbers does not fit one, so floating point takes it *rounded to odd* (the neighbour with an
odd last bit, unless the sum is exact): that keeps everything a second rounding to at most 51 bits
has to know (Boldo and Melquiond, "Emulation of a FMA and correctly rounded sums", IEEE Trans.
Computers 2008). Fixed point splits it into an integer and a rest. So every sum below is the exact
sum, rounded once. Every fast kernel equals this file bit for bit.

Which random word a stochastic rounding takes: element i of the row-major output, under the key
``Key(seed, stream, step, offset=i)`` with the streams below; ``step`` is the term k for the sums of
terms (the first term of an aligned group or of a tree's node), the chunk's number for sums of
chunks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...formats import FixedPoint, FloatingPoint, Rounding
from ..random import Key, random_words
from ..reference import quantize, scale
from .adder import Adder

SUM, PRODUCT, KAHAN_T, KAHAN_D, KAHAN_C = 0, 1, 2, 3, 4
CHUNK = 8
"""Added to the streams of sums where chunks, not terms, are added."""
TREE = 16
"""Stream of a tree's lowest level of nodes; each level above has the next one."""


@dataclass(frozen=True)
class Request:
    """What to compute, already checked by the door."""

    accumulator: FloatingPoint | FixedPoint
    product: FloatingPoint | FixedPoint | None = None
    chunk: int | None = None
    kahan: bool = False
    rounding: Rounding = Rounding.NEAREST
    seed: int = 0
    adder: Adder = Adder("sequential")  # noqa: RUF009  # frozen


def matmul(a: Tensor, b: Tensor, request: Request) -> Tensor:
    """Return the float64 product of float64 tensors (B, M, K) and (B, K, N) as ``request`` says."""
    r, length = request, a.shape[-1]
    total = carry = a.new_zeros(a.shape[0], a.shape[1], b.shape[2])
    size = r.chunk or max(length, 1)
    for number, start in enumerate(range(0, length, size)):
        part = _chunk(a, b, range(start, min(start + size, length)), r)
        if r.chunk is None:
            return part
        if r.kahan:
            total, carry = _kahan(total, carry, part, r, CHUNK, number)
        else:
            total = add(total, part, r, CHUNK + SUM, number)
    return total


def _chunk(a: Tensor, b: Tensor, terms: range, r: Request) -> Tensor:
    """Add the terms of one chunk, from 0."""
    if r.adder.kind == "tree":
        return _tree([_product(a, b, k, r) for k in terms], terms.start, r)
    total = carry = a.new_zeros(a.shape[0], a.shape[1], b.shape[2])
    if r.adder.kind == "aligned":
        for start in range(terms.start, terms.stop, r.adder.ways):
            group = range(start, min(start + r.adder.ways, terms.stop))
            total = _aligned([total, *(_product(a, b, k, r) for k in group)], start, r)
        return total
    for k in terms:
        if r.kahan:
            total, carry = _kahan(total, carry, _product(a, b, k, r), r, 0, k)
        else:
            total = add(total, _product(a, b, k, r), r, SUM, k)
    return total


def _product(a: Tensor, b: Tensor, k: int, r: Request) -> Tensor:
    exact = a[:, :, k, None] * b[:, None, k, :]
    if r.product is None:
        return exact
    return quantize(exact, r.product, r.rounding, Key(r.seed, PRODUCT, k))


def _kahan(
    s: Tensor, c: Tensor, x: Tensor, r: Request, stream: int, step: int
) -> tuple[Tensor, Tensor]:
    y = add(x, -c, r, stream + SUM, step)
    t = add(s, y, r, stream + KAHAN_T, step)
    d = add(t, -s, r, stream + KAHAN_D, step)
    return t, add(d, -y, r, stream + KAHAN_C, step)


def _tree(nodes: list[Tensor], first: int, r: Request) -> Tensor:
    """Add neighbours, level by level; an input without a neighbour meets a zero."""
    level = 0
    while level == 0 or len(nodes) > 1:
        if len(nodes) % 2:
            nodes = [*nodes, torch.zeros_like(nodes[0])]
        nodes = [
            add(nodes[i], nodes[i + 1], r, TREE + level, first + (i << level))
            for i in range(0, len(nodes), 2)
        ]
        level += 1
    return nodes[0]


def _aligned(addends: list[Tensor], step: int, r: Request) -> Tensor:
    """Cut every addend at one place below the last one of the largest, add exactly, round once."""
    fmt = r.accumulator
    assert isinstance(fmt, FloatingPoint)
    x = torch.stack(addends)
    special = x.sum(0)  # an infinity or NaN decides alone
    finite = torch.where(x.isfinite(), x, 0.0)
    largest = finite.abs().amax(0)
    exponent = torch.frexp(largest).exponent.to(torch.int64) - 1
    grid = exponent.clamp(min=fmt.min_exponent) - fmt.mantissa_bits - r.adder.extra
    total = scale(scale(finite, -grid).trunc().sum(0), grid)
    total = torch.where(largest > 0, total, 0.0)
    total = torch.where(special.isfinite(), total, special)
    return quantize(total, fmt, r.rounding, Key(r.seed, SUM, step))


def add(x: Tensor, y: Tensor, r: Request, stream: int, step: int) -> Tensor:
    """Return x + y, exact, rounded once to the accumulator."""
    key = Key(r.seed, stream, step)
    if isinstance(r.accumulator, FloatingPoint):
        return quantize(odd_sum(x, y), r.accumulator, r.rounding, key)
    return _fixed_sum(x, y, r.accumulator, r.rounding, key)


def two_sum(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return fl(x + y) and what it lacks to x + y, exactly (Knuth); no overflow may occur."""
    s = x + y
    z = s - x
    return s, (x - (s - z)) + (y - z)


def odd_sum(x: Tensor, y: Tensor) -> Tensor:
    """Return x + y rounded to odd."""
    s, e = two_sum(x, y)
    code = s.view(torch.int64)
    move = s.isfinite() & (e != 0) & (code & 1 == 0)
    away = torch.where((e > 0) == (s > 0), 1, -1)
    return torch.where(move, code + away, code).view(torch.float64)


def _fixed_sum(x: Tensor, y: Tensor, fmt: FixedPoint, rounding: Rounding, key: Key) -> Tensor:
    unit, modulus = 2.0**-fmt.fraction_bits, 2.0**fmt.bits
    s, e = two_sum(x / unit, y / unit)
    # s + e = whole + rest: whole an integer (or another one congruent to it), -1 < rest < 1.
    whole, high = s.fmod(modulus).trunc(), e.trunc()
    if fmt.overflow == "saturate":
        whole = s.clamp(-(2.0**51), 2.0**51).trunc()
        high = torch.where(s.abs() < 2.0**51, high, 0.0)
    rest = odd_sum(s - s.trunc(), e - e.trunc())
    whole, rest = whole + high.fmod(modulus) + rest.trunc(), rest - rest.trunc()
    # The magnitude is low + rest if rest >= 0, else low + 1 + rest.
    sign = torch.where(s < 0, -1.0, 1.0)
    low, rest = whole * sign, rest * sign
    below = rest < 0
    low = low - below.to(low.dtype)
    over = rest + torch.where(below, 0.5, -0.5)
    if rounding is Rounding.NEAREST:
        away = (over > 0) | ((over == 0) & (low.remainder(2.0) == 1))
    elif rounding is Rounding.NEAREST_AWAY:
        away = over >= 0
    elif rounding is Rounding.STOCHASTIC:
        words = random_words(key, s.numel(), s.device).view(s.shape)
        threshold = (rest * 2.0**32).floor() + torch.where(below, 2.0**32, 0.0)
        away = threshold + words >= 2.0**32
    elif rounding is Rounding.TOWARD_ZERO:
        away = torch.zeros_like(below)
    else:
        away = (rest != 0) & ((rounding is Rounding.DOWN) == (s < 0))
    code = (low + away) * sign
    if fmt.overflow == "wrap":
        code = (code - fmt.code_min).remainder(modulus) + fmt.code_min
        code = torch.where(s.isfinite(), code, torch.nan)
    else:
        code = code.clamp(fmt.code_min, fmt.code_max)
        code = torch.where(s == torch.inf, fmt.code_max, code)
        code = torch.where(s == -torch.inf, fmt.code_min, code)
        code = torch.where(s.isnan(), torch.nan, code)
    return (code + 0.0) * unit
