"""Block formats in layers: rounded along what each product sums over, anew for each of them."""

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import limprec as lp
from limprec.formats import parse_precision
from limprec.kernels import Key
from limprec.kernels.hadamard import Rotation
from limprec.kernels.matmul.bilinear import AGAIN, Arithmetic, Matrices, Product, contract
from limprec.kernels.matmul.unfold import Convolution
from limprec.nn import conversion_report, watch_roundings
from limprec.nn.contracting import random_signs, sum_seeds
from limprec.nn.state import STREAMS, STREAMS_PER_LAYER, function_index
from limprec.plan import parse_accumulator

SEED = 3
NAMES = ["mxfp8_e4m3", "mxfp4_e2m1:stochastic", "mxint8b4", "dfx6b8:stochastic", "nvfp4:stochastic"]


def rounded(
    x: Tensor, role: str, axis: int, stream: str, again: bool = False, layer: int = 0, call: int = 0
) -> Tensor:
    """Round in blocks along an axis, with the words of a layer's tensor."""
    name, colon, mode = role.partition(":")
    number = layer * STREAMS_PER_LAYER + STREAMS[stream] + call * 2**20
    offset = AGAIN if again else 0
    fmt = f"{name}a{axis}{colon}{mode}"
    return lp.quantize(x.detach(), fmt, seed=SEED, stream=number, step=1, offset=offset)


def values(*shape: int, seed: int = 1) -> Tensor:
    scale = torch.randn(shape, generator=torch.Generator().manual_seed(seed + 99)).exp()
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


def plan_of_blocks(name: str, **more: Any) -> lp.Plan:
    return lp.Plan(default={"weight": name, "activation": name, "error": name, **more})


@pytest.mark.parametrize("name", NAMES)
def test_a_linear_layer_rounds_along_what_each_product_sums_over(name: str) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(40, 19), values(3, 13, 40).requires_grad_()
    lp.convert(layer, plan_of_blocks(name, gradient="dfx8:stochastic"), seed=SEED)
    y, upstream = layer(x), values(3, 13, 19, seed=2)
    y.backward(upstream)

    rows, e, w = x.detach().view(39, 40), upstream.view(39, 19), layer.weight
    forward = rounded(rows, name, -1, "activation") @ rounded(w, name, -1, "weight").T
    assert torch.equal(y, forward.view(3, 13, 19) + layer.bias)
    assert x.grad is not None
    error = rounded(e, name, -1, "error") @ rounded(w, name, 0, "weight", again=True)
    assert torch.equal(x.grad.view(39, 40), error)
    gradient = rounded(e, name, 0, "error", again=True).T @ rounded(
        rows, name, 0, "activation", again=True
    )
    assert layer.weight.grad is not None
    stream = STREAMS["gradient"]
    gradient = lp.quantize(gradient, "dfx8:stochastic", seed=SEED, stream=stream, step=1)
    assert torch.equal(layer.weight.grad, gradient)
    assert layer.bias.grad is not None
    torch.testing.assert_close(layer.bias.grad, e.sum(0))  # a sum of errors as they came


def test_words_of_the_second_product_are_others() -> None:
    x = values(64, 64)
    first, second = (
        rounded(x, "mxfp4_e2m1:stochastic", -1, "weight", again) for again in (False, True)
    )
    assert not torch.equal(first, second)


