"""Convolutions whose float32 sums are proven exact: on integers, with PyTorch's very bits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from limprec.formats import parse_precision
from limprec.kernels import Key, round_through
from limprec.kernels.matmul import exact_conv as module
from limprec.kernels.matmul.exact_conv import Options, exact_conv, is_proven
from limprec.kernels.matmul.real import Role, Roundings

CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)
CASES: dict[str, tuple[tuple[int, ...], tuple[int, ...], Options]] = {
    "3 x 3": ((4, 16, 9, 8), (16, 16, 3, 3), Options((1, 1), (1, 1), (1, 1), 1)),
    "first": ((2, 3, 8, 8), (8, 3, 3, 3), Options((1, 1), (1, 1), (1, 1), 1)),
    "strided": ((3, 8, 9, 9), (16, 8, 3, 3), Options((2, 2), (1, 1), (1, 1), 1)),
    "1 x 1": ((2, 32, 5, 5), (16, 32, 1, 1), Options((2, 1), (0, 0), (1, 1), 1)),
    "dilated": ((2, 8, 11, 9), (8, 8, 3, 2), Options((1, 2), (2, 1), (2, 1), 1)),
    "groups": ((2, 8, 6, 6), (16, 4, 3, 3), Options((1, 1), (1, 1), (1, 1), 2)),
    "one axis": ((3, 16, 20), (8, 16, 5), Options((2,), (2,), (1,), 1)),
    "three axes": ((2, 4, 5, 6, 4), (8, 4, 3, 3, 2), Options((1, 1, 1), (1, 0, 1), (1, 1, 1), 1)),
}


def roundings(text: str = "dfx8") -> Roundings:
    """One precision for all roles, each with its own random stream."""

    def role(stream: int) -> Role:
        return parse_precision(text), Key(3, stream, 0)

    return Roundings(role(0), role(1), role(2), role(3))


def by_torch(x: Tensor, weight: Tensor, options: Options, how: Roundings) -> Tensor:
    """The semantics: a product in float32 between roundings."""
    assert how.error is not None
    assert how.gradient is not None
    a = round_through(x, *how.activation)
    w = round_through(weight, *how.weight, *how.gradient)
    return round_through(CONVOLUTIONS[x.ndim - 3](a, w, None, *options), None, None, *how.error)


def bits(x: Tensor | None) -> Tensor:
    assert x is not None
    return x.detach().view(torch.int32)


def both(x: Tensor, weight: Tensor, options: Options, how: Roundings, grad: Tensor | None) -> None:
    """Compare results and gradients, bit for bit."""
    results = []
    for held in (None, False, True):
        a, w = x.clone().requires_grad_(), weight.clone().requires_grad_()
        given = a, w, options, how
        y = by_torch(*given) if held is None else exact_conv(*given, (held, held))
        e = torch.randn_like(y).mul_(1e-3) if grad is None else grad.expand_as(y)
        y.backward(e)
        results.append((bits(y), bits(a.grad), bits(w.grad)))
        assert y.is_contiguous()
        grad = e
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


@pytest.mark.parametrize("text", ["dfx8", "dfx8:stochastic", "fx8.4", "dfx5"])
@pytest.mark.parametrize("name", CASES)
def test_results_and_gradients_have_the_bits_of_torch(name: str, text: str) -> None:
    torch.manual_seed(0)
    x_shape, weight_shape, options = CASES[name]
    x, weight = torch.randn(x_shape).relu_(), torch.randn(weight_shape)
    assert is_proven(x, weight, options, roundings(text))
    both(x, weight, options, roundings(text), None)


@pytest.mark.parametrize(("text", "value"), [("dfx8", 127.0), ("fx8.0", -128.0)])
def test_a_sum_that_is_not_proven_is_left_to_torch(
    text: str, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """961 products of the largest codes are below 2^24, and 1089 beyond it."""
    asked = []
    own = module._in_float32
    monkeypatch.setattr(module, "_in_float32", lambda *a: asked.append(a[-1]) or own(*a))
    options, weight = Options((1, 1), (0, 0), (1, 1), 1), torch.ones(2, 2, 1, 1)
    for side, expected in ((31, []), (33, [1, 1])):
        asked.clear()
        x = torch.full((1, 2, side, side), value)
        both(x, weight, options, roundings(text), x[0, 0, 0, 0])
        assert asked == expected


def test_sums_of_magnitudes_prove_more_than_norms() -> None:
    """Where one factor is 0 the other may be large."""
    options, weight = Options((1, 1), (0, 0), (1, 1), 1), torch.ones(1, 1, 1, 1)
    e, x = torch.zeros(1, 1, 64, 64), torch.zeros(1, 1, 64, 64)
    e[..., :32], x[..., 31:] = 127.0, 127.0
    codes = [module.round_to_codes(t, *roundings().activation) for t in (e, x)]
    norms = [float(module._norms(c.codes)) for c in codes]
    assert norms[0] * norms[1] > 2**24
    geometry = module._geometry(weight, options)
    assert module._are_exact(*codes, geometry, 1)
    x[..., :31] = 127.0
    full = module.round_to_codes(x, *roundings().activation)
    assert not module._are_exact(codes[0], full, geometry, 1)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e-38, 1e-44, 1e38, 0.0])
@pytest.mark.parametrize("where", ["x", "weight", "grad"])
def test_what_float32_might_round_or_spoil_is_left_to_torch(where: str, value: float) -> None:
    torch.manual_seed(0)
    x_shape, weight_shape, options = CASES["3 x 3"]
    given = {"x": torch.randn(x_shape), "weight": torch.randn(weight_shape)}
    given["grad"] = torch.randn(4, 16, 9, 8)
    given[where] = torch.full_like(given[where], value)
    results = []
    for own in (False, True):
        a, w = given["x"].clone().requires_grad_(), given["weight"].clone().requires_grad_()
        how = roundings()
        y = exact_conv(a, w, options, how, (False, True)) if own else by_torch(a, w, options, how)
        y.backward(given["grad"])
        results.append((y.detach(), a.grad, w.grad))
    for one, other in zip(*results, strict=True):
        assert torch.equal(one.isnan(), other.isnan())
        assert torch.equal(bits(one.nan_to_num(0.0)), bits(other.nan_to_num(0.0)))


def test_a_gradient_of_any_layout() -> None:
    torch.manual_seed(0)
    x_shape, weight_shape, options = CASES["3 x 3"]
    x, weight = torch.randn(x_shape), torch.randn(weight_shape)
    y = torch.randn(4, 16, 9, 8)
    for grad in (
        torch.ones(()),
        torch.randn(4, 16, 1, 1),
        y.to(memory_format=torch.channels_last),
        y.mT.contiguous().mT,
    ):
        both(x, weight, options, roundings(), grad)


def terms(count: int, out: int = 1, **changes: Any) -> bool:
    how = Roundings(*[(parse_precision(changes.get("text", "dfx8")), None)] * 3)
    x, weight = torch.ones(1, count, 2, 2), torch.ones(out, count, 1, 1)
    if "like" in changes:
        x = x.to(**changes["like"])
    return is_proven(x, weight, Options((1, 1), (0, 0), (1, 1), 1), how)


def test_what_is_proven() -> None:
    assert terms(1040)
    assert not terms(1041)
    assert terms(1, 1040)
    assert not terms(1, 1041)  # sums of the input's gradient
    assert terms(1024, text="fx8.4")  # 128 * 128 is 2^14
    assert not terms(1025, text="fx8.4")
    assert not terms(8, text="int8s")  # its scale is no power of two
    assert not terms(8, like={"dtype": torch.float64})
    assert not terms(8, like={"memory_format": torch.channels_last})


def test_a_weight_that_was_written_to_is_refused() -> None:
    x_shape, weight_shape, options = CASES["3 x 3"]
    x, weight = torch.randn(x_shape, requires_grad=True), torch.randn(weight_shape)
    weight.requires_grad_()
    y = exact_conv(x, weight, options, roundings(), (False, True))
    with torch.no_grad():
        weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_what_waits() -> None:
    """Codes of the input, one byte an element, and the weight itself; of the rest nothing."""
    x_shape, weight_shape, options = CASES["3 x 3"]
    x, weight = torch.randn(x_shape), torch.randn(weight_shape, requires_grad=True)
    saved: list[Tensor] = []
    for held in (False, True):
        saved.clear()
        with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
            exact_conv(x.requires_grad_(), weight, options, roundings(), (held, True))
        first, *rest = saved
        assert first is x if held else first.dtype == torch.int8
        assert first.shape == x.shape
        assert rest[-1] is weight
        assert sum(t.numel() for t in rest[:-1]) <= 1
