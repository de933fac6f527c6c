"""Integer products: exact, and layers on them equal rounded operands multiplied in float64."""

import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from limprec.errors import KernelError
from limprec.formats import Rounding, parse_precision
from limprec.kernels import Key, round_to
from limprec.kernels.matmul import code_products, integer, operands, real, windows
from limprec.kernels.matmul.code_products import multiply_codes
from limprec.kernels.matmul.integer import PEAK, SYMMETRIC_PEAK, integer_matmul
from limprec.kernels.matmul.operands import can_be_real, round_operand, to_values, why_not_real
from limprec.kernels.matmul.real import Role, Roundings, real_linear, real_matmul
from limprec.kernels.matmul.real_conv import real_conv
from limprec.kernels.matmul.windows import _gather, _gather_strided, _Taps
from limprec.kernels.native import SlowBackendWarning

NAMES = ["dfx8", "dfx8:stochastic", "dfx5:stochastic16", "fx8.5", "fx6.3:stochastic", "ufx7.4"]


def codes(*shape: int, seed: int = 0, low: int = -128) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randint(low, 128, shape, dtype=torch.int8, generator=g)


def exact(a: Tensor, b: Tensor) -> Tensor:
    """The product in float64, where every partial sum is a whole number."""
    return (a.double() @ b.double()).to(torch.int64)


def same(x: Tensor, y: Tensor) -> bool:
    """Equal bit for bit, but for the payload of NaN."""
    assert (x.dtype, x.shape) == (y.dtype, y.shape)
    return torch.equal(x.isnan(), y.isnan()) and torch.equal(x.nan_to_num(), y.nan_to_num())


# --- the product ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("m", "k", "n"),
    [(1, 1, 1), (3, 7, 5), (33, 64, 17), (0, 4, 3), (3, 0, 4), (2, 5, 0), (1, 300, 70), (65, 3, 1)],
)
def test_any_size(m: int, k: int, n: int) -> None:
    a, b = codes(m, k), codes(k, n, seed=1)
    y = integer_matmul(a, b)
    assert (y.dtype, y.shape) == (torch.int32, (m, n))
    assert torch.equal(y.long(), exact(a, b))


def test_any_strides() -> None:
    wide = codes(40, 50)
    for a in (wide[:12, :10], wide.t()[:12, :10], wide[::3, ::5], wide[:1, :10].expand(6, 10)):
        for b in (wide[:10, :8], wide.t()[:10, :8], wide[:10, :1].expand(10, 4), wide[20:, 2::4]):
            b = b[: a.shape[1]]
            assert torch.equal(integer_matmul(a, b).long(), exact(a, b))


@pytest.mark.parametrize("shape", [(1, 5, 7), (4, 1, 6), (1, 1, 3), (5, 3, 1), (1, 4, 1)])
def test_the_stride_of_a_single_row_means_nothing(shape: tuple[int, int, int]) -> None:
    m, k, n = shape
    a, b = codes(m, k), codes(k, n, seed=1)

    def layouts(x: Tensor) -> Iterator[Tensor]:
        rows, columns = x.shape
        for strides in ((columns, 1), (1, rows), (columns + 3, 1), (1, rows + 3)):
            yield torch.empty_strided(x.shape, strides, dtype=torch.int8).copy_(x)
        if rows == 1:
            yield x.as_strided(x.shape, (0, 1))

    for x in layouts(a):
        for y in layouts(b):
            assert torch.equal(integer_matmul(x, y).long(), exact(a, b))


