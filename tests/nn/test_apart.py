"""Gradients computed one after the other: PyTorch's bits, one widened operand at a time."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from held import held
from torch import Tensor, nn

import limprec as lp
from limprec.errors import ConversionError
from limprec.nn import apart, integers

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(12, 7), (5, 12)),
    "linear, no bias": (lambda: nn.Linear(12, 7, bias=False), (3, 5, 12)),
    "linear, batches": (lambda: nn.Linear(12, 7), (2, 3, 5, 12)),
    "linear, one output": (lambda: nn.Linear(12, 1), (5, 12)),
    "linear, one input": (lambda: nn.Linear(1, 6), (4, 5, 1)),
    "linear, large": (lambda: nn.Linear(300, 700), (4, 65, 300)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, 2, 1), (3, 4, 11)),
    "conv2d": (lambda: nn.Conv2d(16, 32, 3, padding=1), (4, 16, 9, 9)),
    "conv2d, no bias": (lambda: nn.Conv2d(16, 32, 3, 2, bias=False), (4, 16, 9, 9)),
    "conv2d, dilated": (lambda: nn.Conv2d(8, 4, (3, 2), dilation=(1, 2)), (2, 8, 9, 9)),
    "conv2d, depthwise": (lambda: nn.Conv2d(8, 8, 3, padding=1, groups=8), (2, 8, 9, 9)),
    "conv2d, same": (lambda: nn.Conv2d(4, 4, 3, padding="same"), (2, 4, 9, 9)),
    "conv2d, no batch": (lambda: nn.Conv2d(4, 4, 3), (4, 9, 9)),
    "conv3d": (lambda: nn.Conv3d(3, 4, 2), (2, 3, 5, 4, 6)),
}


class Inside(nn.Module):
    """A layer whose input is no leaf."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x.sin())
        return y


def bits(x: Tensor | None) -> Tensor:
    assert x is not None
    return x.detach().contiguous().view(torch.int32)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("compute", ["exact", "fast"])
@pytest.mark.parametrize("fmt", ["dfx8:stochastic", "e5m2"])
@pytest.mark.parametrize("name", LAYERS)
def test_numbers_are_those_of_the_carrier(name: str, fmt: str, compute: str, last: bool) -> None:
    torch.manual_seed(0)
    build, shape = LAYERS[name]
    model, x = Inside(build()), torch.randn(shape)
    if last and x.ndim == 4:
        x = x.to(memory_format=torch.channels_last)
    results = []
    for saved in ("carrier", "narrow"):
        one = lp.convert(copy.deepcopy(model), lp.Plan.uniform(fmt), compute=compute, saved=saved)
        given = x.detach().clone().requires_grad_()
        y = one(given)
        y.square().sum().backward()
        assert given.grad is not None
        results.append([y, given.grad, *(p.grad for p in one.parameters())])
    for a, b in zip(*results, strict=True):
        assert torch.equal(bits(a), bits(b))
        assert a.stride() == b.stride()


