"""Noise, balance and skewed classes: the derivations against simulations, seeds fixed."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch

import limprec as lp
from limprec.bounds import SHARE, guideline
from limprec.bounds.question import skew_of
from limprec.formats import DynamicFixedPoint, FixedPoint, Rounding
from limprec.formats.oracle import round_exact


def zipf(classes: int) -> list[int]:
    return [100_000 // rank for rank in range(1, classes + 1)]


def rest(shares: torch.Tensor, step: float) -> torch.Tensor:
    """Train biases alone on the mean gradient, its softmax half rounded; return the softmax.

    Of a sample of class y the errors are p - onehot(y). Averaged over y the wrong half of class c
    is (1 - q_c) R(p_c), the right one -q_c (1 - p_c), which the format holds well enough.
    """
    quantizer = FixedPoint(40, -round(math.log2(step)))
    biases = torch.zeros_like(shares)
    total, kept = torch.zeros_like(shares), 0
    for number in range(12_000):
        p = biases.softmax(0)
        wrong = lp.quantize(p, quantizer)
        biases -= 0.2 * ((1 - shares) * wrong - shares * (1 - p))
        if number >= 8_000:  # it ends up going to and fro across the threshold
            total, kept = total + p, kept + 1
    return total / kept


def test_starved_classes_rest_at_the_threshold():
    counts = zipf(50)
    shares = torch.tensor(counts, dtype=torch.float64) / sum(counts)
    step = 2.0**-6
    threshold = step / 2
    classes, mass = skew_of(counts)[1].below(Fraction(threshold))
    ended = rest(shares, step)
    below = shares < threshold
    assert int(below.sum()) == classes > 10
    excess = (ended - shares)[below].sum().item()
    assert excess == pytest.approx(float(mass), rel=0.02)
    assert ended[below].std() < 0.01 * shares[below].std()  # they lie together, at the threshold


def test_exact_arithmetic_rests_at_the_shares():
    counts = zipf(50)
    shares = torch.tensor(counts, dtype=torch.float64) / sum(counts)
    assert torch.allclose(rest(shares, 2.0**-40), shares, atol=1e-4)


def test_counts_ask_for_more_bits_and_equal_ones_for_none():
    assert guideline(class_counts=[7] * 1000).least == guideline(1000).least
    assert guideline(class_counts=[7] * 1000).advised == guideline(1000).advised
    plain, skewed = guideline(1000), guideline(class_counts=zipf(1000))
    assert plain.least <= skewed.least
    assert plain.advised < skewed.advised
    assert skewed.rarest == 100 / sum(zipf(1000))
    assert "rest too high" in skewed.reason


def test_counts_against_the_definition():
    counts = [*zipf(300), 0, 0, 1]
    answer, total = guideline(class_counts=counts), sum(counts)
    assert answer.num_classes == 303

    def mass(bits: int) -> float:
        threshold = 2.0**-bits
        return sum(max(0.0, threshold - c / total) for c in counts if c)

    plain = guideline(303)
    assert mass(answer.least) <= 0.5
    assert answer.least == plain.least or mass(answer.least - 1) > 0.5
    assert mass(answer.advised) <= 1 / 16
    assert answer.advised == plain.advised or mass(answer.advised - 1) > 1 / 16


def test_smoothing_and_scales_move_the_threshold_alike():
    counts = zipf(200)
    plain = guideline(class_counts=counts)
    assert guideline(class_counts=counts, loss_scale=64.0).advised == plain.advised
    assert guideline(class_counts=counts, label_smoothing=0.5).least == plain.least + 1
    float_plain = guideline(class_counts=counts, family="float", mantissa_bits=3)
    assert float_plain.advised >= guideline(200, family="float", mantissa_bits=3).advised


def test_stochastic_rounding_does_not_mind_skew():
    skewed = guideline(class_counts=zipf(1000), rounding="stochastic")
    assert skewed.advised == guideline(1000, rounding="stochastic").advised
    assert "on average too" in skewed.reason


@pytest.mark.parametrize("classes", [10, 300])
def test_the_noise_is_that_of_fewer_samples(classes):
    """Rounding noise per sample, simulated, is within the bound, and no bias beside clipping."""
    bits = guideline(classes, rounding="stochastic").advised
    samples = 4000
    delta = torch.full((samples, classes), 1 / classes)
    delta[torch.arange(samples), torch.arange(samples) % classes] -= 1
    rounded = lp.quantize(delta, f"dfx{bits}", "stochastic", seed=3, amax=1 - 2**-20)
    noise = (rounded - delta).square().sum(1).mean().item()
    power = delta.square().sum(1).mean().item()
    assert 0 < noise <= SHARE * power
    wrong = delta > 0
    mean = rounded[wrong].mean().item()
    assert mean == pytest.approx(1 / classes, rel=0.02)
    # One bit fewer than advised breaks either the noise's limit or the balance's.
    step = Fraction(1, 2 ** (bits - 2))
    codes = DynamicFixedPoint(bits - 1)
    clip = 1 - round_exact(1 - 2**-20, codes, Rounding.NEAREST, amax=1 - 2**-20)
    p = Fraction(classes - 1, classes)
    bound = (classes - 1) * min(step / classes, step**2 / 4) + step**2
    assert bound > SHARE * p or clip > SHARE


def test_clipping_leaves_a_rest_that_pushes_all_logits_one_way():
    delta = torch.full((1, 1024), 1 / 1024)
    delta[0, 0] -= 1
    for name, rest in (("mxfp8_e4m3", 0.12), ("mxfp6_e2m3", 0.06), ("mxint8", 0.01)):
        rounded = lp.quantize(delta, name)
        # What is starved in the right class's block pushes the other way.
        clipped = (rounded - delta)[0, 0].item()
        assert clipped == pytest.approx(rest, abs=0.012)
    assert lp.quantize(delta, "fp32").sum().abs() < 1e-6
