"""Layers under a plan's accumulator against hand-written compositions of quantize and matmul."""

import copy
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import limprec as lp
from limprec.errors import ConversionError, ConversionWarning, FormatError
from limprec.kernels import Key
from limprec.nn import conversion_report, watch_roundings
from limprec.nn.contracting import sum_seeds
from limprec.nn.state import STREAMS, STREAMS_PER_LAYER, function_index
from limprec.plan import parse_accumulator

SEED = 5
SUMS = [
    "e5m10",
    "e5m7 chunk=4",
    "e5m4 kahan",
    "e5m5:stochastic",
    "e6m5:stochastic chunk=3 product=e5m3",
    "e5m6:toward_zero adder=tree",
    "fx16.8",
]


def stream(name: str, layer: int = 0, call: int = 0) -> int:
    return layer * STREAMS_PER_LAYER + STREAMS[name] + call * 2**20


def rounded(x: Tensor, role: str, name: str, call: int = 0) -> Tensor:
    return lp.quantize(x.detach(), role, seed=SEED, stream=stream(name, call=call), step=1)


def adder(sums: str, call: int = 0) -> Callable[[int, Tensor, Tensor], Tensor]:
    """Return what multiplies the three products, as the arguments of ``lp.matmul``."""
    acc = parse_accumulator(sums)
    seeds = sum_seeds(Key(SEED, stream("product", call=call), 1))

    def multiply(product: int, a: Tensor, b: Tensor) -> Tensor:
        return lp.matmul(
            a,
            b,
            acc.precision.format,
            acc.product,
            acc.chunk,
            acc.kahan,
            acc.precision.rounding,
            seeds[product],
            acc.adder,
        )

    return multiply


def plan(sums: str, **more: str) -> lp.Plan:
    roles = {
        "weight": "e4m3:stochastic",
        "activation": "dfx8:stochastic",
        "error": "e5m2:stochastic",
        "gradient": "dfx6:stochastic",
    }
    return lp.Plan(default={**roles, **more, "accumulator": sums})