@pytest.mark.parametrize("sums", [None, "e5m4:stochastic"])
@pytest.mark.parametrize("options", [{"stride": 2, "padding": 1}, {"groups": 2, "bias": False}])
@pytest.mark.parametrize("name", ["mxfp8_e4m3", "mxfp4_e2m1b4:stochastic"])
def test_a_convolution_rounds_along_channels_and_samples(
    name: str, options: dict[str, Any], sums: str | None
) -> None:
    torch.manual_seed(0)
    layer, x = nn.Conv2d(12, 10, 3, **options), values(5, 12, 6, 6).requires_grad_()
    more = {"accumulator": sums} if sums else {}
    lp.convert(layer, plan_of_blocks(name, **more), seed=SEED)
    y = layer(x)
    upstream = values(*y.shape, seed=2)
    y.backward(upstream)

    groups, w = layer.groups, layer.weight.detach()
    pair = lambda n: (n, n)  # noqa: E731
    operation = Convolution((layer.stride[0],) * 2, pair(layer.padding[0]), (1, 1), groups)
    multiply: dict[Product, Any] = {}
    if sums:
        seeds = sum_seeds(Key(SEED, STREAMS["product"], 1))
        acc = parse_accumulator(sums)
        multiply = {p: (lambda a, b, s=seeds[p]: acc.multiply(a, b, s)) for p in Product}

    def apart(t: Tensor, stream: str, again: bool = False) -> Tensor:
        split = t.reshape(len(t), groups, -1, *t.shape[2:])
        return rounded(split, name, 2, stream, again).view(t.shape)

    qx, qw = apart(x.detach(), "activation"), rounded(w, name, 1, "weight")
    expected = operation.forward(qx, qw, multiply.get(Product.FORWARD))
    if not sums:
        assert torch.equal(expected, F.conv2d(qx, qw, None, layer.stride, layer.padding, 1, groups))
    if layer.bias is not None:
        expected = expected + layer.bias.view(-1, 1, 1)
    assert torch.equal(y, expected)
    split = w.reshape(groups, -1, *w.shape[1:])
    qw = rounded(split, name, 1, "weight", again=True).view(w.shape)
    first = operation.first(apart(upstream, "error"), qw, x.shape, multiply.get(Product.FIRST))
    assert x.grad is not None
    assert torch.equal(x.grad, first)
    second = operation.second(
        rounded(upstream, name, 0, "error", again=True),
        rounded(x, name, 0, "activation", again=True),
        w.shape,
        multiply.get(Product.SECOND),
    )
    assert layer.weight.grad is not None
    assert torch.equal(layer.weight.grad, second)


def test_a_convolution_without_an_accumulator_is_pytorchs() -> None:
    torch.manual_seed(0)
    operation = Convolution((2, 1), (1, 0), (1, 2), 2)
    a, b = values(3, 4, 6, 7).requires_grad_(), values(6, 2, 3, 2).requires_grad_()
    y = F.conv2d(a, b, None, (2, 1), (1, 0), (1, 2), 2)
    e = values(*y.shape, seed=7)
    y.backward(e)
    assert torch.equal(operation.forward(a, b, None), y)
    assert torch.equal(operation.first(e, b, a.shape, None), a.grad)  # type: ignore[arg-type]
    assert torch.equal(operation.second(e, a, b.shape, None), b.grad)  # type: ignore[arg-type]


class Attends(nn.Module):
    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)


def test_the_products_of_attention_round_along_their_sums() -> None:
    name = "mxfp6_e2m3:stochastic"
    q, k, v = inputs = tuple(values(2, 3, 9, 16, seed=s).requires_grad_() for s in (1, 2, 3))
    model = lp.convert(Attends(), plan_of_blocks(name), example_inputs=inputs, seed=SEED)
    y, e = model(*inputs), values(2, 3, 9, 16, seed=4)
    y.backward(e)
    layer = function_index("attention#0")

    def r(x: Tensor, axis: int, stream: str, call: int, again: bool = False) -> Tensor:
        return rounded(x, name, axis, stream, again, layer, call)

    kt = k.detach().mT
    scaled = q.detach() * 0.25
    leaf = (r(scaled, -1, "activation", 0) @ r(kt, -2, "activation 2", 0)).requires_grad_()
    weights = torch.softmax(leaf, -1)
    assert torch.equal(y, r(weights, -1, "activation", 1) @ r(v, -2, "activation 2", 1))
    back = r(e, -1, "error", 1) @ r(v, -1, "activation 2", 1, again=True).mT
    weights.backward(back)
    assert leaf.grad is not None
    error = leaf.grad
    grad_v = r(weights, -2, "activation", 1, again=True).mT @ r(e, -2, "error", 1, again=True)
    assert torch.equal(v.grad, grad_v)  # type: ignore[arg-type]
    grad_q = r(error, -1, "error", 0) @ r(kt, -1, "activation 2", 0, again=True).mT
    assert torch.equal(q.grad, grad_q * 0.25)  # type: ignore[arg-type]
    grad_k = r(scaled, -2, "activation", 0, again=True).mT @ r(error, -2, "error", 0, again=True)
    assert torch.equal(k.grad, grad_k.mT)  # type: ignore[arg-type]


