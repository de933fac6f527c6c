"""The frozen-parameter report names planted reasons."""

import torch
from torch import nn

import limprec as lp
from limprec.diagnosis import FrozenMeter


def test_each_reason_is_told_from_the_others() -> None:
    model = nn.ParameterDict(
        {
            "small": nn.Parameter(torch.ones(4)),
            "silent": nn.Parameter(torch.ones(3)),
            "full": nn.Parameter(torch.full((2,), 448.0)),
            "moving": nn.Parameter(torch.ones(5)),
        }
    )
    optimizer = lp.optim.SGD(model.parameters(), 1.0, writeback="nearest", format="e4m3")
    grads = {"small": 1e-3, "silent": 0.0, "full": -64.0, "moving": 0.5}
    with FrozenMeter(optimizer, model) as meter:
        for _ in range(2):
            for name, p in model.items():
                p.grad = torch.full_like(p, grads[name])
            optimizer.step()
    found = {one.name: one for one in meter.parameters()}
    assert found["small"].too_small == 4
    assert found["silent"].no_gradient == 3
    assert found["full"].saturated == 2
    assert found["moving"].moved == 5
    table = meter.table()
    assert "moving" not in table
    assert "updates under half an ulp are lost: use writeback='kahan'" in table
    assert "saturated: give the format more range" in table
    assert "no gradient arrives" in table


def test_with_kahan_small_updates_are_pending_and_then_arrive() -> None:
    p = nn.Parameter(torch.ones(4).bfloat16())
    optimizer = lp.optim.SGD([("w", p)], 1.0, writeback="kahan")
    meter = FrozenMeter(optimizer)
    for expected in ("pending", "moved"):
        for _ in range(4):
            p.grad = torch.full_like(p, 2.0**-10)
            optimizer.step()
            if expected == "pending":
                break
        assert getattr(meter.parameters()[0], expected) == 4
    assert meter.parameters()[0].name == "w"
    meter.close()
    assert meter.table() == "every element of every parameter has moved"
