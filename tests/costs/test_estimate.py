"""Energy of a step and bits of training state, against totals worked out by hand."""

import pytest
import torch
from torch import nn

import limprec as lp
from limprec.costs import step_energy, training_state_bits
from limprec.errors import PlanError


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 5))


# conv: 2 channels x 2 x 2 places x 9 = 72 multiply-adds a sample, linear: 8 x 5 = 40. The conv is
# first: two products a step; the linear layer has three.
CONV, LINEAR = 2 * 72, 3 * 40


def test_fp32_by_hand() -> None:
    # 45 nm: multiply 3.7 pJ, add 0.9 pJ
    expected = (CONV + LINEAR) * (3.7 + 0.9) * 1e-12
    assert step_energy(network(), None, (1, 4, 4)) == pytest.approx(expected, rel=1e-12)
    fp32 = lp.Plan.uniform("fp32")
    assert step_energy(network(), fp32, (1, 4, 4)) == pytest.approx(expected, rel=1e-12)


def test_eight_bits_by_hand() -> None:
    # 45 nm: int8 multiply 0.2 pJ, int32 add 0.1 pJ
    model = lp.convert(network(), lp.Plan.load("dfx8"))
    expected = (CONV + LINEAR) * (0.2 + 0.1) * 1e-12
    energy = step_energy(model, lp.Plan.load("dfx8"), (1, 4, 4))
    assert energy == pytest.approx(expected, rel=1e-12)


def test_only_the_layer_that_differs_differs() -> None:
    plan = lp.Plan.uniform("dfx8", classifier="fp32")
    expected = (CONV * 0.3 + LINEAR * 4.6) * 1e-12
    assert step_energy(network(), plan, (1, 4, 4)) == pytest.approx(expected, rel=1e-12)


def test_a_plan_that_does_not_fit_is_refused() -> None:
    plan = lp.Plan.from_toml("version = 1\n[[layer]]\nmatch = 'fc'\nweight = 'dfx8'")
    with pytest.raises(PlanError, match="matches no layer"):
        step_energy(network(), plan, (1, 4, 4))


@pytest.mark.parametrize(
    ("writeback", "dtype", "total"),
    [
        ("nearest", torch.float32, 96),
        ("kahan", torch.bfloat16, 64),
        ("nearest", torch.bfloat16, 48),
        ("master", torch.bfloat16, 80),
    ],
)
def test_state_of_real_storage(writeback: str, dtype: torch.dtype, total: int) -> None:
    model = network().to(dtype)
    optimizer = lp.optim.SGD(model.parameters(), 0.1, 0.9, writeback=writeback)
    assert sum(training_state_bits(optimizer).values()) == total


def test_state_is_averaged_over_the_parameters() -> None:
    model = lp.convert(network(), lp.Plan.uniform("dfx8"))  # biases stay fp32
    optimizer = lp.optim.SGD(model.parameters(), 0.1, 0.9, writeback="kahan", format="plan")
    bits = training_state_bits(optimizer)
    weights, biases = 18 + 40, 2 + 5
    assert bits["parameter"] == pytest.approx((8 * weights + 32 * biases) / (weights + biases))
    assert set(bits) == {"parameter", "gradient", "compensation", "momentum_buffer"}
    assert lp.optim.SGD([nn.Parameter(torch.ones(1))], 0.1).state_dict()