@pytest.mark.parametrize("blocked", ["weight", "activation", "error"])
def test_each_role_is_rounded_as_its_own_rule_says(blocked: str) -> None:
    torch.manual_seed(0)
    roles = {"weight": "e5m2", "activation": "dfx8", "error": "e4m3"} | {blocked: "mxfp4_e2m1"}
    layer, x = nn.Linear(33, 12), values(35, 33).requires_grad_()
    lp.convert(layer, lp.Plan(default=roles), seed=SEED)
    y, e = layer(x), values(35, 12, seed=2)
    y.backward(e)

    def q(t: Tensor, role: str, axis: int) -> Tensor:
        return lp.quantize(t.detach(), roles[role] + (f"a{axis}" if role == blocked else ""))

    forward = q(x, "activation", -1) @ q(layer.weight, "weight", -1).T
    assert torch.equal(y, forward + layer.bias)
    assert x.grad is not None
    assert torch.equal(x.grad, q(e, "error", -1) @ q(layer.weight, "weight", 0))
    assert layer.weight.grad is not None
    assert torch.equal(layer.weight.grad, q(e, "error", 0).T @ q(x, "activation", 0))


@pytest.mark.parametrize("name", ["mxfp4_e2m1a0", "dfx6b8a0", "dfx6c0"])
def test_a_format_that_names_its_axis_keeps_it(name: str) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(40, 19), values(33, 40).requires_grad_()
    lp.convert(layer, plan_of_blocks(name), seed=SEED)
    y, e = layer(x), values(33, 19, seed=2)
    y.backward(e)
    qx, qw, qe = (lp.quantize(t.detach(), name) for t in (x, layer.weight, e))
    assert torch.equal(y, F.linear(qx, qw, layer.bias))
    assert x.grad is not None
    assert torch.equal(x.grad, qe @ qw)
    assert torch.equal(layer.weight.grad, qe.T @ qx)  # type: ignore[arg-type]


def hadamard(size: int) -> Tensor:
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.cat((torch.cat((matrix, matrix), 1), torch.cat((matrix, -matrix), 1)))
    return matrix


@pytest.mark.parametrize("size", [2, 8, 16])
def test_a_rotation_is_the_orthogonal_matrix_of_its_block(size: int) -> None:
    signs = random_signs(Key(1), size)
    matrix = hadamard(size) * signs / math.sqrt(size)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(size))
    x = values(3, size + 1, 5)
    turned = Rotation(signs)(x, 1)
    padded = F.pad(x, (0, 0, 0, size - 1)).view(3, 2, size, 5)
    expected = torch.einsum("ij,nbjk->nbik", matrix, padded).reshape(3, 2 * size, 5)
    torch.testing.assert_close(turned, expected)


@pytest.mark.parametrize(
    ("operation", "a", "b", "rotated"),
    [
        (Matrices(transposed=True), (21, 7), (5, 7), Product.SECOND),
        (Matrices(), (2, 21, 7), (2, 7, 19), Product.FIRST),
        (Convolution((1,), (1,), (1,), 2), (18, 4, 6), (6, 2, 3), Product.SECOND),
    ],
)
def test_a_rotation_leaves_the_product_as_it_was(
    operation: Any, a: tuple[int, ...], b: tuple[int, ...], rotated: Product
) -> None:
    found = []
    for rotation in (None, Rotation(random_signs(Key(4), 16))):
        x, w = values(*a).requires_grad_(), values(*b, seed=2).requires_grad_()
        how = Arithmetic(rotation=rotation, rotated=rotated)
        y = contract(x, w, operation, how)
        y.backward(values(*y.shape, seed=3))
        found.append((y, x.grad, w.grad))
    for plain, own in zip(*found, strict=True):
        torch.testing.assert_close(plain, own, rtol=1e-4, atol=1e-4)


