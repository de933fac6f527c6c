"""The measures against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import limprec as lp
from limprec.diagnosis.accumulators import LayerSums, SumTally
from limprec.diagnosis.shadow import Shadow
from limprec.diagnosis.softmax import SoftmaxTally
from limprec.diagnosis.tensors import MOST, TensorTally
from limprec.plan import parse_accumulator

approx = pytest.approx


def tally(values: list[float], fmt: str) -> dict[str, float]:
    x = torch.tensor(values)
    found = TensorTally(lp.parse_format(fmt), rounded=True)
    found.add(x, lp.quantize(x, fmt))
    return found.measures()


def test_a_rounding_by_hand() -> None:
    # fx4.1: -4 to 3.5 in steps of 0.5
    found = tally([0.0, 0.2, -0.1, 1.0, 5.0], "fx4.1")
    assert found["elements"] == 5
    assert found["zeros"] == approx(1 / 5)
    assert found["flushed_count"] == approx(2 / 4)
    assert found["flushed_mass"] == approx(0.3 / 6.3)
    assert found["mass_lost"] == approx(1 - 4.5 / 6.3)
    assert found["saturated"] == approx(1 / 5)
    noise = 0.2**2 + 0.1**2 + 1.5**2
    assert found["sqnr_db"] == approx(10 * math.log10((0.04 + 0.01 + 1 + 25) / noise), abs=1e-5)
    assert found["amax"] == 5
    # values 0, 0, 0, 1, 3.5
    assert found["bits_used"] == approx(0.6 * math.log2(5 / 3) + 0.4 * math.log2(5))


def test_what_becomes_infinite_and_what_was() -> None:
    found = tally([1.0, 1e6, math.inf, math.nan], "fp16")
    assert found["made_infinite"] == approx(1 / 4)
    assert found["infinite"] == approx(2 / 4)
    assert found["mass_lost"] == 0
    assert found["amax"] == 1


def test_a_format_with_a_scale_of_its_own_has_no_outside() -> None:
    found = tally([1.0, 0.001], "dfx4")
    assert "saturated" not in found
    assert found["flushed_count"] == 0.5


def test_exact_and_empty_and_zero_tensors_leave_out_what_means_nothing() -> None:
    assert "sqnr_db" not in tally([1.0, 2.0], "bf16")
    assert tally([], "bf16") == {}
    found = tally([0.0, 0.0], "dfx8")
    assert found["zeros"] == 1
    assert found["bits_used"] == 0
    assert "flushed_mass" not in found


def test_without_the_rounding_only_the_tensor_is_told() -> None:
    found = TensorTally(lp.parse_format("fp16"), rounded=False)
    x = torch.tensor([0.0, 2.0**-20, 1.0])
    found.add(x, x)
    measures = found.measures()
    assert measures["subnormal"] == 0.5
    assert "flushed_mass" not in measures


def test_large_tensors_are_sampled_but_no_infinity_is_missed() -> None:
    x = torch.ones(64, MOST // 16)
    x[:, ::2] = 0.001  # columns that a stride of 4 would see alone
    bad = x.clone()
    bad[5, 7] = math.inf
    found = TensorTally(lp.parse_format("fx8.4"), rounded=True)
    found.add(x, lp.quantize(x, "fx8.4"))
    measures = found.measures()
    assert measures["flushed_count"] == approx(0.5, abs=1e-3)
    found.add(bad, bad)
    assert found.measures()["infinite"] > 0


def test_half_of_the_softmax_error_lost_by_hand() -> None:
    x = torch.tensor([[-0.75, 0.25, 0.25, 0.25], [0.5, -1.0, 0.25, 0.25]])
    q = torch.tensor([[-0.75, 0.0, 0.0, 0.0], [0.5, -1.0, 0.0, 0.0]])
    found = SoftmaxTally()
    found.add(x, q)
    assert found.measures() == {
        "classes": 4,
        "wrong_half_lost": approx(1 - 0.5 / 1.75),
        "balance_lost": approx(1.25 / 3.5),
    }


@pytest.mark.parametrize(
    "x", [torch.ones(3, 4), torch.randn(8, 5), torch.ones(4), torch.zeros(0, 4), torch.ones(3, 1)]
)
def test_what_is_no_softmax_error_is_none(x: torch.Tensor) -> None:
    found = SoftmaxTally()
    found.add(x, x)
    assert found.measures() == {}


def test_rows_without_an_error_are_allowed() -> None:
    x = torch.zeros(10, 4)
    x[0] = torch.tensor([-1.0, 1.0, 0.0, 0.0])
    found = SoftmaxTally()
    found.add(x, x)
    assert found.measures()["wrong_half_lost"] == 0


def test_ones_swamp_a_sum_at_the_bound() -> None:
    # m = 3: adding ones to nearest stalls at 2^(m+1) = 16.
    found = SumTally(parse_accumulator("e8m3"))
    found.add(torch.ones(1, 64), torch.ones(64, 1))
    measures = found.measures()
    assert measures["terms"] == 64
    assert measures["sum_error"] == 48 / 64
    assert measures["terms_lost"] == approx(9 / 12)  # 9 of 12 places lie beyond 16
    chunked = SumTally(parse_accumulator("e8m3 chunk=8"))
    chunked.add(torch.ones(1, 64), torch.ones(64, 1))
    assert chunked.measures() == {"terms": 64, "sum_error": 0, "terms_lost": 0}
    late = SumTally(parse_accumulator("e8m1 chunk=4"))  # whole chunks are lost in the total
    late.add(torch.ones(1, 64), torch.ones(64, 1))
    assert late.measures()["terms_lost"] == approx(9 / 12)
    kahan = SumTally(parse_accumulator("e8m3 kahan"))
    kahan.add(torch.ones(1, 64), torch.ones(64, 1))
    assert kahan.measures() == {"terms": 64, "sum_error": 0}
    for other in ("e8m3:stochastic", "e8m3 adder=tree"):  # no term is lost at one place for good
        sums = SumTally(parse_accumulator(other))
        sums.add(torch.ones(1, 64), torch.ones(64, 1))
        assert sums.measures().keys() == {"terms", "sum_error"}


def test_operands_that_are_not_finite_or_empty_say_nothing() -> None:
    found = SumTally(parse_accumulator("e5m10"))
    found.add(torch.full((1, 4), math.inf), torch.ones(4, 1))
    found.add(torch.ones(1, 0), torch.ones(0, 1))
    assert found.measures() == {}


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(12, 5),
        nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2),
        nn.Conv2d(2, 3, (3, 5), dilation=(2, 1), padding="same", padding_mode="reflect"),
    ],
)
def test_sampled_products_are_those_of_the_layer(
    layer: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each sampled dot product is an element of the layer's output or weight gradient."""
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(SumTally, "add", lambda self, a, b: seen.append((a @ b).flatten()))
    torch.manual_seed(0)
    x = (
        torch.randn(3, 12)
        if isinstance(layer, nn.Linear)
        else torch.randn(3, layer.in_channels, 8, 7)
    )
    layer.bias = None
    x.requires_grad_()
    y = layer(x)
    error = torch.randn_like(y)
    y.backward(error)
    sums = LayerSums(layer, parse_accumulator("e5m10"))
    sums.forward(x, layer.weight)
    sums.backward(error)
    wholes = [y, layer.weight.grad] if len(seen) == 2 else [y, x.grad, layer.weight.grad]
    assert len(seen) == len(wholes)
    for some, whole in zip(seen, wholes, strict=True):
        assert whole is not None
        gaps = (some[:, None] - whole.detach().flatten()).abs().amin(1)
        assert float(gaps.max()) < 1e-5


def test_the_shadow_is_the_same_batch_in_float32() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.5), nn.Linear(16, 4))
    for rounded in (False, True):
        model = nn.Sequential(*plain)
        if rounded:
            lp.convert(model, lp.Plan.uniform("dfx4:stochastic"))
        shadow = Shadow(model)
        x = torch.randn(32, 8)
        shadow.called((x,), {})
        y = model(x)
        shadow.returned(y)
        (y.square().sum() * 1024).backward()
        for name, p in model.named_parameters():
            assert p.grad is not None
            shadow.gradient(name, p.grad)
            p.grad = None
        step = model._limprec.model.random.step if rounded else 0
        random = torch.get_rng_state()
        shadow.compare()
        assert torch.equal(torch.get_rng_state(), random)
        if rounded:
            assert model._limprec.model.random.step == step
        found = shadow.measures("0.weight")
        if rounded:
            assert 0.3 < found["cosine"] < 0.999
            assert found["gradient_error"] > 0.01
        else:
            assert found["cosine"] == approx(1)
            assert found["gradient_error"] == 0
            assert found["flushed_against_fp32"] == 0
        assert shadow.measures("nothing") == {}
