"""The softmax's inputs and its sum: the bounds against simulations, seeds fixed."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import limprec as lp
from limprec.bounds import guideline
from limprec.formats import FixedPoint, parse_format

FLOATS = {m: f"e8m{m}" for m in range(1, 20)}


@given(seed=st.integers(0, 10**6), classes=st.integers(2, 40), spread=st.floats(0.01, 8))
def test_rounding_the_logits_costs_at_most_twice_its_variance(seed, classes, spread):
    """A <= 2 |delta|^2 for any probabilities."""
    p = (spread * torch.randn(classes, generator=torch.Generator().manual_seed(seed))).softmax(0)
    square = p.square()
    cost = (square * ((1 - p).square() + square.sum() - square)).sum()
    for right in range(classes):
        delta = p.clone()
        delta[right] -= 1
        assert cost <= 2 * delta.square().sum() + 1e-6


@pytest.mark.parametrize("rounding", ["nearest", "stochastic", "toward_zero"])
@pytest.mark.parametrize("classes", [10, 1000])
def test_advised_logits_keep_the_error(classes, rounding):
    """Random logits of the advised range, rounded: noise in delta, relative to its power."""
    answer = guideline(classes, rounding=rounding).logits
    gap = math.log((classes - 1) * 99)
    generator = torch.Generator().manual_seed(0)
    z = torch.rand(4000, classes, generator=generator) * gap - gap / 2
    for bits, limit in ((answer.advised, 1 / 16), (answer.least, 1.5)):
        # The step that spans the gap in so many bits; the scale is a power of two.
        fraction = math.floor(math.log2(2 * (2 ** (bits - 1) - 1) / gap))
        rounded = lp.quantize(z, FixedPoint(bits, fraction), rounding, seed=0)
        change = (rounded.softmax(1) - z.softmax(1)).square().sum(1)
        delta = z.softmax(1)
        delta[:, 0] -= 1
        assert change.mean() <= limit * delta.square().sum(1).mean()


@pytest.mark.parametrize("classes", [2, 3, 10, 1000, 50257])
def test_advised_logits_reach_the_probability(classes):
    answer = guideline(classes).logits
    for bits, step, chance in ((answer.advised, 0.5, 0.99), (answer.least, 2.0, 0.5)):
        top = (2 ** (bits - 1) - 1) * step
        z = torch.full((classes,), -top, dtype=torch.float64)
        z[0] = top
        assert z.softmax(0)[0] >= chance or bits == 2


def test_label_smoothing_wants_less_range():
    assert guideline(1000, label_smoothing=0.1).logits.advised <= guideline(1000).logits.advised
    assert guideline(50257, label_smoothing=0.3).logits.advised == 5
    assert guideline(50257).logits.advised == 6


def test_skewed_classes_want_more_range():
    counts = [10**12, *[1] * 9]
    assert guideline(class_counts=counts).logits.advised > guideline(10).logits.advised


@pytest.mark.parametrize("classes", [4, 10, 100, 1000, 5000])
def test_the_sum_of_equal_terms_is_not_swamped(classes):
    ones = torch.ones(1, classes)
    least = guideline(classes, family="float").accumulator.least
    total = lp.matmul(ones, ones.T, accumulator=FLOATS[least]).item()
    # Complete, but for the last rounding where C is no value of the format.
    assert total == pytest.approx(classes, rel=2.0 ** -(least + 1))
    if least > 1:
        fewer = lp.matmul(ones, ones.T, accumulator=FLOATS[least - 1]).item()
        assert fewer < classes


@pytest.mark.parametrize("order", ["largest first", "smallest first", "random"])
@pytest.mark.parametrize("rounding", ["nearest", "toward_zero", "stochastic"])
def test_the_advised_float_sum_is_right_within_a_sixteenth(order, rounding):
    classes = 1000
    generator = torch.Generator().manual_seed(1)
    terms = (4 * torch.randn(20, classes, generator=generator)).exp()
    terms /= terms.max(1, keepdim=True).values
    if order != "random":
        terms = terms.sort(1, descending=order.startswith("largest")).values
    m = guideline(classes, family="float", rounding=rounding).accumulator.advised
    seed = {"seed": 0} if rounding == "stochastic" else {}
    ones = torch.ones(classes, 1)
    total = lp.matmul(terms, ones, accumulator=FLOATS[m], rounding=rounding, **seed)[:, 0]
    exact = terms.double().sum(1)
    wrong = ((total - exact) / exact).abs()
    assert (wrong.square().mean().sqrt() if rounding == "stochastic" else wrong.max()) <= 1 / 16


@pytest.mark.parametrize("rounding", ["nearest", "toward_zero", "stochastic"])
def test_the_advised_fixed_sum_is_right_within_a_sixteenth(rounding):
    classes = 1000
    answer = guideline(classes, rounding=rounding).accumulator
    accumulator = parse_format(answer.formats[1])
    assert accumulator.max >= classes
    tail = torch.rand(200, classes, generator=torch.Generator().manual_seed(0)) * 2e-4
    tail[:, 0] = 1
    terms = lp.quantize(tail, accumulator, rounding, seed=0).double()
    exact = tail.double().sum(1)
    wrong = ((terms.sum(1) - exact) / exact).abs()
    assert (wrong.square().mean().sqrt() if rounding == "stochastic" else wrong.max()) <= 1 / 16