def test_both_operands_of_the_weight_gradient_are_rotated_before_they_are_rounded() -> None:
    torch.manual_seed(0)
    name = "nvfp4:stochastic"
    layer, x = nn.Linear(24, 20), values(2, 11, 24).requires_grad_()
    roles = {"weight": name, "activation": name, "error": name}
    lp.convert(layer, lp.Plan(default=roles, hadamard=16), seed=SEED)
    y, upstream = layer(x), values(2, 11, 20, seed=2)
    y.backward(upstream)
    rows, e = x.detach().view(22, 24), upstream.view(22, 20)
    turn = Rotation(random_signs(Key(SEED, STREAMS["product"], 1, 8), 16))
    assert torch.equal(
        y.view(22, 20),
        rounded(rows, name, -1, "activation") @ rounded(layer.weight, name, -1, "weight").T
        + layer.bias,
    )
    gradient = rounded(turn(e, 0), name, 0, "error", again=True).T @ rounded(
        turn(rows, 0), name, 0, "activation", again=True
    )
    assert torch.equal(layer.weight.grad, gradient)  # type: ignore[arg-type]
    before, layer.weight.grad = layer.weight.grad, None
    layer(x).backward(upstream)  # another step has other signs
    assert not torch.equal(before, layer.weight.grad)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "least", "most"), [("mxfp4_e2m1", 0, 0.9), ("nvfp4", 0.95, 2)])
def test_what_a_rotation_does_to_an_outlier(name: str, least: float, most: float) -> None:
    """A token thirty times larger than its block: gains under MX's scales, none under NVFP4's."""
    errors = {0: 0.0, 16: 0.0}
    for seed, size in itertools.product(range(4), errors):
        x, upstream = (
            torch.randn(64, 32, generator=torch.Generator().manual_seed(s))
            for s in (seed, seed + 9)
        )
        x[5] *= 30
        exact, layer = upstream.T @ x, nn.Linear(32, 32, bias=False)
        roles = {"activation": name, "error": name}
        lp.convert(layer, lp.Plan(default=roles, hadamard=size, num_classes=2), seed=seed)
        layer(x).backward(upstream)
        assert layer.weight.grad is not None
        errors[size] += float((layer.weight.grad - exact).norm() / exact.norm())
    assert least < errors[16] / errors[0] < most


@pytest.mark.parametrize(
    "roles",
    [
        {"activation": "mxfp4_e2m1", "error": "e4m3"},
        {"activation": "dfx8", "error": "dfx8"},
        {"weight": "mxfp4_e2m1"},
    ],
)
def test_what_is_not_in_blocks_is_not_rotated(roles: dict[str, str]) -> None:
    found = []
    for size in (0, 16):
        torch.manual_seed(0)
        layer, x = nn.Linear(24, 20), values(22, 24)
        lp.convert(layer, lp.Plan(default=roles, hadamard=size))
        layer(x).backward(values(22, 20, seed=2))
        found.append(layer.weight.grad)
    assert torch.equal(found[0], found[1])  # type: ignore[arg-type]


