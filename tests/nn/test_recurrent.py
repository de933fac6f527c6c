"""Recurrent layers: against loops composed by hand, and against PyTorch's own in a wide format."""

import copy
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence
from torch.utils.checkpoint import checkpoint

import limprec as lp
from limprec.formats import Precision
from limprec.nn.state import _CALL, STREAMS

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
"""PyTorch's own, of the layer that ours is compared with."""

WIDE = lp.Plan.uniform("e8m22", error="e8m22", bias="e8m22")
NARROW = lp.Plan.uniform(
    "dfx6", activation="e4m3", bias="bf16", gradient="dfx9:stochastic", error="dfx7:stochastic"
)
RANDOM = lp.Plan.uniform("dfx6:stochastic", bias="dfx8:stochastic")
SEED = 11


class _Through(torch.autograd.Function):
    """``lp.quantize`` going forward, and of the gradient going back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ahead: Any, back: Any) -> Tensor:
        ctx.back = back
        return _quantize(x, ahead)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return _quantize(grads[0], ctx.back), None, None


def _quantize(x: Tensor, how: tuple[Precision, int] | None) -> Tensor:
    if how is None:
        return x.clone()
    return lp.quantize(x.detach(), how[0], seed=SEED, stream=how[1], step=1)


def through(x: Tensor, ahead: Any, back: Any) -> Tensor:
    result: Tensor = _Through.apply(x, ahead, back)  # type: ignore[no-untyped-call]
    return result


class Reference:
    """The mathematics of one layer (the first of its model), one product after another."""

    def __init__(self, plan: Any) -> None:
        self.plan, self.call = plan, 0

    def stream(self, name: str, call: int) -> int:
        return STREAMS[name] + call * _CALL

    def rounded(self, w: Tensor, call: int, role: str = "weight", back: str = "gradient") -> Tensor:
        ahead, behind = self.plan[role], self.plan.gradient
        return through(w, (ahead, self.stream(role, call)), (behind, self.stream(back, call)))

    def product(self, x: Tensor, w: Tensor, b: Tensor | None, call: int) -> Tensor:
        x = through(x, (self.plan.activation, self.stream("activation", call)), None)
        y = F.linear(x, w, b)
        return through(y, None, (self.plan.error, self.stream("error", call)))

    def pair(self, w: Tensor, b: Tensor | None, call: int) -> tuple[Tensor, Tensor | None]:
        bias = None if b is None else self.rounded(b, call, "bias", "bias gradient")
        return self.rounded(w, call), bias

    def step(self, kind: str, x: Tensor, h: Tensor, state: list[Tensor]) -> list[Tensor]:
        n = state[-1].shape[1]
        if kind == "LSTM":
            i, f, g, o = (x + h).chunk(4, 1)
            c = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
            return [o.sigmoid() * c.tanh(), c]
        if kind == "GRU":
            r = (x[:, :n] + h[:, :n]).sigmoid()
            z = (x[:, n : 2 * n] + h[:, n : 2 * n]).sigmoid()
            new = (x[:, 2 * n :] + r * h[:, 2 * n :]).tanh()
            return [new + z * (state[0] - new)]
        return [(x + h).tanh() if kind == "RNN_TANH" else (x + h).relu()]

    def run(self, layer: Any, x: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Map (T, N, I) and states (layers * directions, N, H) to what the layer returns."""
        finals = []
        names = itertools.product(range(layer.num_layers), range(1 + layer.bidirectional))
        found: list[Tensor] = []
        for number, (depth, direction) in enumerate(names):
            suffix = f"_l{depth}" + ("_reverse" if direction else "")
            w: dict[str, Any] = {
                n: getattr(layer, n + suffix, None)
                for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
            }
            gates = self.product(x, *self.pair(w["weight_ih"], w["bias_ih"], self.call), self.call)
            self.call += 1
            own, steps = self.pair(w["weight_hh"], w["bias_hh"], self.call), len(x)
            last = self.call + steps
            projection = None if w["weight_hr"] is None else self.rounded(w["weight_hr"], last)
            now, outputs = [s[number] for s in state], []
            for t in reversed(range(steps)) if direction else range(steps):
                now = self.step(layer.mode, gates[t], self.product(now[0], *own, self.call), now)
                if projection is not None:
                    now[0] = self.product(now[0], projection, None, self.call + steps)
                outputs.append(now[0])
                self.call += 1
            self.call += 0 if projection is None else steps
            finals.append(now)
            found.append(torch.stack(outputs[::-1] if direction else outputs))
            if direction or not layer.bidirectional:
                x, found = torch.cat(found, -1), []
        return x, [torch.stack(parts) for parts in zip(*finals, strict=True)]


