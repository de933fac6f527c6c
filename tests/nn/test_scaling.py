"""Scales of tensors: current ones, delayed ones and their state."""

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import limprec as lp
from limprec.errors import ConversionError
from limprec.kernels import DelayedScale
from limprec.plan import Plan, Scaling


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4)
    )


def batch(step: int) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(5, 1, 4, 4, generator=generator) * 4.0**-step


def plan(tensors: str, **roles: str) -> Plan:
    given = {"weight": "e4m3", "activation": "e4m3", "error": "e5m2:stochastic", **roles}
    return Plan(
        default={"gradient": "dfx8", **given},
        scaling=Scaling(tensors=tensors, history=3),  # type: ignore[arg-type]  # words of the test
    )


def step(model: nn.Module, x: Tensor) -> list[Tensor]:
    model.zero_grad()
    y = model(x)
    F.cross_entropy(y, torch.arange(5) % 4).backward()
    return [y.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_current_scale_is_a_format() -> None:
    scaled = plan("current")
    layers = scaled.resolve(network())
    assert {str(p.weight) for p in layers.values()} == {"de4m3"}
    assert {str(p.error) for p in layers.values()} == {"de5m2:stochastic"}
    assert {str(p.gradient) for p in layers.values()} == {"dfx8"}
    assert {str(p.bias) for p in layers.values()} == {"fp32"}
    named = Plan(
        default={
            "weight": "de4m3",
            "activation": "de4m3",
            "error": "de5m2:stochastic",
            "gradient": "dfx8",
        }
    )
    a, b = lp.convert(network(), scaled), lp.convert(network(), named)
    for i in range(3):
        assert same(step(a, batch(i)), step(b, batch(i)))


def test_without_a_scale_small_errors_vanish_and_with_one_they_do_not() -> None:
    lost, kept = (
        step(lp.convert(network(), plan(word, gradient="fp32")), batch(0) * 1e-4)[1:]
        for word in ("none", "current")
    )
    assert sum(float(g.abs().sum()) for g in lost[:1]) == 0
    assert all(float(g.abs().sum()) > 0 for g in kept)


@pytest.mark.parametrize("error", ["e5m2:stochastic", "fp16", "dfx8", "dfx8c0:stochastic"])
def test_a_delayed_scale_follows_the_forwards_before(error: str) -> None:
    model = lp.convert(nn.Linear(6, 4), plan("delayed", error=error), seed=5)
    seen: dict[str, DelayedScale] = {}
    for i in range(5):
        x = (torch.randn(3, 6) * 2.0 ** (3 * i % 7)).requires_grad_()
        upstream = torch.randn(3, 4) * 2.0 ** (-2 * i % 5)
        y = model(x)
        model.zero_grad()
        y.backward(upstream)
        layer = next(iter(plan("delayed", error=error).resolve(model).values()))
        key = lp.kernels.Key

        def late(role: str, tensor: Tensor, stream: int, number: int = i) -> Tensor:
            precision = layer[role]  # noqa: B023  # called at once
            scale = seen.setdefault(role, DelayedScale(precision, 3))
            return scale.quantize(tensor, key(5, stream, number + 1))  # noqa: B023

        qx, qw = late("activation", x, 0), late("weight", model.weight, 1)
        assert torch.equal(y, F.linear(qx, qw, model.bias))
        e = late("error", upstream, 2)
        assert torch.equal(x.grad, e @ qw)  # type: ignore[arg-type]  # it has one
        assert torch.equal(model.weight.grad, late("gradient", e.T @ qx, 3))  # type: ignore[arg-type]


def test_evaluation_leaves_the_histories() -> None:
    model = lp.convert(network(), plan("delayed"))
    step(model, batch(0))
    before = model.state_dict()
    model.eval()
    first = model(batch(1))
    F.cross_entropy(model(batch(1)), torch.arange(5) % 4).backward()
    assert torch.equal(first, model(batch(1)))
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_a_checkpoint_goes_on_bit_for_bit() -> None:
    model = lp.convert(network(), plan("delayed"), seed=3)
    for i in range(4):
        step(model, batch(i))
    saved = copy.deepcopy(model.state_dict())
    histories = {k: v for k, v in saved.items() if k.startswith("_limprec.scales.")}
    assert len(histories) == 3 * 4
    assert all(v.shape == (3,) and v.dtype == torch.float64 for v in histories.values())
    assert "_limprec.scales.0.activation.0" in histories
    other = lp.convert(network(), plan("delayed"), seed=8)
    other.load_state_dict(saved)
    again = other.state_dict()
    assert all(torch.equal(saved[k], again[k]) for k in saved)
    assert torch.equal(model.eval()(batch(9)), other.eval()(batch(9)))
    model.train()
    other.train()
    for i in range(4, 8):
        assert same(step(model, batch(i)), step(other, batch(i)))
    twin = copy.deepcopy(model)
    assert same(step(model, batch(8)), step(twin, batch(8)))
    fresh = lp.convert(network(), plan("delayed"))
    fresh.load_state_dict(network().state_dict())
    assert not any(k.startswith("_limprec.scales.") for k in fresh.state_dict())
    lp.convert(network(), plan("current")).load_state_dict(saved)
    short = Plan(default=plan("delayed").default, scaling=Scaling(tensors="delayed", history=5))
    with pytest.raises(ConversionError, match=r"remembers 3 forwards, the plan 5; set history = 3"):
        lp.convert(network(), short).load_state_dict(saved)


@pytest.mark.parametrize("reentrant", [False, True])
def test_what_is_recomputed_has_the_scales_that_it_had(reentrant: bool) -> None:
    class Recomputing(nn.Module):
        def __init__(self, recomputes: bool) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.inner = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
            self.last, self.recomputes = nn.Linear(6, 4), recomputes

        def forward(self, x: Tensor) -> Tensor:
            if self.recomputes:
                x = checkpoint(self.inner, x, use_reentrant=reentrant)
            else:
                x = self.inner(x)
            y: Tensor = self.last(x)
            return y

    plain, again = (lp.convert(Recomputing(r), plan("delayed")) for r in (False, True))
    for i in range(4):
        x = torch.randn(5, 6, generator=torch.Generator().manual_seed(i)) * 3.0**i
        assert same(step(plain, x.requires_grad_()), step(again, x.detach().requires_grad_()))
    a, b = plain.state_dict(), again.state_dict()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("tensors", ["none", "current", "delayed"])
def test_overflow_reaches_a_loss_scaler(tensors: str) -> None:
    model = lp.convert(network(), plan(tensors, error="fp16", gradient="fp16"))
    optimizer = lp.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    before = copy.deepcopy(model.state_dict())
    for i in range(2):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(batch(0)), torch.arange(5) % 4)
        scaler.scale(loss * (math.inf if tensors == "current" and i else 1.0)).backward()  # type: ignore[no-untyped-call]
        scaler.step(optimizer)
        scaler.update()
        if i == 0 and tensors == "none":  # fp16 ends at 65504
            assert scaler.get_scale() == 2.0**39
            assert all(torch.equal(before[n], p) for n, p in model.named_parameters())


