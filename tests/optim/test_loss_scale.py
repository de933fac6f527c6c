"""The scale of the loss: by the plan, with our optimizers, on the CPU."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import limprec as lp
from limprec.errors import OptimizerError
from limprec.plan import Plan, Scaling


def plan(loss: float | str) -> Plan:
    roles = {"weight": "fp16", "activation": "fp16", "error": "fp16", "gradient": "fp16"}
    return Plan(default=roles, optimizer={"parameter": "fp32"}, scaling=Scaling(loss=loss))  # type: ignore[arg-type]  # read when made


def test_what_the_plan_says() -> None:
    dynamic = lp.loss_scaler(plan("dynamic"), init_scale=2.0**8, growth_interval=1)
    assert (dynamic.is_enabled(), dynamic.get_scale()) == (True, 256)
    assert lp.loss_scaler(Plan.load("fp16")).get_scale() == 2.0**16
    fixed = lp.loss_scaler(plan(512))
    assert (fixed.is_enabled(), fixed.get_scale()) == (True, 512)
    for without in (plan(1), plan(1.0), None):
        off = lp.loss_scaler(without)
        assert not off.is_enabled()
        assert off.scale(torch.tensor(3.0)) == 3


@pytest.mark.parametrize("loss", ["dynamic", 2.0**8, 1])
def test_a_power_of_two_changes_no_step_until_a_gradient_overflows(loss: float | str) -> None:
    torch.manual_seed(0)
    model = nn.Linear(6, 3)
    plain, scaled = (lp.convert(nn.Linear(6, 3), plan(s)) for s in (1, loss))
    for other in (plain, scaled):
        other.load_state_dict(model.state_dict())
    optimizers = [lp.optim.SGD(m.parameters(), lr=0.5, format="plan") for m in (plain, scaled)]
    scaler = lp.loss_scaler(plan(loss), **({"growth_interval": 2} if loss == "dynamic" else {}))

    def step(factor: float) -> None:
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(1))
        y = torch.arange(8) % 3
        for m, optimizer in zip((plain, scaled), optimizers, strict=True):
            optimizer.zero_grad()
            value = F.cross_entropy(m(x), y) * factor
            if m is plain:
                value.backward()  # type: ignore[no-untyped-call]
                if math.isfinite(factor):
                    optimizer.step()
            else:
                scaler.scale(value).backward()  # type: ignore[no-untyped-call]
                if math.isfinite(factor) or scaler.is_enabled():
                    scaler.step(optimizer)
                    scaler.update()

    for factor in (1.0, 1.0, math.inf, 1.0):
        step(factor)
        # errors near fp16's 0 differ: that is what the scale is for
        assert torch.allclose(plain.weight, scaled.weight, atol=1e-4)
    assert scaler.get_scale() == {"dynamic": 2.0**16, 2.0**8: 256, 1: 1}[loss]


def test_small_gradients_need_it() -> None:
    grads = []
    for loss in (1, 2.0**14):
        torch.manual_seed(0)
        model = lp.convert(nn.Linear(4, 2), plan(loss))
        scaler = lp.loss_scaler(plan(loss))
        optimizer = lp.optim.SGD(model.parameters(), lr=1.0)
        scaler.scale(model(torch.ones(1, 4)).sum() * 2.0**-30).backward()  # type: ignore[no-untyped-call]
        scaler.unscale_(optimizer)
        grads.append(model.weight.grad)
    assert torch.equal(grads[0], torch.zeros(2, 4))  # type: ignore[arg-type]  # there is one
    assert torch.equal(grads[1], torch.full((2, 4), 2.0**-30))  # type: ignore[arg-type]


def test_released_gradients_cannot_be_unscaled() -> None:
    model = lp.convert(nn.Linear(4, 2), plan("dynamic"))
    optimizer = lp.optim.SGD(model.parameters(), lr=0.1)
    optimizer.release_gradients()
    scaler = lp.loss_scaler(plan("dynamic"))
    scaler.scale(torch.ones(()))
    with pytest.raises(OptimizerError, match="scaler"):
        scaler.step(optimizer)
