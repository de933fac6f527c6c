"""Roundings are told of as they happen, with the bits that the layers go on with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import limprec as lp
from limprec.nn import RoundingEvent, watch_roundings, without_rounding


def converted(**roles: str) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    return lp.convert(model, lp.Plan.uniform("dfx6:stochastic", **roles), seed=1)  # type: ignore[arg-type]


def test_each_role_is_told_once_with_the_bits_that_count() -> None:
    model, x = converted(bias="bf16"), torch.randn(4, 6)
    events: list[RoundingEvent] = []
    stop = watch_roundings(model, events.append)
    errors: list[Tensor] = []
    y = model(x)
    y.register_hook(errors.append)
    y.square().sum().backward()
    stop()
    model(x)
    told = {(event.layer, event.role): event for event in events}
    assert len(told) == len(events) == 12
    assert {role for _, role in told} == {
        "activation", "weight", "bias", "error", "gradient", "bias gradient",
    }  # fmt: skip
    for name in ("0", "2"):
        layer = model.get_submodule(name)
        assert torch.equal(told[name, "gradient"].after, layer.weight.grad)
        assert torch.equal(told[name, "bias gradient"].after, layer.bias.grad)
        assert torch.equal(told[name, "weight"].before, layer.weight)
    assert torch.equal(told["2", "error"].after, errors[0])
    assert torch.equal(
        told["2", "error"].after.T @ told["2", "activation"].after, told["2", "gradient"].before
    )
    assert str(told["0", "error"].precision) == "dfx6:stochastic"
    assert not any(event.before.requires_grad or event.after.requires_grad for event in events)


def test_what_is_not_rounded_is_told_too_and_leaves_no_hook() -> None:
    model, x = converted(weight="fp32", gradient="fp32", error="fp32"), torch.randn(4, 6)
    events: list[RoundingEvent] = []
    stop = watch_roundings(model, events.append)
    model(x).sum().backward()
    stop()
    told = {(event.layer, event.role): event for event in events}
    assert torch.equal(told["0", "weight"].before, told["0", "weight"].after)
    assert torch.equal(told["0", "gradient"].after, model.get_submodule("0").weight.grad)
    count = len(events)
    model(x).sum().backward()
    assert len(events) == count


def test_without_rounding_computes_in_the_carrier() -> None:
    model, x = converted(), torch.randn(4, 6)
    before = model._limprec.model.random.step  # type: ignore[union-attr]
    with without_rounding(model):
        y = model(x)
    state = model._limprec.model  # type: ignore[union-attr]
    assert state.random.step == before
    assert state.rounds
    assert not torch.equal(model(x), y)
    assert torch.equal(lp.restore(model)(x), y)


def test_layers_are_called_by_their_names_in_the_model_that_is_watched() -> None:
    whole = nn.Sequential(converted(), nn.Linear(3, 2))
    names: set[str] = set()
    stop = watch_roundings(whole, lambda event: names.add(event.layer))
    whole(torch.randn(4, 6))
    stop()
    assert names == {"0.0", "0.2"}
