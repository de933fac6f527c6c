"""Products of codes as values: each sum exact, rounded once, in every layout and on every path."""

from collections.abc import Iterator
from itertools import product

import pytest
import torch
from torch import Tensor

from limprec.errors import KernelError
from limprec.formats import Rounding, parse_precision
from limprec.kernels import Key, round_to
from limprec.kernels.matmul import code_products
from limprec.kernels.matmul.code_products import multiply_and_sum, multiply_codes
from limprec.kernels.matmul.operands import has_native, to_values
from limprec.kernels.matmul.real import Role, Roundings, real_matmul

SCALES = (0.25, 0.3, 2.0**-140, 2.0**120, float("nan"))
SIZES = [(1, 1, 1), (5, 7, 3), (12, 64, 32), (13, 65, 33), (97, 130, 17), (3, 0, 4), (0, 5, 2)]


@pytest.fixture(params=["fused", "plain"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The kernel for this CPU, and what takes its place elsewhere."""
    if request.param == "plain":
        monkeypatch.setattr(code_products, "has_native", lambda name: False)
    elif not has_native("codes_matmul"):
        pytest.skip("no kernel for this CPU")
    return str(request.param)


def codes(*shape: int, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randint(-128, 128, shape, dtype=torch.int8, generator=g)


def exact(a: Tensor, b: Tensor, scale: float, bias: Tensor | None = None) -> Tensor:
    """The sums in float64, where each is a whole number, rounded to float32 once."""
    total = (a.double() @ b.double()).to(torch.int64)
    return to_values(total, scale, torch.float32, bias)


def same(x: Tensor, y: Tensor) -> bool:
    assert (x.dtype, x.shape) == (y.dtype, y.shape)
    return torch.equal(x.isnan(), y.isnan()) and torch.equal(x.nan_to_num(), y.nan_to_num())


def layouts(x: Tensor) -> Iterator[Tensor]:
    """The same matrices in rows, in columns, with gaps, with one axis of the batch inside."""
    yield x
    yield x.mT.contiguous().mT
    *batch, rows, columns = x.shape
    gaps = torch.zeros(*batch, rows + 2, 2 * columns + 5, dtype=torch.int8)
    yield gaps[..., 1 : rows + 1, 3 : columns + 3].copy_(x)
    yield gaps.clone()[..., :rows, : 2 * columns : 2].copy_(x)
    if batch:
        yield x.movedim(0, -2).contiguous().movedim(-2, 0)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("batch", [(), (3,), (2, 3), (0,)])
def test_any_size_and_layout(size: tuple[int, int, int], batch: tuple[int, ...]) -> None:
    m, k, n = size
    a, b = codes(*batch, m, k), codes(*batch, k, n, seed=1)
    bias = torch.randn(n)
    for number, (x, y) in enumerate(product(layouts(a), layouts(b))):
        scale, added = SCALES[number % len(SCALES)], bias if number % 2 else None
        result = multiply_codes(x, y, scale, torch.float32, bias=added)
        assert same(result, exact(a, b, scale, added))


@pytest.mark.usefixtures("path")
def test_a_batch_that_is_one_matrix() -> None:
    a, b = codes(4, 20, 30), codes(30, 40).expand(4, 30, 40)
    assert same(multiply_codes(a, b, 0.5, torch.float32), exact(a, b, 0.5))


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("length", [1039, 4000, 131_071, 131_072])
def test_long_sums_of_the_largest_codes(length: int) -> None:
    a = torch.full((2, 3, length), -128, dtype=torch.int8)
    b = a.mT.clone()
    b[0, : length // 3, 1] = 127
    b[1, 0, 2] = 1
    assert same(multiply_codes(a, b, 1.0, torch.float32), exact(a, b, 1.0))
    for one, other in zip(a, b, strict=True):
        assert same(multiply_codes(one, other, 1.0, torch.float32), exact(one, other, 1.0))


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes(dtype: torch.dtype) -> None:
    a, b, bias = codes(2, 9, 300), codes(2, 300, 8, seed=1), torch.randn(8, dtype=dtype)
    total = (a.double() @ b.double()).to(torch.int64)
    expected = to_values(total, 0.3 * 2**-16, dtype, bias)
    assert same(multiply_codes(a, b, 0.3 * 2**-16, dtype, bias=bias), expected)


# --- batches of activations ----------------------------------------------------------------------


def role(name: str, stream: int) -> Role:
    precision = parse_precision(name)
    keyed = precision.rounding is Rounding.STOCHASTIC
    return precision, Key(3, stream, 5) if keyed else None


def factors() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    a = torch.randn(2, 10, 3, 16, generator=g).transpose(1, 2)  # as heads are
    b = torch.randn(2, 11, 3, 16, generator=g).transpose(1, 2).mT
    return a.requires_grad_(), b.requires_grad_()


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("name", ["dfx8", "dfx6:stochastic", "fx8.5", "int8s"])
def test_batches_of_rounded_matrices(name: str) -> None:
    a, b = factors()
    how = Roundings(role(name, 1), role(name, 2), role(name, 3), role("dfx8", 4))
    y = real_matmul(a, b, how)
    error = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    grads = torch.autograd.grad(y, (a, b), error)
    qa, qb = round_to(a.detach(), *how.activation), round_to(b.detach(), *how.weight)
    qe = round_to(error, *how.error)  # type: ignore[misc]
    for result, (x, z) in zip((y, *grads), ((qa, qb), (qe, qb.mT), (qa.mT, qe)), strict=True):
        expected = x.double() @ z.double()
        if result is grads[1]:
            expected = round_to(expected.float(), *role("dfx8", 4)).double()
        if name == "int8s":
            torch.testing.assert_close(result.double(), expected, rtol=2**-20, atol=2**-12)
        else:
            assert torch.equal(result, expected.float())


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_never_hidden(bad: float) -> None:
    a, b = factors()
    with torch.no_grad():
        b[1, 2, 3, 4] = bad
    how = Roundings(*(role("dfx8", 0) for _ in range(3)))
    y = real_matmul(a, b, how)
    assert y.isnan().all()
    assert torch.autograd.grad(y, a, torch.ones_like(y))[0].isnan().all()


def test_a_byte_an_element_is_saved() -> None:
    saved: list[Tensor] = []
    a, b = factors()
    how = Roundings(*(role("dfx8", 0) for _ in range(3)))
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):  # type: ignore[func-returns-value]
        real_matmul(a, b, how)
    assert sum(x.nbytes for x in saved) == a.numel() + b.numel() + 8


def test_batches_that_do_not_fit() -> None:
    a, b = factors()
    how = Roundings(*(role("dfx8", 0) for _ in range(3)))
    with pytest.raises(KernelError, match="with the same leading axes"):
        real_matmul(a, b[:1], how)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("size", [(5, 7, 3), (97, 130, 17), (13, 64, 600), (3, 0, 4), (4, 5, 0)])
def test_sums_of_rows_come_with_the_product(size: tuple[int, int, int]) -> None:
    m, k, n = size
    for a in layouts(codes(m, k)):
        b = codes(k, n, seed=1)
        found, sums = multiply_and_sum(a, b, 0.5, torch.float32)
        assert same(found, exact(a, b, 0.5))
        assert torch.equal(sums.to(torch.int64), a.sum(1, dtype=torch.int64))


@pytest.mark.usefixtures("path")
def test_sums_of_the_most_terms() -> None:
    a, b = torch.full((2, 131_071), -128, dtype=torch.int8), codes(131_071, 1)
    assert multiply_and_sum(a, b, 0.5, torch.float32)[1].tolist() == [-128 * 131_071] * 2


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("length", [64, 70, 256, 259])
def test_zeros_at_the_ends_of_rows(length: int) -> None:
    rows, terms = torch.arange(40)[:, None], torch.arange(length)
    for zero in (
        terms > rows,
        terms < rows,
        (terms < 5) | (terms > length - 9),
        (rows > 20) | (terms > 70 * (rows < 3)),
        terms >= 0,
    ):
        a, b = codes(40, length).masked_fill(zero, 0), codes(length, 33, seed=1)
        for x in layouts(a):
            assert same(multiply_codes(x, b, 0.5, torch.float32), exact(a, b, 0.5))
            sums = multiply_and_sum(x, b, 0.5, torch.float32)[1]
            assert torch.equal(sums.to(torch.int64), a.sum(1, dtype=torch.int64))


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_given_place_for_the_result(dtype: torch.dtype) -> None:
    a, b, bias = codes(2, 3, 20, 30), codes(2, 3, 30, 40, seed=1), torch.randn(40)
    expected = multiply_codes(a, b, 0.3, dtype, bias=bias)
    room = torch.full((2, 22, 3, 50), 7.0, dtype=dtype)
    out = room[:, 1:21, :, 4:44].transpose(1, 2)
    assert multiply_codes(a, b, 0.3, dtype, bias=bias, out=out) is out
    assert torch.equal(out, expected)
    assert (room[:, (0, 21)] == 7).all()
    assert (room[..., :4] == 7).all()
    assert (room[..., 44:] == 7).all()
