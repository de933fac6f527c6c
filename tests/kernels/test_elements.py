"""The reference of the wider scalar families against the exact oracle, element by element."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import limprec as lp
from limprec.formats import Rounding, parse_format
from limprec.formats.oracle import round_exact
from limprec.kernels import Backend, Key, random_words
from limprec.kernels.carrier import is_identity

NAMES = [
    *(f"binary8p{p}" for p in range(1, 8)),
    *("binary8p1-ovf", "binary8p3-ovf", "binary6p2", "e4m0fin", "e5m0fn-ovf", "e3m0fnuz-nosub"),
    *("e8m0", "posit8", "posit8es0", "posit16", "posit5es3", "log8.3", "log6.2", "log16.10"),
    *("ternary{-1,0,1}", "gap{-3,2}", "up{1,2,4,8}", "nf{-1,-0.7,-0.3,0.1,0.2,0.9,1e30}"),
]


def same(a: float, b: float) -> bool:
    if math.isnan(a) or math.isnan(b):
        return math.isnan(a) and math.isnan(b)
    return a == b and math.copysign(1, a) == math.copysign(1, b)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rounding", list(Rounding))
@settings(max_examples=30, deadline=None)
@given(
    near=st.lists(st.tuples(st.integers(0, 2**16), st.integers(-3, 3)), max_size=20),
    far=st.lists(st.floats(width=64), max_size=10),
    shares=st.lists(st.floats(0, 1), max_size=10),
    seed=st.integers(0, 2**64 - 1),
)
def test_scalar_formats_equal_the_oracle(name, rounding, near, far, shares, seed):
    fmt = parse_format(name)
    values = fmt.values()
    points = [*values, *((a + b) / 2 for a, b in pairwise(values))]
    exact = [points[i % len(points)] for i, _ in near]
    x = torch.tensor(exact, dtype=torch.float64)
    ulps = torch.tensor([u for _, u in near], dtype=torch.int64)
    x = (x.view(torch.int64) + torch.where(x == 0, ulps.abs(), ulps)).view(torch.float64)
    gaps = [values[i % (len(values) - 1)] for i, _ in near[: len(shares)]]
    inside = [g + s * abs(g) for g, s in zip(gaps, shares, strict=False)]
    edges = [fmt.max * 1.5, -fmt.max * 3, fmt.smallest / 3, 0.0, -0.0, math.inf, -math.inf]
    x = torch.cat([x, torch.tensor([*far, *inside, *edges, math.nan], dtype=torch.float64)])
    y = lp.quantize(x, fmt, rounding, seed=seed, backend=Backend.REFERENCE)
    words = random_words(Key(seed), x.numel()).tolist()
    for a, b, word in zip(x.tolist(), y.tolist(), words, strict=True):
        assert same(b, round_exact(a, fmt, rounding, random=word)), (a, b, word)


@pytest.mark.parametrize("name", NAMES)
def test_values_stay(name):
    fmt = parse_format(name)
    x = torch.tensor(fmt.values(), dtype=torch.float64)
    for rounding in Rounding:
        assert torch.equal(lp.quantize(x, fmt, rounding, seed=0, backend=Backend.REFERENCE), x)


def test_a_format_without_negative_zero_is_no_identity():
    assert is_identity(parse_format("e9m9"), torch.bfloat16)
    assert not is_identity(parse_format("binary19p10"), torch.bfloat16)


@pytest.mark.parametrize("name", ["posit8", "log8.3", "t{-1,0,1}"])
def test_listed_formats_take_any_layout(name):
    x = torch.randn(6, 10, 3, generator=torch.Generator().manual_seed(0))
    y = lp.quantize(x.transpose(0, 1), name, backend=Backend.REFERENCE)
    assert torch.equal(y, lp.quantize(x, name, backend=Backend.REFERENCE).transpose(0, 1))
    assert lp.quantize(torch.empty(0, 2), name).shape == (0, 2)
    assert lp.quantize(torch.tensor(0.9), name).shape == ()