def states(layer: nn.RNNBase, batch: int) -> list[Tensor]:
    runs = layer.num_layers * (1 + layer.bidirectional)
    torch.manual_seed(3)
    first = [torch.randn(runs, batch, layer.proj_size or layer.hidden_size)]
    if isinstance(layer, nn.LSTM):
        first.append(torch.randn(runs, batch, layer.hidden_size))
    return [s.requires_grad_() for s in first]


def called(layer: Any, x: Any, state: list[Tensor] | None) -> list[Tensor]:
    """Call a layer and return its tensors in one list."""
    given = state if state is None or len(state) > 1 else state[0]
    y, after = layer(x, given)
    y = y.data if isinstance(y, PackedSequence) else y
    return [y, *([after] if isinstance(after, Tensor) else after)]


def gradients(results: list[Tensor], leaves: list[Tensor]) -> list[Tensor]:
    torch.manual_seed(5)
    loss = sum((r * torch.randn_like(r)).sum() for r in results)
    return list(torch.autograd.grad(loss, leaves))  # type: ignore[arg-type]


LAYERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "lstm": (nn.LSTM, {}),
    "lstm 2 both ways": (nn.LSTM, {"num_layers": 2, "bidirectional": True}),
    "lstm projected": (nn.LSTM, {"num_layers": 2, "bidirectional": True, "proj_size": 3}),
    "gru": (nn.GRU, {"num_layers": 2, "bias": False}),
    "gru both ways": (nn.GRU, {"bidirectional": True}),
    "tanh": (nn.RNN, {"num_layers": 2}),
    "relu": (nn.RNN, {"nonlinearity": "relu", "bidirectional": True}),
}


@pytest.mark.parametrize("plan", [NARROW, RANDOM], ids=["nearest", "stochastic"])
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_a_loop_of_rounded_products_bit_for_bit(name: str, plan: lp.Plan) -> None:
    kind, options = LAYERS[name]
    torch.manual_seed(0)
    layer = kind(6, 5, **options)
    x, first = torch.randn(4, 3, 6, requires_grad=True), states(layer, 3)
    reference = Reference(next(iter(plan.resolve(layer).values())))
    expected = reference.run(layer, x, first)
    lp.convert(layer, plan, seed=SEED)
    results = called(layer, x, first)
    leaves = [x, *first, *layer.parameters()]
    for a, b in zip(results, [expected[0], *expected[1]], strict=True):
        assert torch.equal(a, b)
    ours = gradients(results, leaves)
    theirs = gradients([expected[0], *expected[1]], leaves)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN_TANH", "RNN_RELU"])
@pytest.mark.parametrize("bias", [True, False])
def test_a_cell_is_two_rounded_products_bit_for_bit(kind: str, bias: bool) -> None:
    torch.manual_seed(0)
    if kind.startswith("RNN"):
        nonlinearity = kind.partition("_")[2].lower()
        cell: Any = nn.RNNCell(6, 5, bias, nonlinearity=nonlinearity)
    else:
        cell = getattr(nn, f"{kind}Cell")(6, 5, bias)
    x = torch.randn(3, 6, requires_grad=True)
    state = [torch.randn(3, 5, requires_grad=True) for _ in range(1 + (kind == "LSTM"))]
    reference = Reference(next(iter(RANDOM.resolve(cell).values())))
    expected = state
    for call in (0, 2):  # a cell that runs twice rounds its weights twice
        gates = reference.product(x, *reference.pair(cell.weight_ih, cell.bias_ih, call), call)
        own = reference.pair(cell.weight_hh, cell.bias_hh, call + 1)
        h = reference.product(expected[0], *own, call + 1)
        expected = reference.step(kind, gates, h, expected)

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = cell

        def forward(self, x: Tensor, h: Any) -> Any:
            return self.cell(x, self.cell(x, h))

    model = lp.convert(Twice(), RANDOM, seed=SEED)
    found = model(x, tuple(state) if len(state) > 1 else state[0])
    found = list(found) if isinstance(found, tuple) else [found]
    leaves = [x, *state, *cell.parameters()]
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)
    for a, b in zip(gradients(found, leaves), gradients(expected, leaves), strict=True):
        assert torch.equal(a, b)