def values(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("sums", SUMS)
def test_a_linear_layer_adds_three_products_in_its_accumulator(sums: str) -> None:
    torch.manual_seed(0)
    layer, x, upstream = nn.Linear(7, 5), values(2, 3, 7).requires_grad_(), values(2, 3, 5, seed=2)
    lp.convert(layer, plan(sums), seed=SEED)
    y = layer(x)
    y.backward(upstream)

    multiply = adder(sums)
    qx, qw = (
        rounded(x, "dfx8:stochastic", "activation"),
        rounded(layer.weight, "e4m3:stochastic", "weight"),
    )
    expected = multiply(0, qx.view(6, 7), qw.T).view(2, 3, 5) + layer.bias
    assert torch.equal(y, expected)
    e = rounded(upstream, "e5m2:stochastic", "error")
    assert x.grad is not None
    assert torch.equal(x.grad.view(6, 7), multiply(1, e.view(6, 5), qw))
    grad = multiply(2, e.view(6, 5).T, qx.view(6, 7))
    assert layer.weight.grad is not None
    assert torch.equal(layer.weight.grad, rounded(grad, "dfx6:stochastic", "gradient"))
    assert layer.bias.grad is not None
    assert torch.equal(layer.bias.grad, e.sum((0, 1)))


def by_hand(
    x: Tensor, w: Tensor, e: Tensor | None, conv: Any, multiply: Callable[..., Tensor]
) -> Tensor | tuple[Tensor, Tensor]:
    """Return a convolution, or its two gradients, from terms gathered one by one."""
    groups, kernel, stride = conv.groups, conv.kernel_size, conv.stride
    pad = conv.padding if conv.padding_mode == "zeros" else (0,) * len(kernel)
    batch, sizes = x.shape[0], x.shape[2:]
    places = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, p, d, k, s in zip(sizes, pad, conv.dilation, kernel, stride, strict=True)
    ]
    inside, outside = x.shape[1] // groups, w.shape[0] // groups
    taps = list(itertools.product(*map(range, kernel)))

    def source(place: Any, tap: Any) -> Any:
        at = [
            o * s + t * d - p
            for o, s, t, d, p in zip(place, stride, tap, conv.dilation, pad, strict=True)
        ]
        return tuple(at) if all(0 <= i < n for i, n in zip(at, sizes, strict=True)) else None

    rows = [(n, place) for n in range(batch) for place in itertools.product(*map(range, places))]
    y = x.new_zeros(batch, w.shape[0], *places)
    grad_x, grad_w = torch.zeros_like(x), torch.zeros_like(w)
    windows = x.new_zeros(groups, len(rows), inside * len(taps))
    for g, (r, (n, place)), c, (t, tap) in itertools.product(
        range(groups), enumerate(rows), range(inside), enumerate(taps)
    ):
        if (at := source(place, tap)) is not None:
            windows[g, r, c * len(taps) + t] = x[(n, g * inside + c, *at)]
    weight = w.reshape(groups, outside, -1)
    if e is None:
        sums = multiply(0, windows, weight.mT)
        for g, (r, (n, place)), o in itertools.product(
            range(groups), enumerate(rows), range(outside)
        ):
            y[(n, g * outside + o, *place)] = sums[g, r, o]
        return y
    errors = x.new_zeros(groups, outside, len(rows))
    elements = [(n, at) for n in range(batch) for at in itertools.product(*map(range, sizes))]
    number = {element: i for i, element in enumerate(elements)}
    met = x.new_zeros(groups, len(elements), outside * len(taps))
    for g, (r, (n, place)), o in itertools.product(range(groups), enumerate(rows), range(outside)):
        errors[g, o, r] = e[(n, g * outside + o, *place)]
        for t, tap in enumerate(taps):
            if (at := source(place, tap)) is not None:
                met[g, number[n, at], o * len(taps) + t] = errors[g, o, r]
    back = w.reshape(groups, outside, inside, -1).permute(0, 1, 3, 2).reshape(groups, -1, inside)
    sums = multiply(1, met, back)
    for g, (i, (n, at)), c in itertools.product(range(groups), enumerate(elements), range(inside)):
        grad_x[(n, g * inside + c, *at)] = sums[g, i, c]
    return grad_x, multiply(2, errors, windows).reshape(grad_w.shape)


CONVOLUTIONS: list[tuple[Any, tuple[int, ...], dict[str, Any]]] = [
    (nn.Conv1d, (2, 4, 9), {"stride": 2, "padding": 1}),
    (nn.Conv2d, (2, 4, 5, 6), {"groups": 2, "dilation": 2, "padding": (2, 1), "bias": False}),
    (nn.Conv2d, (1, 4, 6, 5), {"stride": (3, 2)}),
    (nn.Conv2d, (2, 4, 4, 4), {"padding": 3}),
    (nn.Conv3d, (1, 4, 3, 4, 3), {"padding": 1, "groups": 4}),
]


@pytest.mark.parametrize("sums", ["e5m10", "e5m5:stochastic chunk=8", "e5m4 kahan"])
@pytest.mark.parametrize(("kind", "shape", "options"), CONVOLUTIONS)
def test_a_convolution_adds_its_windows_in_its_accumulator(
    kind: Any, shape: tuple[int, ...], options: dict[str, Any], sums: str
) -> None:
    torch.manual_seed(0)
    layer, x = kind(4, 8, 3, **options), values(*shape).requires_grad_()
    lp.convert(layer, plan(sums), seed=SEED)
    y = layer(x)
    upstream = values(*y.shape, seed=2)
    y.backward(upstream)

    multiply = adder(sums)
    qx, qw = (
        rounded(x, "dfx8:stochastic", "activation"),
        rounded(layer.weight, "e4m3:stochastic", "weight"),
    )
    expected = by_hand(qx, qw, None, layer, multiply)
    assert isinstance(expected, Tensor)
    if layer.bias is not None:
        expected = expected + layer.bias.view(-1, *[1] * (len(shape) - 2))
    assert torch.equal(y, expected)
    grad_x, grad_w = by_hand(qx, qw, rounded(upstream, "e5m2:stochastic", "error"), layer, multiply)
    assert torch.equal(x.grad, grad_x)  # type: ignore[arg-type]
    assert torch.equal(layer.weight.grad, rounded(grad_w, "dfx6:stochastic", "gradient"))


