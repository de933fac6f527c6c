"""Delayed scales: the history rules, and what of it must survive a checkpoint."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

import limprec as lp
from limprec.errors import KernelError
from limprec.formats import Rounding, parse_format
from limprec.kernels import Key, reference
from limprec.kernels.scales import DelayedScale


def given(x: torch.Tensor, name: str, amax: float) -> torch.Tensor:
    return reference.quantize(x, parse_format(name), Rounding.NEAREST, None, amax=amax)


def series(count: int = 6) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return [torch.randn(4, 8, generator=g) * 4.0**k for k in (0, 2, 1, -3, -2, 5)[:count]]


def test_the_scale_follows_the_tensors_before():
    xs = series()
    scale = DelayedScale("dfx8", length=2)
    tops = [float(x.abs().max()) for x in xs]
    follows = [tops[0], tops[0], *(max(a, b) for a, b in pairwise(tops))]
    for x, amax in zip(xs, follows, strict=False):
        y = scale.quantize(x)
        assert torch.equal(y, given(x, "dfx8", amax))
    assert scale.history is not None
    assert scale.history.tolist() == [tops[-1], tops[-2]]


def test_what_lies_beyond_the_scale_saturates():
    scale = DelayedScale("dfx8")
    scale.quantize(torch.tensor([1.0, 0.5]))
    y = scale.quantize(torch.tensor([100.0, -math.inf, 0.3, math.nan]))
    assert y[:3].tolist() == [127 / 64, -127 / 64, 19 / 64]
    assert y[3].isnan()
    assert scale.quantize(torch.tensor([0.3])).tolist() == [19 / 64]  # the infinity left no trace


def test_a_margin_leaves_headroom():
    scale = DelayedScale("dfx8", margin=4)
    scale.quantize(torch.tensor([1.0]))
    assert scale.quantize(torch.tensor([3.7, 0.01])).tolist() == [3.6875, 0.0]


def test_without_a_history_the_tensor_at_hand_sets_the_scale():
    scale = DelayedScale("dfx8")
    assert scale.quantize(torch.zeros(3)).tolist() == [0.0] * 3
    x = torch.tensor([0.001, 1e-5])
    assert torch.equal(scale.quantize(x), given(x, "dfx8", 0.001))


@pytest.mark.parametrize("name", ["dfx8c0", "int8sc1", "mxfp8", "nvfp4"])
def test_channels_have_their_own_history(name):
    if name == "mxfp8":
        with pytest.raises(KernelError, match="mxfp8_e4m3 scales blocks; use a scale per tensor"):
            DelayedScale("mxfp8_e4m3")
        return
    fmt, scale = parse_format(name), DelayedScale(name, length=3)
    xs = series(3)
    for x in xs:
        last = scale.quantize(x)
    tops = [x.abs().amax() if name == "nvfp4" else reference.amax(x, fmt) for x in xs[:2]]
    amax = torch.stack(tops).amax(dim=0)
    assert torch.equal(last, reference.quantize(xs[2], fmt, Rounding.NEAREST, None, amax=amax))


def test_the_state_is_all_there_is():
    xs = series()
    one = DelayedScale("dfx6c0:stochastic", length=3)
    for step, x in enumerate(xs[:3]):
        one.quantize(x, Key(5, step=step))
    state = one.state_dict()
    other = DelayedScale("dfx6c0:stochastic", length=3)
    other.load_state_dict(state)
    for step, x in enumerate(xs[3:], 3):
        assert torch.equal(one.quantize(x, Key(5, step=step)), other.quantize(x, Key(5, step=step)))
    other.load_state_dict(state)  # the state was not written on meanwhile
    assert torch.equal(other.state_dict()["history"], state["history"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DelayedScale("e4m3"), "e4m3 has no scale that follows amax; use e.g. dfx8"),
        (lambda: DelayedScale("int8"), "int8 has no scale that follows amax"),
        (lambda: DelayedScale("dfx8b32"), "dfx8b32 scales blocks"),
        (lambda: DelayedScale("dfx8", length=0), "length 0; give an integer from 1 up"),
        (lambda: DelayedScale("dfx8", margin=0), "margin 0; give a number over 0"),
        (
            lambda: DelayedScale("dfx8").load_state_dict(DelayedScale("dfx6").state_dict()),
            "the state has format 'dfx6', this one 'dfx8'; make the DelayedScale as it was",
        ),
    ],
)
def test_errors_name_the_value_and_the_remedy(make, message):
    with pytest.raises(KernelError) as caught:
        make()
    assert message in str(caught.value)


def test_another_number_of_channels():
    scale = DelayedScale("dfx8c0")
    scale.quantize(torch.ones(3, 2))
    with pytest.raises(KernelError, match=r"groups \(4,\) after \(3,\); keep one DelayedScale"):
        scale.quantize(torch.ones(4, 2))
    assert repr(scale) == "DelayedScale('dfx8c0', length=16, margin=1.0)"


def test_quantize_takes_a_given_amax():
    x = torch.tensor([0.3, -0.9, 1.7, 5.0])
    y = lp.quantize(x, "dfx8", amax=1.9)
    assert y.tolist()[2:] == [1.703125, 127 / 64]  # LSB 2^-6; 5 saturates
    assert torch.equal(lp.quantize(x, "dfx8", amax=5.0), lp.quantize(x, "dfx8"))
    with pytest.raises(KernelError, match="amax with e4m3; give it for a format with scales"):
        lp.quantize(x, "e4m3", amax=1.0)
    with pytest.raises(KernelError, match="amax with gradient"):
        lp.quantize(x, "dfx8", amax=1.0, gradient="clipped")


@pytest.mark.parametrize("fmt", ["mxfp8_e4m3", "dfx8b32", "int8s"])
def test_kahan_works_in_formats_with_scales(fmt):
    p = torch.nn.Parameter(torch.linspace(-1, 1, 64))
    before = p.detach().clone()
    optimizer = lp.optim.SGD([p], 1e-3, writeback="kahan", format=fmt, compensation_format="fp32")
    for _ in range(100):
        p.grad = torch.ones(64)
        optimizer.step()
    total = p.detach() + optimizer.state[p]["compensation"]
    assert float((total - (before - 0.1)).abs().max()) < 1e-5