def variants() -> Iterator[tuple[nn.RNNBase, bool]]:
    """Yield every kind of layer with its options, with and without a state given."""
    kinds: list[tuple[Any, dict[str, Any]]] = [
        (nn.LSTM, {}),
        (nn.LSTM, {"proj_size": 3}),
        (nn.GRU, {}),
        (nn.RNN, {}),
        (nn.RNN, {"nonlinearity": "relu"}),
    ]
    for (kind, own), depth, both, first, bias, given in itertools.product(
        kinds, (1, 3), (False, True), (False, True), (False, True), (False, True)
    ):
        torch.manual_seed(1)
        layer = kind(
            6,
            5,
            num_layers=depth,
            bidirectional=both,
            batch_first=first,
            bias=bias,
            dropout=0.4 if depth > 1 else 0.0,
            **own,
        )
        yield layer, given


def inputs(layer: nn.RNNBase) -> Iterator[tuple[Any, int]]:
    """Yield what a layer takes, with the samples of the state: batched, unbatched, packed."""
    torch.manual_seed(2)
    yield torch.randn(3, 4, 6), 3 if layer.batch_first else 4
    yield torch.randn(4, 6), 0
    yield pack_sequence([torch.randn(n, 6) for n in (2, 5, 1, 2)], enforce_sorted=False), 4


def agree(plan: lp.Plan, tolerance: float) -> None:
    """Compare with PyTorch; the three kinds of input take turns, so each meets every option."""
    for number, (layer, given) in enumerate(variants()):
        converted = lp.convert(copy.deepcopy(layer), plan)
        x, batch = list(inputs(layer))[number % 3]
        found = []
        for model in (layer, converted):
            state = states(layer, batch or 1) if given else None
            if state is not None and not batch:
                state = [s[:, 0] for s in state]
            torch.manual_seed(7)  # dropout takes from PyTorch's generator
            results = called(model, x, state)
            found.append([*results, *gradients(results, list(model.parameters()))])
        for a, b in zip(*found, strict=True):
            if tolerance:
                torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
            else:
                assert torch.equal(a, b)


def test_a_wide_format_is_pytorch_with_every_option() -> None:
    agree(WIDE, 1e-5)


def test_an_fp32_plan_changes_nothing() -> None:
    agree(lp.Plan.uniform("fp32"), 0.0)


def test_evaluation_drops_nothing_and_keeps_the_state() -> None:
    torch.manual_seed(0)
    layer = nn.LSTM(6, 5, num_layers=2, dropout=0.5).eval()
    converted = lp.convert(copy.deepcopy(layer), WIDE)
    x = torch.randn(3, 2, 6)
    torch.testing.assert_close(converted(x)[0], layer(x)[0], rtol=1e-5, atol=1e-5)
    assert converted.state_dict()["_limprec.random"].tolist() == [0, 0]


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("compute", ["fast", "real"])
@pytest.mark.usefixtures("bfloat16_machine")
def test_other_ways_of_computing_are_near_the_exact_one(name: str, compute: str) -> None:
    kind, options = LAYERS[name]
    torch.manual_seed(0)
    layer = kind(6, 5, **options)
    plan = lp.Plan.uniform("dfx8:stochastic", bias="fp32")
    exact = lp.convert(copy.deepcopy(layer), plan, seed=SEED)
    other = lp.convert(copy.deepcopy(layer), plan, seed=SEED, compute=compute)
    x = torch.randn(4, 3, 6)
    found = []
    for model in (exact, other):
        results = called(model, x, None)
        found.append([*results, *gradients(results, list(model.parameters()))])
    for a, b in zip(*found, strict=True):
        assert (a - b).norm() <= 0.03 * a.norm()


def test_saved_operands_in_real_bits_give_the_same_gradients() -> None:
    torch.manual_seed(0)
    layer = nn.LSTM(6, 5, num_layers=2, bidirectional=True)
    x = torch.randn(4, 3, 6)
    found = []
    for saved in ("carrier", "narrow"):
        model = lp.convert(copy.deepcopy(layer), RANDOM, seed=SEED, saved=saved)
        found.append(gradients(called(model, x, None), list(model.parameters())))
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


def test_the_weight_is_told_of_once_and_the_state_at_every_step() -> None:
    torch.manual_seed(0)
    model = lp.convert(nn.Sequential(nn.LSTM(6, 5)), RANDOM, seed=SEED)
    x = torch.randn(4, 3, 6)
    plain = copy.deepcopy(model)
    seen: list[tuple[str, str]] = []
    stop = lp.nn.watch_roundings(model, lambda e: seen.append((e.layer, e.role)))
    watched = gradients(called(model[0], x, None), list(model.parameters()))
    stop()
    assert {layer for layer, _ in seen} == {"0"}
    counts = {role: sum(r == role for _, r in seen) for _, role in seen}
    assert counts == {
        "weight": 2,
        "bias": 2,
        "activation": 5,
        "error": 5,
        "gradient": 2,
        "bias gradient": 2,
    }
    for a, b in zip(
        watched, gradients(called(plain[0], x, None), list(plain.parameters())), strict=True
    ):
        assert torch.equal(a, b)


