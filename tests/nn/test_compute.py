"""Ways to compute and to save: what is the same to the bit, and how far the rest may be off."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from held import held
from torch import Tensor, nn

import limprec as lp
from limprec.errors import ConversionError, LimprecError, PlanError
from limprec.kernels.matmul.real_conv import real_conv
from limprec.nn import RoundingEvent, watch_roundings
from limprec.plan import Rule

PLAN = lp.Plan.uniform("dfx8", error="dfx8:stochastic", activation="dfx7:stochastic")


class Net(nn.Module):
    """Convolutions, an in-place ReLU, attention and products of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.down = nn.Conv2d(8, 8, 3, stride=2, groups=2, bias=False)
        self.mix = nn.Parameter(torch.randn(8, 8) / 3)
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv(x)), inplace=True)
        x = torch.relu(self.down(x)).flatten(2).transpose(1, 2)
        x = x + F.scaled_dot_product_attention(x, x, x)
        y: Tensor = self.head((x @ self.mix).mean(1))
        return y


def network() -> nn.Module:
    torch.manual_seed(0)
    return Net()


def batch() -> Tensor:
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def run(model: nn.Module) -> tuple[Tensor, dict[str, Tensor]]:
    """Return logits and gradients of one step."""
    y = model(batch())
    F.cross_entropy(y, torch.arange(4)).backward()
    return y.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def same(one: tuple[Tensor, dict[str, Tensor]], other: tuple[Tensor, dict[str, Tensor]]) -> bool:
    pairs = zip(one[1].values(), other[1].values(), strict=True)
    return torch.equal(one[0], other[0]) and all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("compute", ["exact", "fast", "real"])
@pytest.mark.parametrize("saved", ["carrier", "narrow"])
def test_an_fp32_plan_changes_nothing_in_any_way(compute: str, saved: str) -> None:
    plan = lp.Plan.uniform("fp32")
    converted = lp.convert(network(), plan, compute=compute, saved=saved)
    assert same(run(network()), run(converted))


@pytest.mark.parametrize("name", ["dfx8", "e5m2", "e4m3:stochastic", "fx8.4", "dfx12", "mxint8"])
@pytest.mark.parametrize("compute", ["exact", "fast"])
@pytest.mark.usefixtures("bfloat16_machine")
def test_what_is_saved_in_real_bits_comes_back_as_it_was(name: str, compute: str) -> None:
    if compute == "fast" and name == "dfx12":
        pytest.skip("bfloat16 does not hold it")
    plan = lp.Plan.uniform(name)
    ways = [
        run(lp.convert(network(), plan, compute=compute, saved=saved))
        for saved in ("carrier", "narrow")
    ]
    assert same(*ways)


def saved_bytes(model: nn.Module) -> int:
    """Return the bytes that autograd holds on to after a forward pass, but for parameters."""
    own = {p.data_ptr() for p in model.parameters()}
    kept = held(model(batch()))
    return sum({t.data_ptr(): t.nbytes for t in kept if t.data_ptr() not in own}.values())


def test_saved_in_real_bits_is_less() -> None:
    layer = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3))
    plan = lp.Plan.uniform("dfx8")
    wide = saved_bytes(lp.convert(copy.deepcopy(layer), plan))
    narrow = saved_bytes(lp.convert(copy.deepcopy(layer), plan, saved="narrow"))
    assert 0 < narrow < 0.3 * wide


def test_narrow_saving_leaves_it_to_checkpointing() -> None:
    from torch.utils.checkpoint import checkpoint

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = checkpoint(self.inner, x, use_reentrant=False)
            return y

    torch.manual_seed(0)
    block, x = Block(), torch.randn(5, 6)
    gradients = []
    for saved in ("carrier", "narrow"):
        model = lp.convert(copy.deepcopy(block), PLAN, saved=saved)
        model(x).square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))  # type: ignore[arg-type]