def test_a_weight_on_the_left_has_its_gradient_rotated() -> None:
    class Left(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(values(6, 20))

        def forward(self, x: Tensor) -> Tensor:
            return self.weight @ x

    name, x = "mxfp4_e2m1", values(20, 18).requires_grad_()
    plan = lp.Plan(default=plan_of_blocks(name).default, hadamard=2)
    model = lp.convert(Left(), plan, example_inputs=x, seed=SEED)
    e = values(6, 18, seed=2)
    model(x).backward(e)
    number = function_index("matmul#0") * STREAMS_PER_LAYER + STREAMS["product"]
    turn = Rotation(random_signs(Key(SEED, number, 1, 8), 2))
    gradient = lp.quantize(turn(e, 1), name) @ lp.quantize(turn(x.detach(), 1), name).T
    assert torch.equal(model.weight.grad, gradient)
    grad_x = lp.quantize(model.weight.detach(), f"{name}a0").T @ lp.quantize(e, f"{name}a0")
    assert torch.equal(x.grad, grad_x)  # type: ignore[arg-type]


def test_a_watcher_hears_of_each_role_once() -> None:
    heard: list[tuple[str, Tensor]] = []
    layer = lp.convert(nn.Linear(8, 4), plan_of_blocks("mxfp4_e2m1", gradient="e5m2"))
    watch_roundings(layer, lambda event: heard.append((event.role, event.after)))
    x, e = values(3, 8), values(3, 4, seed=2)
    layer(x).backward(e)  # no gradient of x: the error's rounding for it is told all the same
    assert sorted(role for role, _ in heard) == ["activation", "error", "gradient", "weight"]
    told = dict(heard)
    assert torch.equal(told["activation"], lp.quantize(x, "mxfp4_e2m1"))
    assert torch.equal(told["weight"], lp.quantize(layer.weight.detach(), "mxfp4_e2m1"))
    assert torch.equal(told["error"], lp.quantize(e, "mxfp4_e2m1"))
    assert torch.equal(told["gradient"], layer.weight.grad)  # type: ignore[arg-type]


@pytest.mark.usefixtures("bfloat16_machine")
def test_fast_is_exact_but_for_results_in_bfloat16() -> None:
    found = []
    for compute in ("exact", "fast"):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv1d(4, 8, 3), nn.Flatten(), nn.Linear(32, 5))
        lp.convert(model, plan_of_blocks("mxfp8_e4m3"), compute=compute)
        x = values(6, 4, 6).requires_grad_()
        y = model(x)
        y.backward(values(6, 5, seed=2))
        found.append((y, x.grad, *(p.grad for p in model.parameters())))
    assert not torch.equal(found[0][0], found[1][0])
    for a, b in zip(*found, strict=True):
        assert float((a - b).detach().norm() / a.detach().norm()) < 0.05


def test_tables_and_transposed_convolutions_round_along_the_last_axis() -> None:
    torch.manual_seed(0)
    table = lp.convert(nn.Embedding(9, 40), plan_of_blocks("mxfp4_e2m1"))
    picked = table(torch.tensor([1, 2]))
    assert torch.equal(picked, lp.quantize(table.weight.detach(), "mxfp4_e2m1")[[1, 2]])
    layer = lp.convert(nn.ConvTranspose1d(4, 3, 2), plan_of_blocks("mxfp4_e2m1"))
    x = values(2, 4, 5)
    with pytest.warns(lp.errors.ConversionWarning, match="blocks run along the last axis"):
        y = layer(x)
    q = [lp.quantize(t.detach(), "mxfp4_e2m1") for t in (x, layer.weight)]
    assert torch.equal(y, F.conv_transpose1d(q[0], q[1], layer.bias))
    assert "conv_transpose1d" in str(conversion_report(layer))


def test_blocks_of_a_precision_keep_their_rounding() -> None:
    from limprec.kernels.matmul.bilinear import along

    assert along(parse_precision("mxfp4_e2m1:stochastic16"), 0) == parse_precision(
        "mxfp4_e2m1a0:stochastic16"
    )


def test_a_recurrent_weight_is_one_tensor_of_all_steps() -> None:
    """Every step rounds the same weight with the same words; its own tokens with its own."""
    torch.manual_seed(0)
    name, heard = "mxfp4_e2m1:stochastic", list[str]()
    cell = nn.RNN(6, 5, bias=False)
    x = values(3, 2, 6)
    lp.convert(cell, plan_of_blocks(name), seed=SEED)
    output, _ = cell(x)
    h = torch.zeros(2, 5)
    gates = (
        rounded(x.view(6, 6), name, -1, "activation")
        @ rounded(cell.weight_ih_l0, name, -1, "weight").T
    )
    w = rounded(cell.weight_hh_l0, name, -1, "weight", call=1)
    for t in range(3):
        h = torch.tanh(
            gates.view(3, 2, 5)[t] + rounded(h, name, -1, "activation", call=1 + t) @ w.T
        )
        assert torch.equal(output[t], h)
    watch_roundings(cell, lambda event: heard.append(event.role))
    cell(x)[0].sum().backward()
    assert heard.count("weight") == 2
    assert heard.count("activation") == heard.count("error") == 4
    assert heard.count("gradient") == 2
