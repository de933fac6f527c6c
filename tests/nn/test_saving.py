"""What autograd holds between the passes: shapes for pooling, codes for split heads."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from held import held
from torch import Tensor, nn

import limprec as lp
from limprec.lab.models import GPT
from limprec.nn.handlers import _POOLS
from limprec.nn.saving import saving_shapes

POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "max": lambda x: F.max_pool2d(x, 2),
    "max, overlapping": lambda x: torch.max_pool2d(x, 3, 2, 1, ceil_mode=True),
    "max, 1d": lambda x: F.max_pool1d(x.flatten(2), 3, 2),
    "max, 3d": lambda x: F.max_pool3d(x.contiguous(), (1, 2, 2)),
    "mean": lambda x: F.avg_pool2d(x, 3, 2, count_include_pad=False),
    "adaptive mean": lambda x: F.adaptive_avg_pool2d(x, (3, 2)),
    "adaptive max": lambda x: F.adaptive_max_pool2d(x, 3),
}


class Pool(nn.Module):
    """A layer whose result only a pooling function asks for."""

    def __init__(self, pool: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.pool = nn.Conv2d(3, 4, 1), pool

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(F.relu(self.conv(x)))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", POOLS)
def test_pooling_keeps_no_input_and_gives_the_bits_of_torch(
    name: str, layout: torch.memory_format
) -> None:
    torch.manual_seed(0)
    plain = Pool(POOLS[name])
    model = lp.convert(copy.deepcopy(plain), lp.Plan(default={"bias": "bf16"}))
    plain.conv.bias.data = lp.quantize(plain.conv.bias.data, "bf16")  # type: ignore[union-attr]
    given = torch.randn(2, 3, 9, 11).to(memory_format=layout)
    results = []
    for one in (plain, model):
        x = given.detach().requires_grad_()
        y = one(x)
        (grad,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(grad.sin().sum(), x)
        results.append((y.detach(), grad.detach(), second))
        assert grad.stride() == x.stride()
    assert all(map(torch.equal, *results))
    large = 2 * 4 * 9 * 11
    assert any(t.numel() == large and t.is_floating_point() for t in held(plain(given)))
    kept = list(held(model(given)))
    assert not any(t.numel() == large and t.is_floating_point() for t in kept)
    assert all(t.dtype != torch.int64 for t in kept)


@pytest.mark.parametrize(("size", "dtype"), [(181, torch.int16), (182, torch.int32)])
def test_indices_take_what_they_need(size: int, dtype: torch.dtype) -> None:
    """The last place of a plane of 181^2 is an int16, of 182^2 it is not."""
    x = torch.zeros(1, size, size, requires_grad=True)
    with torch.no_grad():
        x[0, -1, -1] = 1
    with saving_shapes(x, 2):
        y = F.max_pool2d(x, size)
    assert [t.dtype for t in held(y) if not t.is_floating_point()] == [dtype]
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.nonzero().tolist() == [[0, size - 1, size - 1]]


def test_pooling_leaves_it_to_other_hooks() -> None:
    x = torch.randn(1, 4, 4, requires_grad=True)
    seen: list[Tensor] = []
    with (
        torch.autograd.graph.saved_tensors_hooks(lambda t: seen.append(t) or t, lambda t: t),
        saving_shapes(x, 2),
    ):
        F.max_pool2d(x, 2)
    assert [t.dtype for t in seen] == [torch.float32, torch.int64]
    assert {F.max_pool2d, torch.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d} <= set(_POOLS)


def test_heads_that_were_split_off_are_kept_as_codes() -> None:
    """Queries, keys and values are views that ``torch.matmul`` copies; the codes must do for it."""
    torch.manual_seed(0)
    model, x = GPT(11, 6, 1, 16, 4), torch.randint(0, 11, (3, 6))
    converted = [
        lp.convert(copy.deepcopy(model), lp.Plan.uniform("dfx8:stochastic"), saved=saved)
        for saved in ("carrier", "narrow")
    ]
    for one in converted:
        one(x).square().sum().backward()
    for a, b in zip(*(one.parameters() for one in converted), strict=True):
        assert torch.equal(a.grad, b.grad)  # type: ignore[arg-type]
    wide, narrow = ([t for t in held(one(x)) if t.ndim == 3] for one in converted)
    heads = {(12, 6, 4), (12, 4, 6)}
    assert any(tuple(t.shape) in heads and t.is_floating_point() for t in wide)
    assert not any(tuple(t.shape) in heads and t.is_floating_point() for t in narrow)


@pytest.mark.parametrize("name", ["dfx8:stochastic", "e5m2", "dfx8b4"])
@pytest.mark.parametrize("function", [torch.tanh, torch.sigmoid, lambda x: x.softmax(-1)])
def test_what_autograd_holds_anyway_is_rounded_again(
    name: str, function: Callable[[Tensor], Tensor]
) -> None:
    class Between(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.second(function(self.first(x)))
            return y

    torch.manual_seed(0)
    model, x = Between(), torch.randn(7, 6)
    plan = lp.Plan.uniform(name)
    converted = [
        lp.convert(copy.deepcopy(model), plan, saved=saved) for saved in ("carrier", "narrow")
    ]
    for one in converted:
        one(x).square().sum().backward()
    for a, b in zip(*(one.parameters() for one in converted), strict=True):
        assert torch.equal(a.grad, b.grad)  # type: ignore[arg-type]
    kept = [t for t in held(converted[1](x)) if t.shape == (7, 8)]
    assert len({t.data_ptr() for t in kept}) == 1
    assert {t.dtype for t in kept} == {torch.float32}


@pytest.mark.parametrize("shape", ["matmul", "broadcast"])
def test_products_of_batches_written_by_hand(shape: str) -> None:
    class Products(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            heads = self.linear(x).unflatten(-1, (2, 3)).transpose(1, 2)
            other = heads if shape == "matmul" else heads[:, :1]
            return (heads @ other.transpose(-2, -1)) @ heads

    torch.manual_seed(0)
    x, model = torch.randn(2, 5, 6), Products()
    gradients = []
    for saved in ("carrier", "narrow"):
        given = x.clone().requires_grad_()
        one = lp.convert(copy.deepcopy(model), lp.Plan.uniform("dfx8"), saved=saved)
        one(given).square().sum().backward()
        gradients.append(given.grad)
    assert torch.equal(*gradients)  # type: ignore[arg-type]