@pytest.mark.usefixtures("bfloat16_machine")
def test_fast_is_bfloat16_between_rounded_operands() -> None:
    """Bit for bit the composition by hand, and within a half unit of bfloat16 of ``exact``."""
    torch.manual_seed(0)
    layer, x = nn.Linear(64, 32), torch.randn(16, 64)
    plan = lp.Plan.uniform("dfx8")
    fast = lp.convert(copy.deepcopy(layer), plan, compute="fast")
    exact = lp.convert(copy.deepcopy(layer), plan)
    qx, qw = lp.quantize(x, "dfx8"), lp.quantize(layer.weight.detach(), "dfx8")
    assert torch.equal(qx.bfloat16().float(), qx)
    x, other = x.requires_grad_(), x.detach().clone().requires_grad_()
    y, z = fast(x), exact(other)
    assert torch.equal(y, F.linear(qx.bfloat16(), qw.bfloat16()).float() + layer.bias)
    error = torch.randn(16, 32)
    y.backward(error)
    z.backward(error)
    qe = lp.quantize(error, "dfx8").bfloat16()
    assert x.grad is not None
    assert other.grad is not None
    assert torch.equal(x.grad, (qe @ qw.bfloat16()).float())
    expected = lp.quantize((qe.T @ qx.detach().bfloat16()).float(), "dfx8")
    assert torch.equal(fast.weight.grad, expected)  # type: ignore[arg-type]
    product, exactly = (y - layer.bias).detach(), (z - layer.bias).detach()
    assert not torch.equal(product, exactly)
    # half a unit of bfloat16's 8 bits, and what float32's order of sums moves
    assert ((product - exactly).abs() <= exactly.abs() * 2**-8 * 1.01 + 1e-5).all()


@pytest.mark.usefixtures("integer_machine")
@pytest.mark.parametrize("saved", ["carrier", "narrow"])
def test_fast_is_real_where_bytes_are_fastest(saved: str) -> None:
    fast = lp.convert(network(), PLAN, compute="fast", saved=saved)
    assert same(run(lp.convert(network(), PLAN, compute="real")), run(fast))


@pytest.mark.usefixtures("integer_machine")
def test_fast_is_exact_where_a_format_has_no_codes() -> None:
    plan = lp.Plan.uniform("e5m2:stochastic")
    assert same(run(lp.convert(network(), plan)), run(lp.convert(network(), plan, compute="fast")))


@pytest.mark.usefixtures("integer_machine")
def test_fast_keeps_depthwise_convolutions_in_the_carrier(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = []

    def real(x: Tensor, weight: Tensor, *others: Any, **options: Any) -> Tensor:
        groups.append(options["groups"])
        return real_conv(x, weight, *others, **options)

    monkeypatch.setattr("limprec.nn.integers.real_conv", real)
    layers = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 6, 3, groups=6), nn.Conv2d(6, 4, 1, groups=2)
    for compute, expected in (("fast", [1, 2]), ("real", [1, 6, 2])):
        model = lp.convert(nn.Sequential(*copy.deepcopy(layers)), PLAN, compute=compute)
        model(torch.randn(2, 1, 8, 8))
        assert groups == expected
        groups.clear()


@pytest.mark.usefixtures("plain_machine")
@pytest.mark.parametrize("name", ["dfx8:stochastic", "e4m3", "int8s"])
def test_fast_is_exact_where_nothing_is_faster(name: str) -> None:
    plan = lp.Plan.uniform(name)
    assert same(run(lp.convert(network(), plan)), run(lp.convert(network(), plan, compute="fast")))


def test_real_is_the_exact_integer_product() -> None:
    """Sums of few bits are exact in float32 too: ``real`` and ``exact`` agree to the bit."""
    real = lp.convert(network(), PLAN, compute="real")
    assert same(run(lp.convert(network(), PLAN)), run(real))


