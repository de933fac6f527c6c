"""Conversion against the reference composed by hand, and what it must leave alone."""

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import limprec as lp
from limprec.errors import ConversionError, FormatError
from limprec.formats import Precision, parse_precision
from limprec.nn.state import STREAMS, STREAMS_PER_LAYER
from limprec.nn.tags import plan_of
from limprec.plan import FP32

PLANS = [
    "dfx8",
    "dfx8:stochastic",
    "e5m2",
    "e4m3:stochastic",
    "fx8.4:toward_zero",
    "fp32",
]


def rounded(x: Tensor, precision: Precision, layer: int, stream: str, seed: int) -> Tensor:
    number = layer * STREAMS_PER_LAYER + STREAMS[stream]
    return lp.quantize(x.detach(), precision, seed=seed, stream=number, step=1)


def layers() -> Iterator[tuple[nn.Module, Tensor, Any]]:
    torch.manual_seed(0)
    yield nn.Linear(7, 5), torch.randn(3, 4, 7), F.linear
    yield nn.Linear(7, 5, bias=False), torch.randn(6, 7), F.linear
    for options in (
        {"stride": 2, "padding": 1},
        {"groups": 2, "dilation": 2, "bias": False},
        {"padding": "same", "padding_mode": "circular"},
    ):
        conv = nn.Conv2d(4, 6, 3, **options)  # type: ignore[arg-type]
        yield conv, torch.randn(2, 4, 9, 9), copy.deepcopy(conv)._conv_forward


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("index", range(5))
def test_a_layer_is_the_op_between_rounded_operands_bit_for_bit(name: str, index: int) -> None:
    layer, x, op = list(layers())[index]
    plan = lp.Plan.uniform(
        name, activation="e4m3", bias="bf16", gradient="dfx6:stochastic", error="dfx7:stochastic"
    )
    seed = 11
    lp.convert(layer, plan, seed=seed)
    x = x.requires_grad_()
    y = layer(x)
    upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(4))
    y.backward(upstream)

    roles = next(iter(plan.resolve(layer).values()))
    qx = rounded(x, roles.activation, 0, "activation", seed).requires_grad_()
    qw = rounded(layer.weight, roles.weight, 0, "weight", seed).requires_grad_()  # type: ignore[arg-type]
    qb = None
    if layer.bias is not None:
        qb = rounded(layer.bias, roles.bias, 0, "bias", seed).requires_grad_()  # type: ignore[arg-type]
    expected = op(qx, qw, qb)
    assert torch.equal(y, expected)
    expected.backward(rounded(upstream, roles.error, 0, "error", seed))
    assert x.grad is not None
    assert qx.grad is not None
    assert qw.grad is not None
    assert torch.equal(x.grad, qx.grad)
    assert torch.equal(
        layer.weight.grad,  # type: ignore[arg-type]
        rounded(qw.grad, roles.gradient, 0, "gradient", seed),
    )
    if qb is not None:
        assert qb.grad is not None
        assert torch.equal(
            layer.bias.grad,  # type: ignore[arg-type,union-attr]
            rounded(qb.grad, roles.gradient, 0, "bias gradient", seed),
        )


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 10)
    )


def batch() -> Tensor:
    return torch.randn(5, 1, 4, 4, generator=torch.Generator().manual_seed(3))


def gradients(model: nn.Module, x: Tensor) -> list[Tensor]:
    model.zero_grad()
    F.cross_entropy(model(x), torch.arange(5)).backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def test_an_fp32_plan_changes_nothing() -> None:
    plain, converted = network(), lp.convert(network(), lp.Plan.uniform("fp32"))
    assert torch.equal(plain(batch()), converted(batch()))
    for a, b in zip(gradients(plain, batch()), gradients(converted, batch()), strict=True):
        assert torch.equal(a, b)


def test_convert_keeps_parameters_keys_and_classes() -> None:
    model = network()
    parameters, keys = list(model.parameters()), list(model.state_dict())
    assert lp.convert(model, lp.Plan.load("dfx8")) is model
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    assert list(model.state_dict()) == [*keys, "_limprec.random"]
    assert isinstance(model[0], nn.Conv2d)
    assert len(model) == 5
    assert "error=dfx8:stochastic" in repr(model[4])


def test_restore_undoes_it_and_keeps_what_was_learnt() -> None:
    model = lp.convert(network(), lp.Plan.load("dfx8"))
    x = batch()
    with torch.no_grad():
        model[0].weight.add_(1)
    assert lp.restore(model) is model
    plain = network()
    plain.load_state_dict(model.state_dict())
    assert torch.equal(model(x), plain(x))
    assert repr(model) == repr(plain)
    assert all(plan_of(p) is None for p in model.parameters())
    assert not hasattr(model[0], "_limprec")
    lp.convert(model, lp.Plan.load("dfx8"))  # and it can be converted again