def test_a_recomputed_layer_rounds_as_it_did() -> None:
    class Model(nn.Module):
        def __init__(self, again: bool) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.inside, self.again = nn.GRU(6, 6), again

        def forward(self, x: Tensor) -> Any:
            return (
                checkpoint(self.inside, x, use_reentrant=False)[0]
                if self.again
                else self.inside(x)[0]
            )

    found = []
    for again in (False, True):
        model = lp.convert(Model(again), RANDOM, seed=SEED)
        x = torch.randn(4, 3, 6, generator=torch.Generator().manual_seed(1))
        found.append(gradients([model(x)], list(model.parameters())))
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


class Ahead(nn.Module):
    """A cell by hand, or a layer, before a linear layer."""

    def __init__(self, whole: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inside = nn.LSTM(6, 5) if whole else nn.LSTMCell(6, 5)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.inside, nn.LSTM):
            x = self.inside(x)[0]
        else:
            state = None
            for part in x:
                state = self.inside(part, state)
            x = state[0]
        logits: Tensor = self.head(x)
        return logits


@pytest.mark.filterwarnings("ignore:")  # of the compiler, about itself
@pytest.mark.parametrize("whole", [True, False])
def test_compiled_it_rounds_the_same(whole: bool) -> None:
    """PyTorch's compiler leaves nn.LSTM out, and takes the cells in whole."""
    eager, other = (lp.convert(Ahead(whole), RANDOM, seed=SEED) for _ in range(2))
    torch.compiler.reset()
    compiled = torch.compile(other, backend="aot_eager", fullgraph=not whole)
    x = torch.randn(2, 3, 6)
    for _ in range(3):  # the first pass is never compiled
        found = [
            [y, *gradients([y], list(model.parameters()))]
            for model, y in ((eager, eager(x)), (other, compiled(x)))
        ]
        for a, b in zip(*found, strict=True):
            assert torch.equal(a, b)


def test_a_call_without_a_module_is_a_layer_of_its_own() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.u = (nn.Parameter(torch.ones(5, n)) for n in (6, 5))

        def forward(self, x: Tensor) -> Tensor:
            h = torch.zeros(1, 3, 5)
            return torch.rnn_tanh(x, h, [self.w, self.u], False, 1, 0.0, True, False, False)[0]

    x = torch.randn(4, 3, 6)
    plain = Model()
    model = lp.convert(Model(), lp.Plan.uniform("fx4.2"), example_inputs=x)
    assert set(lp.nn.conversion_report(model).layers) == {"rnn#0"}
    assert not lp.nn.conversion_report(model).left
    assert lp.nn.plan_of(model.w).parameter.format == lp.parse_format("fx4.2")  # type: ignore[union-attr]
    assert not torch.equal(model(x), plain(x))


def test_empty_batches_and_errors_are_pytorchs_own() -> None:
    layer = lp.convert(nn.LSTM(6, 5), RANDOM)
    y, _ = layer(torch.randn(4, 0, 6))
    assert y.shape == (4, 0, 5)
    with pytest.raises(RuntimeError, match="Expected sequence length to be larger than 0"):
        layer(torch.randn(0, 3, 6))
    with pytest.raises(RuntimeError, match="must be equal to input_size"):
        layer(torch.randn(4, 3, 7))


def test_nan_stays_in_the_samples_that_have_it() -> None:
    layer = lp.convert(nn.LSTM(6, 5), lp.Plan.uniform("e5m2"))
    x = torch.randn(4, 3, 6)
    x[2, 1, 0] = float("nan")
    y = layer(x)[0]
    assert y[2:, 1].isnan().all()
    assert not y[:2].isnan().any()
    assert not y[:, [0, 2]].isnan().any()


def test_the_plan_and_the_optimizer_know_it() -> None:
    model = nn.Sequential(nn.LSTM(6, 5))
    lp.convert(model, lp.Plan.load("dfx8"))
    assert "LSTM" in str(lp.nn.conversion_report(model))
    optimizer = lp.optim.SGD(model.parameters(), 0.1, writeback="kahan", format="plan")
    formats = [str(optimizer.formats_of(p)["parameter"]) for p in model.parameters()]
    assert formats == 4 * ["dfx8"]
