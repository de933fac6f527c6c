"""Forward bits that each layer learns."""

import copy
import math
import pickle
from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import limprec as lp
from limprec.errors import ConversionError, FormatError, LimprecError, PlanError
from limprec.nn import set_bits
from limprec.plan import Plan
from limprec.schedule import Learnable, LearnedBits

NEAREST = dict.fromkeys(("error", "gradient"), "fp32")


def network(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 5)
    ).to(dtype)


def inputs() -> Tensor:
    return torch.randn(7, 6, generator=torch.Generator().manual_seed(1))


def labels() -> Tensor:
    return torch.randint(5, (7,), generator=torch.Generator().manual_seed(3))


def cpt() -> nn.Sequential:
    return lp.convert(network(), Plan.load("cpt"))


def plain(weight: str, activation: str, **options: Any) -> nn.Sequential:
    """Convert with errors and gradients in fp32, so that autograd alone is the reference."""
    plan = Plan.uniform("fp32", weight=weight, activation=activation)
    return lp.convert(network(), plan, **options)


def ste(x: Tensor) -> Tensor:
    return x + (x.round() - x).detach()


def step_of(x: Tensor, kind: str, bits: Tensor) -> Tensor:
    """Return the step of the codes as a function of the bits; ranges are constants."""
    x = x.detach()
    if kind == "dfx":
        return 2.0 ** (x.abs().max().log2().floor() + 2 - bits)
    if kind == "s":
        return x.abs().max() / (2.0 ** (bits - 1) - 1)
    low, high = (x.amin(1, True), x.amax(1, True)) if kind == "mc0" else (x.amin(), x.amax())
    if kind == "":
        low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    return (high - low) / (2.0**bits - 1)


def quantized(x: Tensor, kind: str, bits: Tensor) -> Tensor:
    """Return a rounding whose gradients autograd finds: of the bits, and straight-through of x."""
    s, low = step_of(x, kind, bits), torch.zeros(())
    if kind in ("m", "mc0"):
        low = (x.amin(1, True) if kind == "mc0" else x.amin()).detach()
    u, half = ((x - low) / s).detach(), 2 ** (int(bits) - 1)
    codes = u.round()
    if kind == "dfx":
        codes = codes.clamp(1 - half, half - 1)
    if kind == "":
        zero = (-half - x.amin().clamp(max=0.0) / s).round().detach()
        codes = (codes + zero).clamp(-half, half - 1) - zero
    return x + s * (codes - u)


def reference(model: nn.Sequential, betas: Tensor, weight: str, activation: str) -> Tensor:
    y = inputs()
    for number, layer in enumerate(layer for layer in model if isinstance(layer, nn.Linear)):
        if number < len(betas):
            bits = ste(betas[number] * 5 + 3)
            w, x = quantized(layer.weight, weight, bits), quantized(y, activation, bits)
        else:
            w, x = layer.weight, y
        y = F.linear(x, w, layer.bias)
        y = F.relu(y) if number < 2 else y
    return F.cross_entropy(y, labels())


def gradients(model: nn.Module, betas: Tensor) -> list[Tensor]:
    return [betas.grad.clone(), *(p.grad.clone() for p in model.parameters())]  # type: ignore[union-attr]


@pytest.mark.parametrize("values", [(0.0, 0.31, 1.0), (0.55, 0.0, 0.12)])
@pytest.mark.parametrize(
    ("weight", "activation"),
    [("int8mc0", "int8m"), ("int8m", "int8m"), ("int8", "int8s"), ("dfx8", "dfx8")],
)
def test_gradients_are_those_of_a_quantizer_written_out(
    weight: str, activation: str, values: tuple[float, ...]
) -> None:
    model = plain(weight, activation)
    learned = LearnedBits(model, Learnable(3, 8))
    learned.betas.data.copy_(torch.tensor(values))
    learned.step()
    loss = F.cross_entropy(model(inputs()), labels())
    loss.backward()
    twin, betas = network(), torch.tensor(values, requires_grad=True)
    kinds = [w.removeprefix("int8").removesuffix("8") for w in (weight, activation)]
    expected = reference(twin, betas, kinds[0], kinds[1])
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    for own, other in zip(gradients(model, learned.betas), gradients(twin, betas), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-6)
    assert (learned.betas.grad != 0).all()  # type: ignore[union-attr]