def test_checkpoints_of_the_plain_model_load_and_ours_carry_the_random_state() -> None:
    plain = network().state_dict()
    model = lp.convert(network(), lp.Plan.load("dfx8"), seed=3)
    model.load_state_dict(plain)
    model(batch())
    model(batch())
    saved = model.state_dict()
    assert saved["_limprec.random"].tolist() == [3, 2]
    other = lp.convert(network(), lp.Plan.load("dfx8"), seed=9)
    other.load_state_dict(saved)
    for a, b in zip(gradients(model, batch()), gradients(other, batch()), strict=True):
        assert torch.equal(a, b)
    outer = nn.ModuleDict({"inner": lp.convert(network(), lp.Plan.load("dfx8"))})
    assert "inner._limprec.random" in outer.state_dict()
    outer.load_state_dict(outer.state_dict())


def test_rounding_depends_on_seed_and_step_and_evaluation_leaves_it() -> None:
    plan = lp.Plan.uniform("dfx4:stochastic")
    first = lp.convert(network(), plan, seed=1)
    again = lp.convert(network(), plan, seed=1)
    other = lp.convert(network(), plan, seed=2)
    a, b, c = (m(batch()) for m in (first, again, other))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    again.eval()
    again(batch())
    again.train()
    a, b = first(batch()), again(batch())
    assert torch.equal(a, b)


def test_a_recomputed_forward_rounds_as_the_first() -> None:
    from torch.utils.checkpoint import checkpoint

    class Outer(nn.Module):
        def __init__(self, recompute: bool) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.body = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6))
            self.head = nn.Linear(6, 3)
            self.recompute = recompute

        def forward(self, x: Tensor) -> Tensor:
            again = self.recompute
            x = checkpoint(self.body, x, use_reentrant=False) if again else self.body(x)
            logits: Tensor = self.head(x)
            return logits

    found = []
    for recompute in (False, True):
        model = lp.convert(Outer(recompute), lp.Plan.uniform("dfx5:stochastic"), seed=1)
        x = torch.randn(4, 6, generator=torch.Generator().manual_seed(1), requires_grad=True)
        model(x).sum().backward()
        found.append([x.grad, *(p.grad for p in model.parameters())])
    for a, b in zip(*found, strict=True):
        assert a is not None
        assert b is not None
        assert torch.equal(a, b)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_are_whole_and_independent(clone: Any) -> None:
    model = lp.convert(network(), lp.Plan.load("dfx8"), seed=4)
    model(batch())
    twin = clone(model)
    for a, b in zip(gradients(model, batch()), gradients(twin, batch()), strict=True):
        assert torch.equal(a, b)
    model(batch())
    assert model.state_dict()["_limprec.random"].tolist() == [4, 3]
    assert twin.state_dict()["_limprec.random"].tolist() == [4, 2]
    lp.restore(twin)
    assert type(twin[0]) is nn.Conv2d


def test_the_optimizer_reads_the_plan_from_the_parameters() -> None:
    model = lp.convert(network(), lp.Plan.load("dfx8"))
    optimizer = lp.optim.SGD(model.parameters(), 0.1, 0.9, writeback="kahan", format="plan")
    formats = [{k: str(v) for k, v in optimizer.formats_of(p).items()} for p in model.parameters()]
    assert formats[0] == {
        "parameter": "dfx8",
        "gradient": "dfx8",
        "compensation": "dfx8",
        "momentum_buffer": "dfx8",
    }
    assert set(formats[2].values()) == {"fp32"}  # batch norm: no word in the plan


def test_bfloat16_models_convert() -> None:
    model = lp.convert(network().bfloat16(), lp.Plan.load("dfx8"))
    assert model(batch().bfloat16()).dtype == torch.bfloat16


class Own(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


def test_a_layer_with_a_forward_of_its_own_keeps_it() -> None:
    layer, x = Own(2, 2), torch.randn(3, 2)
    plan = lp.Plan.uniform("dfx4")
    lp.convert(layer, plan)
    expected = 2 * F.linear(lp.quantize(x, "dfx4"), lp.quantize(layer.weight, "dfx4"), layer.bias)
    assert torch.equal(layer(x), expected)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: lp.convert(lp.convert(network(), FP32_PLAN), FP32_PLAN),
            ConversionError,
            r"is converted already; lp\.restore\(model\) first",
        ),
        (lambda: lp.restore(network()), ConversionError, "the model is not converted"),
        (
            lambda: lp.convert(network(), lp.Plan.uniform("fx32.16")),
            FormatError,
            "convert: weight of layer '0': fx32.16 has 31 significant bits, float32 carries 24",
        ),
        (lambda: lp.convert(network(), FP32_PLAN, seed=-1), ConversionError, "seed is -1"),
    ],
)
def test_errors(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


FP32_PLAN = lp.Plan.uniform("fp32")


def test_a_refused_conversion_leaves_the_model_as_it_was() -> None:
    model = network()
    before = repr(model)
    with pytest.raises(FormatError):
        lp.convert(model, lp.Plan(default={"weight": "dfx8"}, classifier={"weight": "fx32.16"}))
    assert repr(model) == before
    assert all(plan_of(p) is None for p in model.parameters())


def test_fp32_is_what_a_role_is_when_nothing_is_said() -> None:
    assert parse_precision("fp32") == FP32