@pytest.mark.parametrize("frozen", ["weight", "bias", "both", "input"])
@pytest.mark.parametrize("name", ["linear", "conv2d", "conv2d, no bias"])
def test_what_needs_no_gradient_is_not_computed(name: str, frozen: str) -> None:
    torch.manual_seed(0)
    build, shape = LAYERS[name]
    model, x = Inside(build()), torch.randn(shape)
    for parameter, own in model.layer.named_parameters():
        own.requires_grad_(frozen not in (parameter, "both"))
    results = []
    for saved in ("carrier", "narrow"):
        one = lp.convert(copy.deepcopy(model), lp.Plan.uniform("dfx8"), saved=saved)
        given = x.clone().requires_grad_(frozen != "input")
        one(given).square().sum().backward()
        results.append([given.grad, *(p.grad for p in one.parameters())])
    for a, b in zip(*results, strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.equal(bits(a), bits(b))


@pytest.mark.parametrize("name", ["linear", "conv2d"])
def test_one_operand_is_there_at_a_time(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    build, shape = LAYERS[name]
    model = lp.convert(Inside(build()), lp.Plan.uniform("dfx8"), saved="narrow")
    y = model(torch.randn(shape, requires_grad=True))
    own, seen = apart.unpack, []

    def unpack(saved: Any) -> Tensor:
        assert all(other() is None for other in seen)
        tensor = own(saved)
        seen.append(weakref.ref(tensor))
        return tensor

    monkeypatch.setattr(apart, "unpack", unpack)
    y.sum().backward()
    assert len(seen) == 2


@pytest.mark.parametrize("name", ["linear", "conv2d"])
def test_second_derivatives(name: str) -> None:
    """Roundings of the way forward alone let them through."""
    torch.manual_seed(0)
    build, shape = LAYERS[name]
    model, x = Inside(build()), torch.randn(shape)
    plan = lp.Plan(default={"activation": "dfx8", "weight": "dfx8"})
    results = []
    for saved in ("carrier", "narrow"):
        one = lp.convert(copy.deepcopy(model), plan, saved=saved)
        given = x.clone().requires_grad_()
        (grad,) = torch.autograd.grad(one(given).square().sum(), given, create_graph=True)
        grad.square().sum().backward()
        results.append([given.grad, *(p.grad for p in one.parameters())])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


def test_convolutions_that_are_proven_run_on_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    own = integers.exact_conv
    monkeypatch.setattr(integers, "exact_conv", lambda *a: taken.append(a[0].shape) or own(*a))
    monkeypatch.setattr("limprec.nn.ways.has_fast_integers", lambda *_: True)
    x, plan = torch.randn(2, 16, 5, 5), lp.Plan.uniform("dfx8")
    wide = nn.Conv2d(16, 16, 3, bias=False)
    for layer, given, times in (
        (wide, plan, 1),
        (nn.Conv2d(16, 16, 3), plan, 0),  # where PyTorch adds a bias, nobody says
        (nn.Conv2d(16, 16, 9, bias=False, padding=4), plan, 0),  # 1296 terms
        (wide, lp.Plan.uniform("e4m3"), 0),
        (wide, lp.Plan(default={**plan.default, "accumulator": "e8m23"}), 0),
    ):
        taken.clear()
        model = lp.convert(copy.deepcopy(layer), given, saved="narrow")
        model(x)
        assert len(taken) == times


def test_a_parameter_waits_as_itself_and_so_does_the_input() -> None:
    for layer in (nn.Linear(6, 4), nn.Conv2d(6, 4, 1, bias=False)):
        model = lp.convert(layer, lp.Plan.uniform("dfx8"), saved="narrow")
        x = torch.randn(3, 6) if isinstance(layer, nn.Linear) else torch.randn(3, 6, 2, 2)
        memory = {t.data_ptr() for t in held(model(x.requires_grad_())) if t.numel() > 1}
        assert memory == {x.data_ptr(), layer.weight.data_ptr()}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("compute", ["exact", "real"])
def test_an_input_is_rounded_once_more_as_it_was(compute: str, bias: bool) -> None:
    """Whoever calls the model holds its input; what lies between its layers nobody does."""
    torch.manual_seed(0)
    layer, x = nn.Conv2d(3, 4, 3, bias=bias), torch.randn(2, 3, 6, 6)
    plan, results = lp.Plan.uniform("dfx8:stochastic"), []
    for model in (layer, nn.Sequential(nn.Identity(), layer)):
        one = lp.convert(copy.deepcopy(model), plan, compute=compute, saved="narrow")
        y = one(x)
        assert x.data_ptr() in {t.data_ptr() for t in held(y)}
        y.square().sum().backward()
        results.append([p.grad for p in one.parameters()])
        y = one(x.detach().requires_grad_() + 0)  # no leaf: nobody may hold it
        assert not any(t.shape == x.shape and t.is_floating_point() for t in held(y))
    for a, b in zip(*results, strict=True):
        assert torch.equal(bits(a), bits(b))


@pytest.mark.parametrize("which", ["weight", "input"])
@pytest.mark.parametrize("name", ["linear", "conv2d", "conv2d, no bias"])
def test_what_waits_as_itself_must_not_be_written_to(name: str, which: str) -> None:
    build, shape = LAYERS[name]
    model = lp.convert(build(), lp.Plan.uniform("dfx8"), saved="narrow")
    x = torch.randn(shape, requires_grad=True)
    y = model(x)
    with torch.no_grad():
        (model.weight if which == "weight" else x).add_(1)
    with pytest.raises((ConversionError, RuntimeError), match=r"in ?place"):
        y.sum().backward()


def test_a_weight_of_many_products_waits_as_codes() -> None:
    """Rounded again at every step of a sequence it would cost more than it saves."""
    model = lp.convert(nn.GRU(4, 6), lp.Plan.uniform("dfx8"), saved="narrow")
    y, _ = model(torch.randn(5, 2, 4))
    weights = {p.data_ptr() for p in model.parameters() if p.ndim == 2}
    assert not weights & {t.data_ptr() for t in held(y)}


def test_plain_functions_are_left_alone() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 6))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x.mT, self.weight) + F.linear(x[:, :, 0], self.weight[0]).sum()

    torch.manual_seed(0)
    model, x, plan = Mixed(), torch.randn(3, 6, 6), lp.Plan.uniform("dfx8")
    results = []
    for saved in ("carrier", "narrow"):
        one = lp.convert(copy.deepcopy(model), plan, example_inputs=x, saved=saved)
        given = x.clone().requires_grad_()
        one(given).square().sum().backward()
        results.append([given.grad, one.weight.grad])
    for a, b in zip(*results, strict=True):
        assert torch.equal(bits(a), bits(b))