def test_in_the_plan_of_cpt_the_last_layer_does_not_learn() -> None:
    text = Plan.load("cpt").to_toml().replace('error = "int8m:stochastic"', 'error = "fp32"')
    model = lp.convert(network(), Plan.from_toml(text))
    learned = LearnedBits(model, Learnable(3, 8))
    assert learned.layers == ("0", "2")
    learned.betas.data.copy_(torch.tensor([0.25, 0.7]))
    learned.step()
    assert "weight=int4mc0, activation=int4m, error=fp32" in repr(model[0])
    assert "weight=int6mc0, activation=int6m, error=fp32" in repr(model[2])
    F.cross_entropy(model(inputs()), labels()).backward()
    twin, betas = network(), torch.tensor([0.25, 0.7], requires_grad=True)
    reference(twin, betas, "mc0", "m").backward()
    for own, other in zip(gradients(model, learned.betas), gradients(twin, betas), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-6)


def test_with_few_bits_the_loss_alone_asks_for_more_and_with_many_for_none() -> None:
    """A convex problem, solved in fp32, so that rounding is all that there is to lose."""
    torch.manual_seed(0)
    x = torch.randn(512, 16)
    exact = nn.Linear(16, 4)
    y = exact(x).detach()
    found = []
    for beta in (0.0, 1.0):
        model = lp.convert(copy.deepcopy(exact), Plan.uniform("fp32", weight="int8mc0"))
        learned = LearnedBits(model, Learnable(3, 8))
        learned.betas.data.fill_(beta)
        learned.step()
        F.mse_loss(model(x), y).backward()
        assert learned.betas.grad is not None
        found.append(float(learned.betas.grad))
    assert found[0] < -0.01
    assert abs(found[1]) < abs(found[0]) / 100