@pytest.mark.parametrize("saved", ["carrier", "narrow"])
@pytest.mark.parametrize("compute", ["exact", "fast"])
@pytest.mark.parametrize("tensors", ["current", "delayed"])
@pytest.mark.usefixtures("bfloat16_machine")
def test_ways_of_computing(tensors: str, compute: str, saved: str) -> None:
    model = lp.convert(network(), plan(tensors), compute=compute, saved=saved)
    exact = lp.convert(network(), plan(tensors))
    for i in range(3):
        ours, theirs = step(model, batch(i)), step(exact, batch(i))
        if compute == "exact":
            assert same(ours, theirs)
        else:
            assert torch.allclose(ours[0], theirs[0], rtol=0.05, atol=0.05)


def test_integers_have_no_delayed_scales() -> None:
    late = Plan(default={"weight": "dfx8"}, scaling=Scaling(tensors="delayed"))
    with pytest.raises(ConversionError, match="delayed scales with compute='real'; use tensors ="):
        lp.convert(network(), late, compute="real")


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiled() -> None:
    torch.compiler.reset()
    eager, model = (lp.convert(network(), plan("current"), seed=2) for _ in range(2))
    compiled: Any = torch.compile(model, backend="aot_eager", fullgraph=True)
    for i in range(3):
        model.zero_grad()
        F.cross_entropy(compiled(batch(i)), torch.arange(5) % 4).backward()
        expected = step(eager, batch(i))[1:]
        assert same([p.grad for p in model.parameters() if p.grad is not None], expected)
    for whole in (True, False):
        late: Any = lp.convert(network(), plan("delayed"))
        late = torch.compile(late, backend="aot_eager", fullgraph=whole)
        with pytest.raises(Exception, match=r"delayed scales .*use tensors = 'current'"):
            late(batch(0))
