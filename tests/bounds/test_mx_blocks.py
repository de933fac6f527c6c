"""MX blocks: what the right class's block deletes and clips, against the kernels."""

from __future__ import annotations

import pytest
import torch

import limprec as lp
from limprec.bounds import guideline
from limprec.bounds.blocks import ORDER
from limprec.formats import MX_ELEMENTS


def start(classes: int, right: int = 0) -> torch.Tensor:
    delta = torch.full((classes,), 1 / classes, dtype=torch.float64)
    delta[right] -= 1
    return delta


def losses(name: str, classes: int, rounding: str) -> tuple[float, float]:
    """Return the share of wrong classes that become 0, and the worst clip within a binade."""
    rounded = lp.quantize(start(classes), name, rounding)
    starved = (rounded[1:] == 0).double().mean().item()
    x = torch.linspace(0.5, 0.999, 400, dtype=torch.float64)[:, None]
    clip = (1 - lp.quantize(x, name, "toward_zero") / x)[x > 0.99].max().item()
    return starved, clip


@pytest.mark.parametrize("rounding", ["nearest", "toward_zero"])
@pytest.mark.parametrize("classes", [2, 3, 20, 32, 40, 63, 64, 100, 300, 480, 1000, 20000])
def test_the_advice_against_the_kernels(classes, rounding):
    answer = guideline(classes, family="mx", rounding=rounding)
    measured = {name: max(losses(name, classes, rounding)) for name in ORDER}
    for chosen, share in zip(answer.formats, (0.5, 1 / 16), strict=True):
        within = [name for name in ORDER if measured[name] <= share + 1e-6]
        wanted = within[0] if within else min(ORDER, key=lambda n: round(measured[n], 3))
        assert ORDER.index(chosen) >= ORDER.index(wanted)
        assert measured[chosen] == pytest.approx(measured[wanted], abs=0.1)
        if within:
            assert chosen in (wanted, answer.formats[0])
    assert answer.least == MX_ELEMENTS[answer.formats[0]].bits
    assert answer.advised == MX_ELEMENTS[answer.formats[1]].bits
    assert answer.unit == "element bits"


def test_more_classes_need_no_more_bits():
    """Blocks take the classes out of it: a share 31/(C-1) is lost at most."""
    for classes in (600, 10**4, 10**6, 10**9):
        for rounding in ("nearest", "stochastic"):
            answer = guideline(classes, family="mx", rounding=rounding)
            assert answer.formats == ("mxfp4_e2m1", "mxfp6_e2m3")


@pytest.mark.parametrize("name", ["mxfp4_e2m1", "mxfp6_e2m3", "mxint8", "mxfp8_e4m3"])
@pytest.mark.parametrize("classes", [10, 64, 1000])
def test_stochastic_noise_is_within_its_bound(name, classes):
    from limprec.bounds.blocks import _noise

    torch.manual_seed(0)
    for delta in (start(classes), torch.randn(classes, dtype=torch.float64)):
        many = delta.expand(500, classes).contiguous()
        noise = (lp.quantize(many, name, "stochastic", seed=1) - many).square().sum(1).mean()
        assert noise <= float(_noise(name, min(32, classes))) * delta.square().sum()


def test_blocks_of_another_length():
    short, long = (guideline(100, family="mx", block=n) for n in (4, 1024))
    assert short.formats == ("mxfp4_e2m1b4", "mxfp6_e2m3b4")
    assert long.formats[0] == "mxfp6_e2m3b1024"
    assert guideline(100, family="mx").block == 32