@pytest.mark.parametrize(("code", "peak"), [(-128, PEAK), (127, SYMMETRIC_PEAK)])
def test_long_contractions(code: int, peak: int) -> None:
    terms = (2**31 - 1) // peak
    for length, dtype in ((terms, torch.int32), (terms + 1, torch.int64), (3 * terms, torch.int64)):
        a = torch.full((2, length), code, dtype=torch.int8)
        b = a.t().clone()
        b[: length // 3, 1] = 1
        y = integer_matmul(a, b, peak)
        assert y.dtype == dtype
        assert torch.equal(y.long(), exact(a, b))


@pytest.fixture
def saturating(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A device that sums pairs of products in 16 bits, as AVX2 does without VNNI."""

    def product(a: Tensor, b: Tensor) -> Tensor:
        pairs = F.pad(a.int()[:, :, None] * b.int(), (0, 0, 0, a.shape[1] % 2))
        sums = pairs.unflatten(1, (-1, 2)).sum(2).clamp(-(2**15), 2**15 - 1)
        return sums.sum(1).int()

    monkeypatch.setattr(torch, "_int_mm", product)
    integer._is_exact.cache_clear()
    yield
    integer._is_exact.cache_clear()


@pytest.mark.usefixtures("saturating")
def test_a_machine_that_saturates_is_found_out_once() -> None:
    a, b = torch.full((3, 5000), -128, dtype=torch.int8), codes(5000, 4)
    with pytest.warns(SlowBackendWarning, match="int8 product of cpu saturates"):
        y = integer_matmul(a, b)
    assert torch.equal(y.long(), exact(a, b))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(integer_matmul(a, b), y)


def test_this_machine_is_exact() -> None:
    integer._is_exact.cache_clear()
    assert integer.is_exact(torch.device("cpu"))


def test_wrong_operands() -> None:
    a = codes(2, 3)
    with pytest.raises(KernelError, match=r"shapes \(2, 3\) and \(2, 3\)"):
        integer_matmul(a, a)
    with pytest.raises(KernelError, match="give int8 codes"):
        integer_matmul(a, a.t().int())
    with pytest.raises(KernelError, match="with data on one device"):
        integer_matmul(a.to("meta"), a.t().to("meta"))


# --- operands ------------------------------------------------------------------------------------


def role(name: str, stream: int) -> Role:
    precision = parse_precision(name)
    keyed = precision.rounding is Rounding.STOCHASTIC
    return precision, Key(5, stream, 2) if keyed else None


@pytest.mark.parametrize("name", [*NAMES, "dfx2", "int8s", "int4s:stochastic", "fx8.0-wrap"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_codes_times_scale_is_what_rounding_gives(name: str, dtype: torch.dtype) -> None:
    precision, key = role(name, 0)
    if name.startswith("int") and dtype in (torch.bfloat16, torch.float16):
        return  # their scales need 24 bits
    for factor in (1.0, 1e-3, 300.0):
        x = (torch.randn(7, 9, generator=torch.Generator().manual_seed(3)) * factor).to(dtype)
        c = round_operand(x, precision, key)
        assert c.codes.dtype == torch.int8
        values = (c.codes.double() * c.scale.double()).to(torch.float32).to(dtype)
        assert same(values, round_to(x, precision, key))


@pytest.mark.parametrize("top", [2.0**-149, 2.0**-130, 3.0e38, 0.0])
def test_the_ends_of_float32(top: float) -> None:
    precision, key = role("dfx8", 0)
    x = torch.tensor([top, -top / 2, top / 3])
    c = round_operand(x, precision, key)
    assert same((c.codes.double() * c.scale.double()).float(), round_to(x, precision, key))


def test_which_formats_can_be_real() -> None:
    for name in (*NAMES, "int8s", "int2s", "dfx8"):
        assert can_be_real(parse_precision(name))
    for name, reason in {
        "dfx9": "more than 8 bits",
        "dfx8c0": "more than one scale",
        "dfx8b32": "more than one scale",
        "fx9.4": "do not fit int8",
        "ufx8.4": "do not fit int8",
        "int8": "has a zero point",
        "int8sc0": "more than one scale",
        "int9s": "more than 8 bits",
        "e4m3": "no integer times a scale",
        "mxint8": "no integer times a scale",
    }.items():
        assert reason in (why_not_real(parse_precision(name)) or "")


@pytest.mark.parametrize("scale", [2.0**-9, 2.0**-150, 2.0**100, 0.37, float("nan")])
def test_sums_are_rounded_once(scale: float) -> None:
    total = torch.randint(-(2**31), 2**31, (5, 4097), generator=torch.Generator().manual_seed(0))
    bias = torch.randn(4097)
    want = (total.double() * scale).float()
    for dtype in (torch.int32, torch.int64):
        assert same(to_values(total.to(dtype), scale, torch.float32), want)
        assert same(to_values(total.to(dtype), scale, torch.float32, bias), want + bias)
        assert same(
            to_values(total.to(dtype), scale, torch.bfloat16, bias), (want + bias).bfloat16()
        )
    assert same(to_values(total, scale, torch.float64), total.double() * scale)


# --- layers --------------------------------------------------------------------------------------


def roundings(name: str) -> Roundings:
    gradient = "e5m2:stochastic" if "stochastic" in name else "dfx8"
    others = [role(gradient, i) for i in (3, 4, 5)]
    return Roundings(*(role(name, i) for i in range(3)), *others)


def leaf(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return x.to(dtype).requires_grad_()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 1, 1), (33, 37, 21), (4, 130, 64)])
def test_linear(name: str, dtype: torch.dtype, shape: tuple[int, int, int]) -> None:
    m, k, n = shape
    r = roundings(name)
    x, w, b = leaf(2, m, k, seed=0, dtype=dtype), leaf(n, k, seed=1, dtype=dtype), leaf(n, seed=2)
    b = b.detach().to(dtype).requires_grad_()
    y = real_linear(x, w, b, r)
    g = leaf(2, m, n, seed=3, dtype=dtype).detach()
    y.backward(g)
    a, q = round_to(x, *r.activation).double(), round_to(w, *r.weight).double()
    assert r.bias is not None
    assert r.error is not None
    e = round_to(g, *r.error).double()
    bias = round_to(b, *r.bias).float()
    assert same(y.detach(), ((a @ q.t()).float() + bias).to(dtype))
    assert x.grad is not None
    assert w.grad is not None
    assert b.grad is not None
    assert same(x.grad, (e @ q).float().to(dtype))
    rows = e.flatten(0, 1)
    dw, db = (rows.t() @ a.flatten(0, 1)).float().to(dtype), rows.sum(0).float().to(dtype)
    assert r.gradient is not None
    assert r.bias_gradient is not None
    assert same(w.grad, round_to(dw, *r.gradient))
    assert same(b.grad, round_to(db, *r.bias_gradient))


GEOMETRIES = [
    # x, weight, stride, padding, dilation, groups
    ((2, 3, 8, 9), (4, 3, 3, 3), 1, 1, 1, 1),
    ((3, 4, 7, 7), (6, 2, 3, 3), 2, 1, 1, 2),
    ((2, 4, 9, 8), (4, 1, 3, 2), (2, 3), (2, 0), (1, 2), 4),
    ((2, 3, 11, 5), (5, 3, 3, 3), 3, (1, 4), (2, 1), 1),
    ((1, 2, 6, 6), (3, 2, 1, 1), 2, 0, 1, 1),
    ((2, 2, 5, 5), (3, 2, 1, 1), 1, 2, 1, 1),
    ((2, 3, 10, 9), (2, 3, 4, 3), (4, 2), (3, 2), (2, 4), 1),
    ((2, 3, 9, 9), (2, 3, 3, 4), 1, "same", (2, 1), 1),
    ((2, 3, 9, 9), (2, 3, 5, 5), 2, "valid", 1, 1),
    ((3, 5, 21), (4, 5, 5), 2, 3, 2, 1),
    ((2, 2, 5, 6, 7), (3, 2, 3, 2, 3), (1, 2, 2), (1, 0, 2), (1, 2, 1), 1),
    ((0, 3, 8, 8), (4, 3, 3, 3), 1, 1, 1, 1),
]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("name", ["dfx8", "dfx6:stochastic", "fx8.5"])
@pytest.mark.parametrize("last", [False, True])
def test_convolution(geometry: tuple, name: str, last: bool) -> None:  # type: ignore[type-arg]
    shape, kernel, *options = geometry
    r = roundings(name)
    x, w, b = leaf(*shape, seed=0), leaf(*kernel, seed=1), leaf(kernel[0], seed=2)
    if last and x.ndim == 4:
        x = x.detach().to(memory_format=torch.channels_last).requires_grad_()
    y = real_conv(x, w, b, *options, r)
    g = leaf(*y.shape, seed=3).detach()
    assert y.is_contiguous() != (last and x.ndim == 4) or y.numel() == 0
    y.backward(g)
    assert r.error is not None
    assert r.bias is not None
    assert r.gradient is not None
    assert r.bias_gradient is not None
    # The same in float64, where every sum of a few hundred products of codes is exact.
    a = round_to(x.detach(), *r.activation).double().requires_grad_()
    q = round_to(w.detach(), *r.weight).double().requires_grad_()
    conv = (F.conv1d, F.conv2d, F.conv3d)[x.ndim - 3]
    want = conv(a, q, None, *options)
    e = round_to(g, *r.error).double()
    want.backward(e)
    bias = round_to(b.detach(), *r.bias).view(-1, *[1] * (x.ndim - 2))
    assert same(y.detach(), want.detach().float() + bias)
    assert a.grad is not None
    assert q.grad is not None
    assert x.grad is not None
    assert w.grad is not None
    assert b.grad is not None
    assert same(x.grad, a.grad.float())
    assert same(w.grad, round_to(q.grad.float(), *r.gradient))
    sums = e.transpose(0, 1).flatten(1).sum(1).float()
    assert same(b.grad, round_to(sums, *r.bias_gradient))


def test_groups_need_not_be_many() -> None:
    """As many groups as channels: depthwise, with two outputs a channel."""
    r = roundings("dfx8")
    x, w = leaf(2, 5, 6, 6, seed=0), leaf(10, 1, 3, 3, seed=1)
    y = real_conv(x, w, None, 1, 1, 1, 5, r)
    a, q = round_to(x, *r.activation).double(), round_to(w, *r.weight).double()
    assert same(y.detach(), F.conv2d(a, q, padding=1, groups=5).float())


def test_without_a_batch() -> None:
    r = roundings("dfx8")
    x, w = leaf(3, 6, 6, seed=0), leaf(4, 3, 3, 3, seed=1)
    y, batched = real_conv(x, w, None, 1, 0, 1, 1, r), real_conv(x[None], w, None, 1, 0, 1, 1, r)
    assert same(y.detach(), batched[0].detach())


@pytest.mark.parametrize("last", [False, True])
def test_windows_in_strides_are_those_in_cpp(last: bool) -> None:
    g = torch.Generator().manual_seed(0)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=g))

    for _ in range(60):
        spatial, channels = draw(1, 3), draw(1, 20)
        taps = [
            _Taps(draw(1, 9), draw(1, 4), draw(1, 3), draw(1, 3), draw(-4, 4))
            for _ in range(spatial)
        ]
        sizes = [draw(1, 12) for _ in range(spatial)]
        x = codes(draw(1, 3), channels, *sizes, seed=draw(0, 99))
        if last:
            x = x.movedim(1, -1).contiguous().movedim(-1, 1)
        want = _gather_strided(x.movedim(1, -1), taps)
        assert torch.equal(_gather(x, taps), want)
        assert torch.equal(_gather(x.expand(x.shape), taps), want)
        wide = torch.stack([x, x], -1)[..., 0]  # no two elements next to each other
        assert torch.equal(_gather(wide, taps), want)


@pytest.mark.parametrize("name", NAMES[:3])
def test_matmul_of_two_activations(name: str) -> None:
    r = roundings(name)
    r = Roundings(r.activation, r.weight, r.error)
    for shape in ((3, 4, 7), (7,)):
        a, b = leaf(*shape, seed=0), leaf(7, 5, seed=1)
        y = real_matmul(a, b, r)
        g = leaf(*y.shape, seed=2).detach()
        y.backward(g)
        p, q = round_to(a, *r.activation).double(), round_to(b, *r.weight).double()
        assert r.error is not None
        e = round_to(g, *r.error).double()
        assert same(y.detach(), (p @ q).float())
        assert a.grad is not None
        assert b.grad is not None
        assert same(a.grad, (e @ q.t()).float())
        rows = p.reshape(-1, 7).t() @ e.reshape(-1, 5)
        assert same(b.grad, rows.float())


def test_a_scale_that_is_no_power_of_two_is_multiplied_in_float64() -> None:
    r = Roundings(role("int8s", 0), role("int8s", 1))
    x, w = leaf(9, 30, seed=0).detach(), leaf(8, 30, seed=1).detach()
    a, q = round_operand(x, *r.activation), round_operand(w, *r.weight)
    want = exact(a.codes, q.codes.t()).double() * (float(a.scale) * float(q.scale))
    y = real_linear(x, w, None, r)
    assert same(y, want.float())
    plain = round_to(x, *r.activation).double() @ round_to(w, *r.weight).double().t()
    assert torch.allclose(y.double(), plain, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["dfx8", "int8s", "fx8.5"])
def test_what_is_not_finite_is_never_hidden(bad: float, name: str) -> None:
    r = Roundings(*(role(name, i) for i in range(3)))
    saturates = name == "fx8.5" and bad == float("inf")  # as the format says
    x, w = leaf(4, 6, seed=0), leaf(5, 6, seed=1)
    with torch.no_grad():
        x[1, 2] = bad
    y = real_linear(x, w, None, r)
    y.sum().backward()
    assert x.grad is not None
    assert w.grad is not None
    assert bool(y.isnan().all()) != saturates
    assert bool(w.grad.isnan().all()) != saturates
    assert bool(x.grad.isfinite().all())  # the error and the weight are finite
    y = real_linear(x.detach().nan_to_num(), w, None, r)
    w.grad = None
    y.backward(torch.full_like(y, bad))
    assert w.grad is not None
    assert bool(w.grad.isnan().all()) != saturates


def test_what_is_not_needed_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    r, shapes = roundings("dfx8"), []

    def product(a: Tensor, b: Tensor, *others: Any) -> Tensor:
        shapes.append((a.shape[0], b.shape[1]))
        return multiply_codes(a, b, *others)

    monkeypatch.setattr(real, "multiply_codes", product)
    x, w, b = leaf(4, 6, seed=0), leaf(5, 6, seed=1), leaf(5, seed=2)
    real_linear(x.detach(), w, b.detach(), r).sum().backward()
    assert shapes == [(4, 5), (5, 6)]
    shapes.clear()
    real_linear(x, w.detach(), b, r).sum().backward()
    assert shapes == [(4, 5), (4, 6)]
    shapes.clear()
    with torch.no_grad():
        real_linear(x, w, b, r)
    assert shapes == [(4, 5)]


def test_a_byte_an_element_is_saved() -> None:
    r, kept = roundings("dfx8"), []

    def pack(t: Tensor) -> Tensor:
        kept.append(t)
        return t

    x, w = leaf(2, 3, 8, 8, seed=0), leaf(4, 3, 3, 3, seed=1)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        real_conv(x, w, None, 1, 1, 1, 1, r)
        real_linear(x, leaf(5, 8, seed=2), None, r)
    assert {t.dtype for t in kept if t.ndim} == {torch.int8}
    assert sum(t.nbytes for t in kept if t.ndim) == 2 * x.numel() + w.numel() + 40


def test_a_recomputed_forward_gives_the_same_gradients() -> None:
    r = roundings("dfx8:stochastic")
    grads = []
    for again in (False, True):
        x, w = leaf(4, 6, seed=0), leaf(5, 6, seed=1)
        if again:
            y = checkpoint(real_linear, x, w, None, r, use_reentrant=False)
        else:
            y = real_linear(x, w, None, r)
        y.square().sum().backward()
        grads.append((x.grad, w.grad))
    for one, other in zip(*grads, strict=True):
        assert one is not None
        assert other is not None
        assert same(one, other)


def test_a_second_derivative_is_an_error() -> None:
    x, w = leaf(4, 6, seed=0), leaf(5, 6, seed=1)
    y = real_linear(x, w, None, roundings("dfx8")).square().sum()
    (grad,) = torch.autograd.grad(y, x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_empty_inputs() -> None:
    r = roundings("dfx8")
    for m, k in ((0, 6), (4, 0)):
        x, w, b = leaf(m, k, seed=0), leaf(5, k, seed=1), leaf(5, seed=2)
        y = real_linear(x, w, b, r)
        y.sum().backward()
        assert y.shape == (m, 5)
        assert w.grad is not None
        assert x.grad is not None
        assert w.grad.eq(0).all()
        assert x.grad.shape == x.shape


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation": "e4m3"}, "activation in e4m3: e4m3 is no integer times a scale"),
        ({"weight": "dfx8c0"}, "weight in dfx8c0: dfx8c0 has more than one scale"),
        ({"error": "dfx16"}, "error in dfx16: dfx16 has more than 8 bits"),
        ({"error": None}, "a gradient without an error precision"),
    ],
)
def test_formats_that_have_no_integers(change: dict[str, str | None], message: str) -> None:
    changed = {k: role(v, 0) if v else None for k, v in change.items()}
    r = replace(roundings("dfx8"), **changed)  # type: ignore[arg-type]
    with pytest.raises(KernelError, match=message):
        real_linear(leaf(2, 3, seed=0), leaf(4, 3, seed=1), None, r)


def test_operands_that_do_not_fit() -> None:
    r = roundings("dfx8")
    x, w, k = leaf(2, 3, seed=0), leaf(4, 3, seed=1), leaf(4, 3, 3, 3, seed=2)
    image = leaf(1, 3, 5, 5, seed=3)
    with pytest.raises(KernelError, match=r"shapes \(2, 3\) and \(3, 4\)"):
        real_linear(x, w.t(), None, r)
    with pytest.raises(KernelError, match="dtypes float32, bfloat16"):
        real_linear(x, w.bfloat16(), None, r)
    with pytest.raises(KernelError, match="meta"):
        real_linear(x.to("meta"), w.to("meta"), None, r)
    with pytest.raises(KernelError, match=r"\(4,\) for 3 channels"):
        real_linear(x, w[:3], leaf(4, seed=3), r)
    with pytest.raises(KernelError, match=r"shapes \(2, 3\) and \(4, 3\)"):
        real_matmul(x, w, r)
    with pytest.raises(KernelError, match="the kernel must fit"):
        real_conv(image[..., :2, :2], k, None, 1, 0, 1, 1, r)
    with pytest.raises(KernelError, match="multiples of groups, which is 2"):
        real_conv(image, k, None, 1, 0, 1, 2, r)
    with pytest.raises(KernelError, match="stride 1"):
        real_conv(image, k, None, 2, "same", 1, 1, r)
    with pytest.raises(KernelError, match="give one for each"):
        real_conv(image, k, None, (1, 1, 1), 0, 1, 1, r)
    with pytest.raises(KernelError, match="use 'same', 'valid' or numbers"):
        real_conv(image, k, None, 1, "full", 1, 1, r)


def test_the_reference_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extension's operators: sums to values, convolutions, and windows."""
    r = roundings("dfx8:stochastic")

    def step() -> list[Tensor | None]:
        x, w, b = leaf(2, 3, 9, 8, seed=0), leaf(4, 3, 3, 3, seed=1), leaf(4, seed=2)
        y = real_conv(x, w, b, 2, 1, 1, 1, r)
        y.square().sum().backward()
        return [y.detach(), x.grad, w.grad, b.grad]

    fast = step()
    for module in (operands, code_products, windows):
        monkeypatch.setattr(module, "has_native", lambda name: False)
    for one, other in zip(fast, step(), strict=True):
        assert one is not None
        assert other is not None
        assert same(one, other)
