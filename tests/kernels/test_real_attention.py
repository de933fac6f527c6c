"""Attention on integers: what its two products and the softmax give one after the other."""

import math

import pytest
import torch
from torch import Tensor

from limprec.errors import KernelError
from limprec.formats import parse_precision
from limprec.kernels import Key
from limprec.kernels.matmul import bands, code_products
from limprec.kernels.matmul.real import Roundings, real_matmul
from limprec.kernels.matmul.real_attention import real_attention
from limprec.kernels.native import stored


def roundings(name: str, stream: int) -> Roundings:
    precision = parse_precision(name)
    first, second, error = ((precision, Key(seed=3, stream=stream + i)) for i in range(3))
    return Roundings(first, second, error)


def both(name: str) -> tuple[Roundings, Roundings]:
    return roundings(name, 10), roundings(name, 20)


def inputs(
    lead: tuple[int, ...], *, split: bool = False, sizes: tuple[int, int] = (5, 7)
) -> list[Tensor]:
    """Query, key and value; ``split`` lays them out as a projection does that heads share."""
    g = torch.Generator().manual_seed(1)
    made = []
    for rows, columns in ((sizes[0], 4), (sizes[1], 4), (sizes[1], 6)):
        x = torch.randn(*lead, rows, columns, generator=g)
        if split:
            x = x.transpose(-3, -2).contiguous().transpose(-3, -2)
        made.append(x.requires_grad_())
    return made


def composed(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    causal: bool,
    first: Roundings,
    second: Roundings,
) -> Tensor:
    scores = real_matmul(q * scale, k.mT, first)
    if causal:
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
        scores = scores + torch.where(seen, 0.0, -math.inf)
    return real_matmul(torch.softmax(scores, -1), v, second)


def agree(
    given: list[Tensor], scale: float, causal: bool, how: tuple[Roundings, Roundings]
) -> bool:
    results = []
    for function in (real_attention, composed):
        y = function(*given, scale, causal, *how)
        results.append((y, *torch.autograd.grad(y.square().sum(), given)))
    return all(map(torch.equal, *results))


@pytest.fixture(params=["native", "plain"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the kernels of this CPU, and with what takes their place elsewhere."""
    if request.param == "plain":
        monkeypatch.setattr(code_products, "has_native", lambda name: False)
        monkeypatch.setattr(stored, "can_store_part", lambda *_: False)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("name", ["dfx8", "dfx6:stochastic", "dfx8:stochastic16", "fx4.4", "int8s"])
@pytest.mark.parametrize(("scale", "causal"), [(0.5, False), (0.5, True), (0.3, True)])
@pytest.mark.parametrize(
    ("lead", "split"),
    [((), False), ((3,), False), ((2, 3), True), ((2, 2, 3), True), ((0, 2), False)],
)
@pytest.mark.parametrize("together", [1, 80, 1 << 19])
def test_equals_the_composition(
    name: str,
    scale: float,
    causal: bool,
    lead: tuple[int, ...],
    split: bool,
    together: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bands, "_TOGETHER", together)
    assert agree(inputs(lead, split=split), scale, causal, both(name))


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("name", ["dfx8", "dfx8:stochastic", "int8s"])
@pytest.mark.parametrize("sizes", [(64, 64), (65, 65), (50, 23), (23, 50), (1, 5), (5, 1), (6, 0)])
@pytest.mark.parametrize("height", [16, 32])
def test_causal_in_bands(
    name: str, sizes: tuple[int, int], height: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bands, "_LEAST_ROWS", height)
    monkeypatch.setattr(bands, "_MOST_BANDS", 100)
    monkeypatch.setattr(bands, "_TOGETHER", 400)
    assert agree(inputs((2, 3), split=True, sizes=sizes), 0.5, True, both(name))


def test_bands_hold_all_that_is_seen() -> None:
    for rows, columns in ((256, 256), (1000, 1000), (65, 300), (300, 65), (64, 64)):
        whole = torch.zeros(rows, columns, dtype=torch.bool)
        made = bands.bands_of(rows, columns, True)
        for band in made:
            band.of(whole)[:] = True
        assert [b.start for b in made] == [0, *(b.stop for b in made[:-1])]
        assert made[-1].stop == rows
        assert len(made) <= 8
        assert all(b.width % 16 == 0 or b is made[-1] or b.width == columns for b in made)
        assert not (torch.ones(rows, columns, dtype=torch.bool).tril() & ~whole).any()


@pytest.mark.parametrize("needed", range(3))
def test_one_gradient_alone(needed: int) -> None:
    results = []
    for function in (real_attention, composed):
        given = [x.detach().requires_grad_(i == needed) for i, x in enumerate(inputs((2,)))]
        y = function(*given, 0.5, False, *both("dfx8"))
        results.append(torch.autograd.grad(y.square().sum(), given[needed])[0])
    assert torch.equal(*results)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_makes_all_nan(causal: bool, bad: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bands, "_LEAST_ROWS", 2)
    for place in range(3):
        given = inputs((2,))
        with torch.no_grad():
            given[place][1, 2, 3] = bad
        nans = []
        for function in (real_attention, composed):
            y = function(*given, 0.5, causal, *both("dfx8"))
            assert y.isnan().all()
            made = torch.autograd.grad(y, given, torch.ones_like(y))
            nans.append([bool(x.isnan().all()) for x in made])
            assert nans[-1] == [bool(x.isnan().any()) for x in made]
        assert nans[0] == nans[1]


def test_heads_of_a_position_come_side_by_side() -> None:
    given = inputs((2, 3), split=True)
    y = real_attention(*given, 0.5, True, *both("dfx8"))
    grads = torch.autograd.grad(y, given, torch.ones_like(y))
    assert all(x.transpose(1, 2).is_contiguous() for x in (y, *grads))


def test_what_does_not_fit() -> None:
    q, k, v = inputs((2,))
    how = both("dfx8")
    with pytest.raises(KernelError, match="with the same leading axes"):
        real_attention(q, k[:1], v, 0.5, False, *how)
    with pytest.raises(KernelError, match="give float32"):
        real_attention(q.bfloat16(), k.bfloat16(), v.bfloat16(), 0.5, False, *how)
    with pytest.raises(KernelError, match="without an error precision"):
        real_attention(q, k, v, 0.5, False, Roundings(how[0].activation, how[0].weight), how[1])
