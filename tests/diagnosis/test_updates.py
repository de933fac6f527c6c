"""The meter of lost updates against counts by hand."""

import pytest
import torch
from torch import nn

import limprec as lp
from limprec.diagnosis import UpdateMeter


def one_step(writeback: str, grads: list[float], **options: object) -> UpdateMeter:
    p = nn.Parameter(torch.ones(len(grads)))
    optimizer = lp.optim.SGD([p], 1.0, writeback=writeback, format="bf16", **options)  # type: ignore[arg-type]
    p.grad = torch.tensor(grads)
    with UpdateMeter(optimizer, movement=True) as meter:
        optimizer.step()
    optimizer.step()  # not counted any more
    return meter


def test_nearest_loses_what_is_under_half_an_ulp() -> None:
    meter = one_step("nearest", [0.0, 2.0**-10, -(2.0**-7), 1e-30])
    assert (meter.nonzero, meter.lost) == (3, 2)
    assert meter.share == 2 / 3
    total = 2.0**-20 + 2.0**-14
    assert meter.movement_lost == pytest.approx(1 - 2.0**-14 / total)


def test_kahan_keeps_it_in_the_compensation() -> None:
    meter = one_step("kahan", [0.0, 2.0**-10, -(2.0**-7), 1e-45])
    assert (meter.nonzero, meter.lost) == (3, 1)  # 1e-45 is nothing even to the compensation


def test_master_loses_what_float32_loses() -> None:
    meter = one_step("master", [2.0**-10, 2.0**-30])
    assert (meter.nonzero, meter.lost) == (2, 1)


def test_nothing_counted_is_no_share() -> None:
    meter = UpdateMeter(lp.optim.SGD([nn.Parameter(torch.ones(1))], 1.0))
    assert meter.share is None
    assert meter.movement_lost is None
    meter.close()
    meter.close()
