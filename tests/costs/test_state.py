"""Bits of training state of real optimizers, against totals worked out by hand."""

import pytest
import torch
from torch import nn

import limprec as lp
from limprec.costs import training_state_bits


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 5))


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