@pytest.mark.parametrize(
    "options",
    [
        {"padding": "same", "dilation": 3},
        {"padding": "valid", "stride": 2},
        {"padding": "same", "padding_mode": "circular"},
        {"padding": 1, "padding_mode": "reflect"},
    ],
)
def test_padding_of_every_kind_is_that_of_the_layer(options: dict[str, Any]) -> None:
    """In a wide accumulator the products are the plain ones; only Qg rounds them, to fp32."""
    torch.manual_seed(0)
    plain, x = nn.Conv2d(2, 3, 3, **options).double(), values(2, 7, 8).double()
    layer = lp.convert(copy.deepcopy(plain), lp.Plan(default={"accumulator": "e9m48"}))
    # float32 numbers: a float64 holds their products
    x = x.float().double()
    for p, q in zip(plain.parameters(), layer.parameters(), strict=True):
        p.data = q.data = p.data.float().double()
    found = []
    for model in (plain, layer):
        leaf = x.clone().requires_grad_()
        y = model(leaf)
        y.backward(torch.ones_like(y))
        found.append([y, leaf.grad, *(p.grad for p in model.parameters())])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


class Calls(nn.Module):
    """Multiplies by a function."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *tensors: Tensor) -> Tensor:
        return self.function(*tensors)


PAIRS: list[tuple[Callable[..., Tensor], tuple[int, ...], tuple[int, ...]]] = [
    (torch.matmul, (3, 4), (4, 2)),
    (lambda a, b: a @ b, (2, 3, 4), (4, 2)),
    (torch.matmul, (3, 4), (2, 4, 5)),
    (torch.matmul, (2, 1, 3, 4), (5, 4, 2)),
    (torch.matmul, (4,), (2, 4, 3)),
    (torch.matmul, (2, 3, 4), (4,)),
    (torch.matmul, (4,), (4,)),
    (torch.mm, (3, 4), (4, 2)),
    (torch.bmm, (2, 3, 4), (2, 4, 5)),
    (torch.mv, (3, 4), (4,)),
    (torch.dot, (4,), (4,)),
    (Tensor.__rmatmul__, (4, 2), (3, 4)),
    (lambda a, b: torch.addmm(torch.ones(2), a, b, beta=2, alpha=0.5), (3, 4), (4, 2)),
    (lambda a, b: torch.addmm(torch.full((2,), torch.nan), a, b, beta=0), (3, 4), (4, 2)),
    (lambda a, b: torch.addmv(torch.ones(3), a, b), (3, 4), (4,)),
    (lambda a, b: torch.baddbmm(torch.ones(2, 3, 5), a, b), (2, 3, 4), (2, 4, 5)),
    (lambda a, b: torch.addbmm(torch.ones(3, 5), a, b, alpha=3), (2, 3, 4), (2, 4, 5)),
    (F.linear, (2, 3, 4), (5, 4)),
    (F.linear, (4,), (5, 4)),
    (F.linear, (3, 4), (4,)),
]


@pytest.mark.parametrize(("function", "a", "b"), PAIRS)
def test_every_product_has_its_form(
    function: Callable[..., Tensor], a: tuple[int, ...], b: tuple[int, ...]
) -> None:
    """Small whole numbers add exactly in any order: result and gradients are the plain ones."""
    found = []
    for accumulator in (None, "e5m10"):
        roles = {"accumulator": accumulator} if accumulator else {}
        x, y = ((values(*s, seed=len(s)) * 3).round().requires_grad_() for s in (a, b))
        model = lp.convert(Calls(function), lp.Plan(default=roles), example_inputs=(x, y))
        z = model(x, y)
        z.backward((values(*z.shape) * 3).round())
        found.append((z, x.grad, y.grad))
    for plain, own in zip(*found, strict=True):
        assert torch.equal(plain, own)


def test_products_of_functions_and_their_gradients_are_summed_narrowly() -> None:
    a, b = values(2, 3, 4).requires_grad_(), values(4, 5, seed=2).requires_grad_()
    plan = lp.Plan(default={"accumulator": "e5m3 chunk=2"})
    model = lp.convert(Calls(torch.matmul), plan, example_inputs=(a, b))
    y, e = model(a, b), values(2, 3, 5, seed=3)
    y.backward(e)
    narrow = parse_accumulator("e5m3 chunk=2")
    rows, errors = a.detach().view(6, 4), e.view(6, 5)
    assert torch.equal(y.view(6, 5), narrow.multiply(rows, b))
    assert a.grad is not None
    assert torch.equal(a.grad.view(6, 4), narrow.multiply(errors, b.T))
    assert torch.equal(b.grad, narrow.multiply(rows.T, errors))  # type: ignore[arg-type]


@pytest.mark.parametrize("sums", ["e5m4", "e5m4:stochastic"])
def test_both_products_of_attention_are_summed_narrowly(sums: str) -> None:
    q, k, v = inputs = tuple(values(2, 3, 4, seed=s) for s in (1, 2, 3))
    plan = lp.Plan(default={"accumulator": sums})
    model = Calls(F.scaled_dot_product_attention)
    got = lp.convert(model, plan, example_inputs=inputs, seed=SEED)(*inputs)

    def product(call: int, a: Tensor, b: Tensor) -> Tensor:
        number = stream("product", function_index("attention#0"), call)
        seed = sum_seeds(Key(SEED, number, 1))[0]
        return parse_accumulator(sums).multiply(a, b, seed)

    scores = product(0, q * 0.5, k.mT)
    assert torch.equal(got, product(1, torch.softmax(scores, -1), v))


def test_multihead_attention_is_summed_narrowly_throughout() -> None:
    torch.manual_seed(0)
    plain = nn.MultiheadAttention(8, 2, batch_first=True)
    x = values(2, 3, 8)
    outputs = []
    for sums in (None, "e8m20", "e5m2"):
        roles = {"accumulator": sums} if sums else {}
        model = lp.convert(copy.deepcopy(plain), lp.Plan(default=roles))
        y, _ = model(x, x, x, need_weights=False)
        y.sum().backward()
        outputs.append((y, [p.grad for p in model.parameters()]))
    (a, ga), (b, gb), (c, _) = outputs
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    for p, q in zip(ga, gb, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)
    assert (a - c).abs().max() > 1e-2


def test_stochastic_sums_depend_on_seed_step_call_and_product() -> None:
    keys = [Key(s, n, t) for s in (0, 1) for n in (7, 15, 7 + 2**20) for t in (1, 2)]
    seeds = [seed for key in keys for seed in sum_seeds(key)]
    assert len(set(seeds)) == len(seeds)
    assert max(seeds) >= 2**62

    def outputs(seed: int) -> list[Tensor]:
        torch.manual_seed(0)
        layer = nn.Linear(64, 4)
        lp.convert(layer, lp.Plan(default={"accumulator": "e5m3:stochastic"}), seed=seed)
        return [layer(values(3, 64)) for _ in range(2)]

    first, second = outputs(0)
    assert torch.equal(first, outputs(0)[0])
    assert not torch.equal(first, second)
    assert not torch.equal(first, outputs(1)[0])


class Recomputing(nn.Module):
    def __init__(self, again: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.again = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3)), again

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = checkpoint(self.body, x, use_reentrant=False) if self.again else self.body(x)
        return y


def test_a_recomputed_forward_adds_as_the_first() -> None:
    found = []
    for again in (False, True):
        model, x = Recomputing(again), values(4, 6).requires_grad_()
        lp.convert(model, lp.Plan(default={"accumulator": "e5m3:stochastic"}), seed=1)
        model(x).sum().backward()
        found.append([x.grad, *(p.grad for p in model.parameters())])
    for a, b in zip(*found, strict=True):
        assert a is not None
        assert b is not None
        assert torch.equal(a, b)


def test_a_watcher_hears_of_every_rounding() -> None:
    layer, heard = nn.Linear(4, 3), []
    lp.convert(layer, plan("e5m3"))
    watch_roundings(layer, lambda event: heard.append(event.role))
    layer(values(2, 4).requires_grad_()).sum().backward()
    assert sorted(heard) == ["activation", "error", "gradient", "weight"]


@pytest.mark.parametrize(
    ("sums", "message"),
    [
        ("dfx8", "accumulator dfx8 of layer '': .*use a fixed-point or floating-point format"),
        ("e5m3 kahan adder=tree", "Kahan summation with adder 'tree'; use adder='sequential'"),
        ("e5m3 adder=ladder", "unknown adder 'ladder'"),
        ("e8m22:stochastic", "accumulator e8m22:stochastic of layer ''"),
    ],
)
def test_an_accumulator_that_cannot_be_is_refused(sums: str, message: str) -> None:
    with pytest.raises(ConversionError, match=message):
        lp.convert(nn.Linear(2, 2), lp.Plan(default={"accumulator": sums}))


def test_a_product_without_a_form_is_named() -> None:
    inputs = values(2, 3), values(4, 3)
    model = Calls(lambda a, b: torch.einsum("ij,kj->ik", a, b))
    lp.convert(model, lp.Plan(default={"accumulator": "e5m3"}), example_inputs=inputs)
    with pytest.warns(ConversionWarning, match="einsum: its sums are not rounded to e5m3"):
        model(*inputs)
    assert "not converted: einsum: its sums" in str(conversion_report(model))


def test_the_carrier_must_hold_the_accumulator() -> None:
    plan = lp.Plan(default={"accumulator": "e9m40"})
    with pytest.raises(FormatError, match="accumulator of layer '': e9m40 has 41 significant bits"):
        lp.convert(nn.Linear(2, 2), plan)
    lp.convert(nn.Linear(2, 2).double(), plan)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # PyTorch
def test_a_compiler_is_told_to_leave_it() -> None:
    layer = lp.convert(nn.Linear(8, 2), lp.Plan(default={"accumulator": "e5m3:stochastic"}))
    x, twin = values(3, 8), copy.deepcopy(layer)
    whole = torch.compile(copy.deepcopy(layer), fullgraph=True, backend="eager")
    with pytest.raises(torch._dynamo.exc.Unsupported, match="in an accumulator, or of blocks"):
        whole(x)
    compiled = torch.compile(layer, backend="eager")
    for _ in range(3):
        found = []
        for model in (compiled, twin):
            leaf = x.clone().requires_grad_()
            y = model(leaf)
            y.sum().backward()
            found.append((y, leaf.grad))
        assert torch.equal(found[0][0], found[1][0])
        assert torch.equal(found[0][1], found[1][1])


def test_the_products_of_a_recurrent_layer_are_summed_narrowly() -> None:
    torch.manual_seed(0)
    sums, x = "e5m3:stochastic", values(3, 2, 6)
    layer = nn.RNN(6, 5)
    lp.convert(layer, lp.Plan(default={"accumulator": sums}), seed=SEED)
    output, _ = layer(x)
    h = torch.zeros(2, 5)
    gates = adder(sums)(0, x.view(6, 6), layer.weight_ih_l0.T).view(3, 2, 5) + layer.bias_ih_l0
    for t in range(3):
        own = adder(sums, 1 + t)(0, h, layer.weight_hh_l0.T) + layer.bias_hh_l0
        h = torch.tanh(gates[t] + own)
        assert torch.equal(output[t], h)


def test_operands_kept_in_real_bits_are_the_same_operands() -> None:
    found = []
    for saved in ("carrier", "narrow"):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1, groups=2), nn.Linear(5, 3))
        lp.convert(model, plan("e5m4:stochastic", weight="dfx8"), saved=saved, seed=SEED)
        x = values(2, 2, 6, 5).requires_grad_()
        model(x).square().sum().backward()
        found.append([x.grad, *(p.grad for p in model.parameters())])
    for a, b in zip(*found, strict=True):
        assert a is not None
        assert b is not None
        assert torch.equal(a, b)
