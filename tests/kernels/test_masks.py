"""ReLU that saves one bit an element: PyTorch's results and gradients, bit for bit."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from native_checks import DTYPES, LEVELS, assert_same, built, layouts, spread
from torch import Tensor

from limprec.kernels import Backend, relu
from limprec.kernels.activation import relu_
from limprec.kernels.masks import is_dense, masked, relu_with_mask
from limprec.kernels.native import Simd, stored

BACKENDS = [Backend.REFERENCE, Backend.AUTO]
Activation = Callable[[Tensor], Tensor]
KINDS: list[tuple[float | None, Activation]] = [(None, torch.relu), (6.0, F.relu6)]
ODD = [0.0, -0.0, math.inf, -math.inf, 6.0, 1e-30, -1e-30, 5.99, 6.5]


def with_odd_ones(x: Tensor, *more: float) -> Tensor:
    """Put what is special into the first elements, as far as there is room."""
    y = x.clone(memory_format=torch.preserve_format)
    odd = torch.tensor([*ODD, *more]).to(x.dtype)[: x.numel()]
    y.view(-1)[: len(odd)] = odd
    return y


def bits(mask: Tensor, count: int) -> list[int]:
    return [int(mask[i // 8]) >> i % 8 & 1 for i in range(count)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_by_hand(dtype: torch.dtype, backend: Backend) -> None:
    x = torch.tensor([1.0, -1.0, 0.0, -0.0, math.nan, 2.0, -math.inf, math.inf, 7.0], dtype=dtype)
    y, mask = relu_with_mask(x, backend=backend)
    want = torch.tensor([1.0, 0.0, 0.0, -0.0, math.nan, 2.0, 0.0, math.inf, 7.0], dtype=dtype)
    assert_same(y, want, x)
    assert mask.tolist() == [0b10110001, 1]
    y, mask = relu_with_mask(x, 6.0, backend=backend)
    want = torch.tensor([1.0, 0.0, 0.0, -0.0, math.nan, 2.0, 0.0, 6.0, 6.0], dtype=dtype)
    assert_same(y, want, x)
    assert mask.tolist() == [0b00110001, 0]
    grad = -torch.arange(1.0, 10.0, dtype=dtype)
    want = torch.tensor([-1.0, 0.0, 0.0, 0.0, -5.0, -6.0, 0.0, 0.0, 0.0], dtype=dtype)
    assert_same(masked(grad, mask, (1,), backend=backend), want, x)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 15, 16, 17, 31, 63, 100, 4096, 33333])
def test_odd_sizes(count: int, dtype: torch.dtype, backend: Backend) -> None:
    x = with_odd_ones(spread(dtype, count), math.nan)
    grad = torch.randn(count).to(dtype)
    y, mask = relu_with_mask(x, backend=backend)
    assert_same(y, torch.relu(x), x)
    assert (mask.dtype, len(mask)) == (torch.uint8, (count + 7) // 8)
    assert bits(mask, 8 * len(mask)) == [*(~(x <= 0)).tolist(), *[0] * (-count % 8)]
    want = torch.ops.aten.threshold_backward(grad, x, 0)
    assert_same(masked(grad, mask, (1,), backend=backend), want, x)
    y, mask = relu_with_mask(x, 6.0, backend=backend)
    assert_same(y, F.relu6(x), x)
    keep = ~(x <= 0) & ~(x >= 6)
    want = torch.where(keep, grad, torch.zeros_like(grad))
    assert_same(masked(grad, mask, (1,), backend=backend), want, x)


@pytest.mark.parametrize(("ceiling", "own"), KINDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", list(layouts(torch.float32)))
def test_layouts(layout: str, dtype: torch.dtype, ceiling: float | None, own: Activation) -> None:
    """Gradients of another memory order come out right."""
    x = layouts(dtype)[layout]
    a, b = x.detach().requires_grad_(), x.detach().requires_grad_()
    y, want = relu(a, ceiling), own(b)
    assert_same(y.detach(), want.detach(), x)
    assert x.numel() == 0 or y.stride() == want.stride()
    shape = x.shape
    turned = torch.randn(shape[::-1]).permute(tuple(range(x.ndim))[::-1]).to(dtype)
    for grad in (torch.randn(shape).to(dtype), turned, torch.ones((), dtype=dtype).expand(shape)):
        (got,) = torch.autograd.grad(y, a, grad, retain_graph=True)
        (known,) = torch.autograd.grad(want, b, grad, retain_graph=True)
        assert_same(got, known, x)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", list(layouts(torch.float32)))
def test_in_place(layout: str, dtype: torch.dtype, backend: Backend) -> None:
    """What fills its memory is overwritten where it lies; views with gaps are written back to."""
    x = layouts(dtype)[layout]
    want, bits = relu_with_mask(x, backend=backend)
    if is_dense(x):
        y = x.clone()
        out, mask = relu_with_mask(y, out=y, backend=backend)
        assert out.data_ptr() == y.data_ptr()
        assert torch.equal(mask, bits)
        assert_same(y, want, x)
    leaf = x.detach().clone().requires_grad_()
    base = torch.empty(*x.shape, 2, dtype=dtype)[..., 0] if x.ndim else torch.empty((), dtype=dtype)
    assert is_dense(base) == (x.numel() in (0, 1) or not x.ndim)
    for start in (leaf * 1, base.copy_(leaf)):
        got = relu_(start)
        assert got.data_ptr() == start.data_ptr()
        assert_same(got.detach(), want, x)
        (grad,) = torch.autograd.grad(got.sum(), leaf)
        assert_same(grad, torch.autograd.grad(torch.relu(leaf).sum(), leaf)[0], x)


@built
@settings(max_examples=200)
@given(
    values=st.lists(st.floats(width=16) | st.sampled_from([*ODD, math.nan]), max_size=80),
    simd=st.sampled_from(LEVELS),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    ceiling=st.none() | st.sampled_from([6.0, 1.0, 0.0]),
)
def test_every_instruction_set(
    values: list[float], simd: Simd, dtype: torch.dtype, ceiling: float | None
) -> None:
    x = torch.tensor(values, dtype=torch.float32).to(dtype)
    grad = torch.linspace(-3, 3, len(values)).to(dtype)
    want, bits = relu_with_mask(x, ceiling, backend=Backend.REFERENCE)
    y, mask = stored.relu_with_mask(x, ceiling, simd)
    assert_same(y, want, x)
    assert torch.equal(mask, bits)
    known = masked(grad, bits, (1,), backend=Backend.REFERENCE)
    assert_same(stored.masked(grad, mask, (1,), simd), known, x)


def test_only_the_mask_is_saved() -> None:
    saved: list[Tensor] = []

    def pack(t: Tensor) -> Tensor:
        saved.append(t)
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        relu(torch.randn(1000, requires_grad=True))
    assert [(t.dtype, t.numel()) for t in saved] == [(torch.uint8, 125)]


@pytest.mark.parametrize("ceiling", [None, 0.5])
def test_derivatives(ceiling: float | None) -> None:
    x = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)

    def smooth(x: Tensor) -> Tensor:
        return relu(x, ceiling) * x.sin()

    assert torch.autograd.gradcheck(smooth, x)
    assert torch.autograd.gradgradcheck(smooth, x)


def test_no_gradient_is_asked_for() -> None:
    assert not relu(torch.randn(3)).requires_grad


@built
def test_schemas_and_refusals() -> None:
    x, mask = torch.randn(3, 4), torch.zeros(2, dtype=torch.uint8)
    ops = torch.ops.limprec
    for operator, arguments in (
        (ops.relu_with_mask.default, (x, torch.empty_like(x), mask, math.nan, 0)),
        (ops.masked.default, (x, mask, torch.empty_like(x), 0)),
    ):
        results = torch.library.opcheck(operator, arguments)
        assert set(results.values()) == {"SUCCESS"}, results
    with pytest.raises(RuntimeError, match="a mask has a bit for each element, in uint8"):
        ops.masked(x, mask[:1], torch.empty_like(x), 0)
    with pytest.raises(RuntimeError, match="a mask follows dense memory"):
        ops.masked(x, mask, torch.empty(4, 3).T, 0)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated")  # Dynamo's own doing
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_compiled_graphs_give_the_same(layout: torch.memory_format) -> None:
    def loss(x: Tensor) -> Tensor:
        return (relu(x * 2) * relu(x + 1, 6.0)).square().sum()

    given = torch.randn(2, 3, 5, 4).to(memory_format=layout)
    torch.compiler.reset()
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    grads = []
    for function in (loss, compiled):
        x = given.clone().requires_grad_()
        function(x).backward()
        assert x.grad is not None
        grads.append(x.grad)
    assert_same(grads[1], grads[0], given)
