"""Convolutions of codes as values: each sum exact, rounded once, in every layout and path."""

import math
from collections.abc import Callable, Iterator
from itertools import cycle
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from limprec.kernels.matmul import code_convolutions, code_products
from limprec.kernels.matmul.code_convolutions import convolve, convolve_back, weight_gradient
from limprec.kernels.matmul.integer import PEAK
from limprec.kernels.matmul.operands import has_native, to_values
from limprec.kernels.matmul.windows import Geometry

SCALES = (0.25, 0.3, 2.0**-140, 2.0**120, float("nan"))


@pytest.fixture(params=["fused", "plain"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The kernels for this CPU, and what takes their place elsewhere."""
    if request.param == "plain":
        monkeypatch.setattr(code_products, "has_native", lambda name: False)
    elif not has_native("codes_conv"):
        pytest.skip("no kernels for this CPU")
    return str(request.param)


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but the kernels for this CPU."""
    if not has_native("codes_conv"):
        pytest.skip("no kernels for this CPU")
    monkeypatch.setattr(code_convolutions, "windows", None)


class Case(NamedTuple):
    """A convolution; one number stands for every dimension."""

    x: tuple[int, ...]
    weight: tuple[int, ...]
    stride: int | tuple[int, ...] = 1
    padding: int | tuple[int, ...] = 0
    dilation: int | tuple[int, ...] = 1
    groups: int = 1

    def each(self, value: int | tuple[int, ...]) -> tuple[int, ...]:
        return (value,) * (len(self.x) - 2) if isinstance(value, int) else value

    @property
    def geometry(self) -> Geometry:
        padding = self.each(self.padding)
        stride, dilation = self.each(self.stride), self.each(self.dilation)
        return Geometry(self.weight[2:], stride, padding, padding, dilation)


CASES = [
    Case((2, 16, 32, 32), (16, 16, 3, 3), padding=1),
    Case((3, 16, 17, 15), (32, 16, 3, 3), stride=2, padding=1),
    Case((5, 17, 7, 7), (5, 17, 3, 3), padding=1),
    Case((2, 3, 8, 9), (4, 3, 3, 3), padding=2),
    Case((9, 5, 6, 6), (7, 5, 1, 1)),
    Case((2, 4, 9, 9), (17, 4, 1, 1), stride=2),
    Case((2, 5, 40, 24), (33, 5, 7, 7), stride=2, padding=3),
    Case((2, 3, 12, 10), (1, 3, 4, 4), stride=4),
    Case((2, 3, 35, 38), (3, 3, 3, 2), stride=(5, 3), padding=(4, 1), dilation=(2, 3)),
    Case((1, 2, 6, 6), (3, 2, 1, 1), stride=3, padding=2),
    Case((2, 3, 10, 9), (2, 3, 4, 3), stride=(4, 2), padding=(3, 2), dilation=(2, 4)),
    Case((2, 2, 20, 21), (3, 2, 2, 2), stride=18),
    Case((2, 3, 9), (4, 3, 3), stride=500, padding=1),
    Case((4, 6, 7, 7), (9, 2, 3, 3), padding=1, groups=3),
    Case((3, 20, 9, 9), (20, 1, 3, 3), padding=1, groups=20),
    Case((3, 5, 21), (18, 5, 5), stride=2, padding=3, dilation=2),
    Case((2, 3, 300), (2, 3, 7), padding=3),
    Case((2, 2, 5, 6, 7), (3, 2, 3, 2, 3), (1, 2, 2), (1, 0, 2), (1, 2, 1)),
    Case((0, 3, 8, 8), (4, 3, 3, 3), padding=1),
]


def codes(*shape: int, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randint(-128, 128, shape, dtype=torch.int8, generator=g)


def same(x: Tensor, y: Tensor) -> bool:
    assert (x.dtype, x.shape) == (y.dtype, y.shape)
    return torch.equal(x.isnan(), y.isnan()) and torch.equal(x.nan_to_num(), y.nan_to_num())


def last(x: Tensor) -> Tensor:
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


def strewn(x: Tensor) -> Tensor:
    """Return the same with gaps between all elements, batch and channels swapped."""
    wide = x.new_zeros(x.shape[1], x.shape[0], *x.shape[2:], 3)
    return wide.transpose(0, 1)[..., 1].copy_(x)


LAYOUTS: tuple[Callable[[Tensor], Tensor], ...] = (Tensor.contiguous, last, strewn)


class Exact(NamedTuple):
    """Operands, and their products in float64, where each sum is a whole number."""

    x: Tensor
    weight: Tensor
    e: Tensor
    y: Tensor
    grad_x: Tensor
    grad_weight: Tensor


def exact(case: Case, x: Tensor | None = None, weight: Tensor | None = None) -> Exact:
    x = codes(*case.x) if x is None else x
    weight = codes(*case.weight, seed=1) if weight is None else weight
    a, w = x.double().requires_grad_(), weight.double().requires_grad_()
    conv = (F.conv1d, F.conv2d, F.conv3d)[x.ndim - 3]
    y = conv(a, w, None, case.stride, case.padding, case.dilation, case.groups)
    e = codes(*y.shape, seed=2)
    grads = torch.autograd.grad(y, (a, w), e.double())
    return Exact(x, weight, e, *(t.detach().to(torch.int64) for t in (y, *grads)))


def filled(x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.full(x.shape, 7.0, dtype=dtype)


def check(
    case: Case,
    given: Exact,
    scale: float = 0.25,
    layout: Callable[[Tensor], Tensor] = Tensor.contiguous,
    out: Callable[[Tensor], Tensor] = Tensor.contiguous,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Compare the three products, written over what was there."""
    bias = torch.randn(case.weight[0], generator=torch.Generator().manual_seed(3))
    bias = bias.to(dtype)
    x, w, e = layout(given.x), layout(given.weight), layout(given.e)
    y = out(filled(given.y, dtype))
    convolve(x, w, case.geometry, case.groups, scale, y, bias, PEAK)
    assert same(y, with_bias(given.y, scale, dtype, bias))
    grad_x = out(filled(given.x, dtype))
    convolve_back(e, w, case.geometry, case.groups, scale, grad_x, PEAK)
    if math.isnan(scale):  # but for inputs that no window meets
        assert grad_x[given.grad_x != 0].isnan().all()
    else:
        assert same(grad_x, to_values(given.grad_x, scale, dtype))
    grad_w = weight_gradient(e, x, case.geometry, case.groups, scale, dtype, PEAK)
    assert same(grad_w, to_values(given.grad_weight, scale, dtype))
    assert grad_w.is_contiguous()


def with_bias(total: Tensor, scale: float, dtype: torch.dtype, bias: Tensor) -> Tensor:
    return to_values(total.movedim(1, -1), scale, dtype, bias).movedim(-1, 1)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("case", CASES)
def test_any_geometry_and_layout(case: Case) -> None:
    given, scales = exact(case), cycle(SCALES)
    for layout in LAYOUTS:
        for out in LAYOUTS:
            check(case, given, next(scales), layout, out)


def random_cases() -> Iterator[Case]:
    g = torch.Generator().manual_seed(0)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=g))

    while True:
        dimensions, groups = draw(1, 3), draw(1, 2)
        kernel = [draw(1, 4) for _ in range(dimensions)]
        dilation = tuple(draw(1, 3) for _ in range(dimensions))
        padding = tuple(draw(0, 4) for _ in range(dimensions))
        sizes = [
            max(1, d * (k - 1) + 1 - 2 * p) + draw(0, 60 // 4**dimensions + 6)
            for k, d, p in zip(kernel, dilation, padding, strict=True)
        ]
        x = (draw(1, 5), groups * draw(1, 9), *sizes)
        weight = (groups * draw(1, 20), x[1] // groups, *kernel)
        stride = tuple(draw(1, 4) for _ in range(dimensions))
        yield Case(x, weight, stride, padding, dilation, groups)


@pytest.mark.usefixtures("path")
def test_random_geometries() -> None:
    layouts, scales = cycle(LAYOUTS), cycle(SCALES[:4])
    for case, _ in zip(random_cases(), range(60), strict=False):
        check(case, exact(case), next(scales), next(layouts))


@pytest.mark.usefixtures("fused")
@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize(
    "case",
    [
        Case((1, 40, 70, 64), (12, 40, 3, 3), padding=1),  # bands of rows
        Case((1, 24, 61, 70), (8, 24, 3, 3), stride=2, padding=1),
        Case((1, 8, 4000), (8, 8, 5), padding=2),
        Case((1, 4, 30, 12, 11), (4, 4, 3, 3, 3), padding=1),
        Case((37, 6, 5, 5), (18, 6, 3, 3), padding=1),  # many samples at a time
        Case((7, 130, 3, 3), (150, 130, 3, 3), padding=1),  # blocks of channels
    ],
)
def test_any_cut(case: Case, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for layout in LAYOUTS[:2]:
            check(case, exact(case), 0.5, layout, layout)
    finally:
        torch.set_num_threads(before)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes(dtype: torch.dtype) -> None:
    case = Case((2, 9, 8, 8), (8, 9, 3, 3), padding=1)
    for layout in LAYOUTS:
        check(case, exact(case), 0.3 * 2**-16, layout, layout, dtype)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize(
    "shape", [(2, 1, 256, 257), (3, 1, 256, 257), (1, 1, 3, 80_000), (1, 1, 2, 140_000)]
)
def test_sums_over_more_places_than_32_bits_hold(shape: tuple[int, ...]) -> None:
    geometry = Case(shape, (1, 1, 1, 1)).geometry
    x = torch.full(shape, -128, dtype=torch.int8)
    grad = weight_gradient(x, x, geometry, 1, 1.0, torch.float32, PEAK)
    assert float(grad) == math.prod(shape) * 2**14


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("channels", [131_071, 131_072])
def test_sums_over_more_channels_than_32_bits_hold(channels: int) -> None:
    case = Case((1, channels, 1), (1, channels, 1))
    x = torch.full(case.x, -128, dtype=torch.int8)
    y = torch.empty(1, 1, 1)
    convolve(x, x, case.geometry, 1, 1.0, y, None, PEAK)
    assert float(y) == channels * 2**14
    turned = x.transpose(0, 1).contiguous()
    convolve_back(x, turned, case.geometry, 1, 1.0, y, PEAK)
    assert float(y) == channels * 2**14


@pytest.mark.usefixtures("fused")
def test_operands_that_do_not_fit() -> None:
    x, w, y = codes(2, 4, 6, 6), codes(3, 4, 3, 3), torch.empty(2, 3, 4, 4)
    convolve_codes = torch.ops.limprec.codes_conv
    for bad, message in {
        (x, w, y, (1, 1, 0, 0, 1), 1, None): "for each dimension",
        (x, w, y, (0, 1, 0, 0, 1, 1), 1, None): "too small",
        (x, w, y, (1, 1, 0, 0, 1, 1), 2, None): "shapes do not fit",
        (x, w, y[:1], (1, 1, 0, 0, 1, 1), 1, None): "shapes do not fit",
        (x, w, y, (1, 1, 0, 0, 1, 1), 1, torch.ones(4)): "one float32 number",
        (x, w.float(), y, (1, 1, 0, 0, 1, 1), 1, None): "int8 codes",
        (x[0], w, y, (1, 1, 0, 0, 1, 1), 1, None): "one rank",
    }.items():
        *arguments, bias = bad
        with pytest.raises(RuntimeError, match=message):
            convolve_codes(*arguments, 1.0, bias)