def test_real_is_closer_than_float32_where_sums_are_long() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(40_000, 4, bias=False), torch.rand(3, 40_000) + 1
    plan = lp.Plan.uniform("dfx8")
    nn.init.uniform_(layer.weight, 1, 2)
    real = lp.convert(copy.deepcopy(layer), plan, compute="real")(x)
    qx, qw = lp.quantize(x, "dfx8").double(), lp.quantize(layer.weight.detach(), "dfx8").double()
    assert torch.equal(real, (qx @ qw.T).float())
    assert not torch.equal(lp.convert(layer, plan)(x), real)


def test_watching_does_not_change_a_real_layer() -> None:
    plain, watched = (lp.convert(network(), PLAN, compute="real") for _ in range(2))
    events: list[RoundingEvent] = []
    stop = watch_roundings(watched, events.append)
    assert same(run(plain), run(watched))
    stop()
    told = {(event.layer, event.role) for event in events}
    assert {("conv", "activation"), ("conv", "weight"), ("head", "error")} <= told
    assert any(layer.startswith("attention#0") for layer, _ in told)


def test_a_last_layer_that_auto_widened_stays_in_the_carrier() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 1000))
    plan = lp.Plan.uniform("dfx8", classifier="auto")
    report = lp.conversion_report(lp.convert(model, plan, compute="real"))
    assert report.elsewhere == ("1",)
    assert "in the carrier: 1" in str(report)


@pytest.mark.parametrize(
    ("options", "plan", "error", "message"),
    [
        ({"compute": "real"}, "e5m2", ConversionError, "e5m2 .*layer 'conv' with compute='real'"),
        ({"compute": "fast"}, "dfx12", ConversionError, "layer 'conv' with compute='fast': bfloa"),
        ({"compute": "swift"}, "dfx8", ConversionError, "unknown compute 'swift'; use one of exa"),
        ({"saved": "small"}, "dfx8", ConversionError, "unknown saved 'small'; use one of carrier"),
        ({"example_inputs": torch.zeros(1, 2, 8, 8)}, "dfx8", ConversionError, "cannot run on exa"),
        ({"example_inputs": 3}, "dfx8", ConversionError, "example_inputs is a int; give a tensor"),
    ],
)
def test_errors_come_before_training(
    options: dict[str, Any], plan: str, error: type[LimprecError], message: str
) -> None:
    model = network()
    before = repr(model)
    with pytest.raises(error, match=message):
        lp.convert(model, lp.Plan.uniform(plan), **options)
    assert repr(model) == before


def test_rules_on_functions_are_checked_as_soon_as_they_are_known() -> None:
    good = lp.Plan(default={"weight": "dfx8"}, layers=(Rule("matmul#0", None, {"weight": "dfx4"}),))
    model = lp.convert(network(), good, example_inputs=batch())
    assert str(lp.conversion_report(model).layers["matmul#0"].weight) == "dfx4"
    bad = lp.Plan(
        default={"weight": "dfx8"}, layers=(Rule("*/einsum#0", None, {"weight": "dfx4"}),)
    )
    with pytest.raises(PlanError, match="'\\*/einsum#0' matches no layer"):
        lp.convert(network(), bad, example_inputs=batch())
    late = lp.convert(network(), bad)
    with pytest.raises(
        PlanError, match="matches no layer; the functions are attention#0, matmul#0"
    ):
        late(batch())


@pytest.mark.parametrize("in_place", [False, True])
def test_relu_keeps_a_bit_and_gives_the_bits_of_torch(in_place: bool) -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(inplace=in_place), nn.Linear(6, 3))
    plain = copy.deepcopy(model)
    lp.convert(model, lp.Plan(default={"bias": "fp32"}, norm={"weight": "bf16"}))
    x = torch.randn(9, 6)
    for one in (model, plain):
        one(x).square().sum().backward()
    for a, b in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)  # type: ignore[arg-type]