def train(
    weight: float, task: bool = True, low: int = 2, steps: int = 150
) -> tuple[nn.Sequential, LearnedBits]:
    """Fit noiseless linear data that needs more than the least bits; return what was learned."""
    torch.manual_seed(0)
    x = torch.randn(256, 16)
    y = x @ torch.randn(16, 4)
    model = lp.convert(nn.Sequential(nn.Linear(16, 4)), Plan.uniform("fp32", **FORWARD))
    learned = LearnedBits(model, Learnable(low, 8))
    if not task:
        learned.betas.data.fill_(1.0)
        learned.step()
    groups = [{"params": model.parameters()}, {"params": learned.parameters()}]
    optimizer = torch.optim.SGD(groups, lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = weight * learned.penalty()
        if task:
            loss = loss + F.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        learned.step()
    return model, learned


FORWARD = {"weight": "int8mc0", "activation": "int8m"}


def test_the_penalty_alone_drives_the_bits_down() -> None:
    _, learned = train(weight=1.0, task=False)
    assert learned.bits == {"0": 2}
    assert learned.betas.tolist() == [0.0]


def test_the_loss_alone_drives_them_up() -> None:
    _, learned = train(weight=0.0)
    assert learned.bits["0"] > 5


def test_a_weight_between_lets_them_settle_between() -> None:
    _, learned = train(weight=0.2)
    assert 2 < learned.bits["0"] < train(weight=0.0)[1].bits["0"]


@pytest.mark.parametrize("macs", [None, {"0": 100, "2": 300, "4": 100, "other": 7}])
def test_the_penalty_by_hand(macs: dict[str, float] | None) -> None:
    model = lp.convert(network(), Plan.uniform("fp32", weight="dfx8", error="int6m:stochastic"))
    learned = LearnedBits(model, Learnable(3, 8), macs)
    learned.betas.data.copy_(torch.tensor([0.0, 0.5, 1.0]))
    shares = (1 / 3, 1 / 3, 1 / 3) if macs is None else (0.2, 0.6, 0.2)
    bits = (3.0, 5.5, 8.0)
    static = 8 * 8 + 2 * 8 * 6
    expected = sum(s * (f * f + 2 * f * 6) for s, f in zip(shares, bits, strict=True)) / static
    penalty = learned.penalty()
    assert penalty.item() == pytest.approx(expected, rel=1e-6)
    penalty.backward()
    slopes = [s * (2 * f + 2 * 6) * 5 / static for s, f in zip(shares, bits, strict=True)]
    assert learned.betas.grad.tolist() == pytest.approx(slopes, rel=1e-6)  # type: ignore[union-attr]
    learned.betas.data.fill_(1.0)
    assert learned.penalty().item() == pytest.approx(1.0, rel=1e-6)


def test_the_penalty_is_the_metric_of_the_costs() -> None:
    learned = LearnedBits(cpt(), Learnable(3, 8))
    learned.betas.data.fill_(0.4)
    expected = lp.costs.cpt_cost(5, 8) / lp.costs.cpt_cost(8, 8)
    assert learned.penalty().item() == pytest.approx(expected, rel=1e-6)


def test_a_trace_gives_the_multiply_adds() -> None:
    model, macs = cpt(), Counter[str]()
    for product in lp.costs.trace(model, (6,)).products:
        macs[product.layer] += product.macs
    assert macs == {"0": 96, "2": 192, "4": 60}
    learned = LearnedBits(model, Learnable(3, 8), macs)
    learned.penalty().backward()
    first, second = learned.betas.grad.tolist()  # type: ignore[union-attr]
    assert second == pytest.approx(2 * first)


def test_bits_follow_the_betas() -> None:
    model = cpt()
    learned = LearnedBits(model, Learnable(3, 8))
    assert learned.bits == {"0": 3, "2": 3}
    learned.betas.data.copy_(torch.tensor([7.0, -2.0]))
    learned.step()
    assert learned.betas.tolist() == [1.0, 0.0]
    assert learned.bits == {"0": 8, "2": 3}
    assert "weight=int8mc0" in repr(model[0])
    assert "weight=int3mc0" in repr(model[2])
    assert "0=8, 2=3" in repr(learned)
    rule = Learnable(3, 8)
    assert [rule.bits(b) for b in (-1.0, 0.0, 0.09, 0.11, 0.5001, 1.0, math.inf)] == [
        3, 3, 3, 4, 6, 8, 8
    ]  # fmt: skip


def test_the_model_owns_no_beta() -> None:
    model = cpt()
    learned = LearnedBits(model, Learnable(3, 8))
    assert len(list(model.parameters())) == len(list(network().parameters()))
    assert [name for name, _ in learned.named_parameters()] == ["betas"]


def step(model: nn.Module) -> list[Tensor]:
    model.zero_grad()
    y = model(inputs())
    y.square().sum().backward()
    return [y.detach(), *(p.grad.clone() for p in model.parameters())]  # type: ignore[union-attr]


@pytest.mark.parametrize("bits", [3, 8])
def test_all_else_is_bit_for_bit_what_it_was(bits: int) -> None:
    still, model = cpt(), cpt()
    set_bits(still, bits)
    learned = LearnedBits(model, Learnable(bits, 8))
    assert all(map(torch.equal, step(model), step(still)))
    assert learned.betas.grad is not None
    watched: list[str] = []
    stop = lp.nn.watch_roundings(model, lambda event: watched.append(event.role))
    assert all(map(torch.equal, step(model), step(still)))
    stop()
    assert {"weight", "activation", "error"} <= set(watched)


def test_watching_does_not_change_the_gradient() -> None:
    found = []
    for watch in (False, True):
        model = cpt()
        learned = LearnedBits(model, Learnable(3, 8))
        if watch:
            lp.nn.watch_roundings(model, lambda event: None)
        step(model)
        found.append(learned.betas.grad)
    assert torch.equal(found[0], found[1])  # type: ignore[arg-type]


def test_a_layer_that_runs_twice_adds_up() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.a(torch.tanh(self.a(x)))
            return y

    model = lp.convert(Twice(), Plan.uniform("fp32", weight="int8m", activation="int8m"))
    learned = LearnedBits(model, Learnable(4, 8))
    model(inputs()).square().sum().backward()
    plain, beta = Twice(), torch.zeros(1, requires_grad=True)
    y, bits = inputs(), ste(beta[0] * 4 + 4)
    for number in range(2):
        x, w = (quantized(t, "m", bits) for t in (y, plain.a.weight))
        y = F.linear(x, w, plain.a.bias)
        y = y if number else torch.tanh(y)
    y.square().sum().backward()
    torch.testing.assert_close(learned.betas.grad, beta.grad, rtol=1e-4, atol=1e-6)


def test_evaluation_has_the_same_bits_and_no_gradient() -> None:
    model = cpt()
    learned = LearnedBits(model, Learnable(3, 8))
    y = model(inputs())
    assert y.grad_fn is not None
    with torch.no_grad():
        seen = model.eval()(inputs())
    assert torch.equal(seen, y)
    assert not seen.requires_grad
    assert learned.betas.grad is None


def test_a_state_comes_back_with_its_bits() -> None:
    learned = LearnedBits(cpt(), Learnable(3, 8))
    learned.betas.data.copy_(torch.tensor([0.2, 0.8]))
    learned.step()
    model = cpt()
    other = LearnedBits(model, Learnable(3, 8))
    other.load_state_dict(learned.state_dict())
    assert other.bits == learned.bits == {"0": 4, "2": 7}
    assert "weight=int7mc0" in repr(model[2])
    three = LearnedBits(lp.convert(network(), Plan.uniform("dfx8")), Learnable(3, 8))
    with pytest.raises(LimprecError, match="a state of the layers 0, 2; load one of 0, 2, 4"):
        three.set_extra_state(learned.get_extra_state())


@pytest.mark.parametrize("how", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_of_the_model_keeps_its_bits_and_learns_no_more(how: Any) -> None:
    model = cpt()
    learned = LearnedBits(model, Learnable(5, 8))
    twin = how(model)
    assert all(map(torch.equal, step(twin), step(model)))
    learned.betas.grad = None
    step(twin)
    assert learned.betas.grad is None
    learned.betas.data.fill_(1.0)
    learned.step()
    assert "weight=int5mc0" in repr(twin[0])


def test_a_copy_of_both_learns_by_its_own() -> None:
    model = cpt()
    learned = LearnedBits(model, Learnable(5, 8), {"0": 1, "2": 3})
    learned.betas.data.fill_(0.3)
    learned.step()
    twin, other = copy.deepcopy((model, learned))
    step(twin)
    assert learned.betas.grad is None
    assert other.betas.grad is not None
    other.betas.data.fill_(1.0)
    other.step()
    assert "weight=int8mc0" in repr(twin[0])
    assert "weight=int6mc0" in repr(model[0])
    learned.betas.data.fill_(1.0)
    assert torch.equal(other.penalty(), learned.penalty())


def test_functions_that_are_known_learn() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.matrix = nn.Parameter(torch.randn(6, 3))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.matrix

    plan = Plan.uniform("fp32", weight="dfx8", activation="dfx8")
    model = lp.convert(Functional(), plan, example_inputs=inputs())
    learned = LearnedBits(model, Learnable(3, 8))
    model(inputs()).square().sum().backward()
    assert learned.layers == ("matmul#0",)
    assert float(learned.betas.grad) != 0  # type: ignore[arg-type]


def test_some_layers_can_be_set_apart() -> None:
    model = lp.convert(network(), Plan.uniform("dfx8"))
    assert set_bits(model, {"0": 3}) == 1
    assert "weight=dfx3" in repr(model[0])
    assert "weight=dfx8" in repr(model[2])
    with pytest.raises(ConversionError, match="layer '1' has no forward bits to change; the layer"):
        set_bits(model, {"1": 3})


@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_it_is_not_compiled() -> None:
    torch._dynamo.reset()
    model = cpt()
    learned = LearnedBits(model, Learnable(3, 8))
    with pytest.raises(ConversionError, match="learned bits in a graph that is compiled"):
        torch.compile(model, backend="eager")(inputs())
    with torch.no_grad():
        y = torch.compile(model, backend="eager")(inputs())
    assert torch.equal(y, model(inputs()))
    assert learned.betas.grad is None


def test_bad_input() -> None:
    rule = Learnable(3, 8)
    with pytest.raises(PlanError, match="9 to 8 bits; give 2 <= low <= high"):
        Learnable(9, 8)
    with pytest.raises(PlanError, match="1 to 8 bits"):
        Learnable(1, 8)
    with pytest.raises(ConversionError, match=r"LearnedBits: .*not converted; lp\.convert it"):
        LearnedBits(network(), rule)
    with pytest.raises(ConversionError, match="no layer has forward bits to change"):
        LearnedBits(lp.convert(network(), Plan.uniform("e4m3")), rule)
    with pytest.raises(FormatError, match="layer '0'"):
        LearnedBits(lp.convert(network(torch.bfloat16), Plan.uniform("dfx8")), Learnable(3, 12))
    with pytest.raises(LimprecError, match="macs has no layer '2'; give every layer"):
        LearnedBits(cpt(), rule, {"0": 5})
    for macs in ({"0": 0, "2": 0}, {"0": -1, "2": 2}, {"0": math.nan, "2": 1}):
        with pytest.raises(LimprecError, match="give numbers from 0, one above it"):
            LearnedBits(cpt(), rule, macs)
    with pytest.raises(LimprecError, match="beta is nan"):
        rule.bits(math.nan)
    learned = LearnedBits(cpt(), rule)
    learned.betas.data[1] = math.nan
    with pytest.raises(LimprecError, match="beta of layer '2' is nan; skip the optimizer's step"):
        learned.step()
    assert learned.bits == {"0": 3, "2": 3}


LATE = (
    'version = 1\n[default]\nweight = "dfx8"\nactivation = "dfx8"\n[scaling]\ntensors = "delayed"'
)


@pytest.mark.parametrize(
    ("plan", "options", "message"),
    [
        (
            Plan.uniform("dfx8"),
            {"compute": "real"},
            "compute='real'; convert with compute",
        ),
        (Plan.uniform("dfx8"), {"compute": "fast"}, r"compute='fast'"),
        (Plan.uniform("dfx8"), {"saved": "narrow"}, "saved in real bits; convert with saved"),
        (Plan.uniform("dfx8", accumulator="e5m10"), {}, "the accumulator fp16; leave it out"),
        (Plan.uniform("dfx8b32"), {}, "weight dfx8b32 in blocks along its sums; use one scale"),
        (Plan.from_toml(LATE), {}, "delayed scales; use tensors = 'current'"),
    ],
)
def test_what_hides_the_rounding_is_refused(
    plan: Plan, options: dict[str, str], message: str
) -> None:
    model = lp.convert(network(), plan, **options)  # type: ignore[arg-type]
    before = step(copy.deepcopy(model))
    with pytest.raises(ConversionError, match=f"layer '0' has .*{message}"):
        LearnedBits(model, Learnable(3, 8))
    assert all(map(torch.equal, step(model), before))
