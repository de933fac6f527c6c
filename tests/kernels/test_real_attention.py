"""Attention on integers: what its two products and the softmax give one after the other."""

import math

import pytest
import torch
from torch import Tensor

from limprec.errors import KernelError
from limprec.formats import parse_precision
from limprec.kernels import Key
from limprec.kernels.matmul import real_attention as module
from limprec.kernels.matmul.real import Roundings, real_matmul
from limprec.kernels.matmul.real_attention import real_attention

FUTURE = torch.where(torch.ones(5, 7, dtype=torch.bool).tril(1), 0.0, -math.inf)


def roundings(name: str, stream: int) -> Roundings:
    precision = parse_precision(name)
    first, second, error = ((precision, Key(seed=3, stream=stream + i)) for i in range(3))
    return Roundings(first, second, error)


def inputs(lead: tuple[int, ...], *, split: bool = False) -> list[Tensor]:
    """Query, key and value; ``split`` lays them out as a projection does that heads share."""
    g = torch.Generator().manual_seed(1)
    made = []
    for rows, columns in ((5, 4), (7, 4), (7, 6)):
        x = torch.randn(*lead, rows, columns, generator=g)
        if split:
            x = x.transpose(-3, -2).contiguous().transpose(-3, -2)
        made.append(x.requires_grad_())
    return made


def composed(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, first: Roundings, second: Roundings
) -> Tensor:
    scores = real_matmul(q, k.mT, first)
    weights = torch.softmax(scores if mask is None else scores + mask, -1)
    return real_matmul(weights, v, second)


@pytest.mark.parametrize("name", ["dfx8", "dfx6:stochastic", "fx4.4"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("lead", "split"),
    [((), False), ((3,), False), ((2, 3), True), ((2, 2, 3), True), ((0, 2), False)],
)
@pytest.mark.parametrize("together", [1, 80, 1 << 19])
def test_equals_the_composition(
    name: str,
    masked: bool,
    lead: tuple[int, ...],
    split: bool,
    together: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_TOGETHER", together)
    how, mask = (roundings(name, 10), roundings(name, 20)), FUTURE if masked else None
    results = []
    for function in (real_attention, composed):
        given = inputs(lead, split=split)
        y = function(*given, mask, *how)
        results.append((y, *torch.autograd.grad(y.square().sum(), given)))
    assert all(map(torch.equal, *results))


@pytest.mark.parametrize("needed", range(3))
def test_one_gradient_alone(needed: int) -> None:
    how = roundings("dfx8", 10), roundings("dfx8", 20)
    results = []
    for function in (real_attention, composed):
        given = [x.detach().requires_grad_(i == needed) for i, x in enumerate(inputs((2,)))]
        y = function(*given, None, *how)
        results.append(torch.autograd.grad(y.square().sum(), given[needed])[0])
    assert torch.equal(*results)


def test_nan_makes_all_nan() -> None:
    q, k, v = (x.detach() for x in inputs((2,)))
    q[1, 2, 3] = math.nan
    how = roundings("dfx8", 10), roundings("dfx8", 20)
    assert real_attention(q, k, v, None, *how).isnan().all()


def test_what_does_not_fit() -> None:
    q, k, v = inputs((2,))
    how = roundings("dfx8", 10), roundings("dfx8", 20)
    with pytest.raises(KernelError, match="with the same leading axes"):
        real_attention(q, k[:1], v, None, *how)
    with pytest.raises(KernelError, match="give float32"):
        real_attention(q.bfloat16(), k.bfloat16(), v.bfloat16(), None, *how)
    with pytest.raises(KernelError, match="without an error precision"):
        real_attention(q, k, v, None, Roundings(how[0].activation, how[0].weight), how[1])
