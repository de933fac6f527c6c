"""The bounds on accumulators against simulations: enough bits, and one fewer is not."""

import pytest
import torch

from limprec.accumulation import accumulator_bits
from limprec.errors import GuidelineError
from limprec.formats import FixedPoint, FloatingPoint
from limprec.kernels.matmul import matmul


def sum_of_ones(length: int, mantissa_bits: int, **options: object) -> float:
    ones = torch.ones(1, length)
    fmt = FloatingPoint(8, mantissa_bits)
    return matmul(ones, ones.t(), fmt, **options).item()  # type: ignore[arg-type]


@pytest.mark.parametrize("length", [5, 16, 17, 100, 300, 1024, 1025])
def test_one_sum_of_equal_terms(length: int) -> None:
    m = accumulator_bits(length, family="float").worst
    assert sum_of_ones(length, m) == length
    if length & (length - 1):  # a power of two would be met on the way down too
        assert sum_of_ones(length, m - 1) < length


@pytest.mark.parametrize(("length", "chunk"), [(1024, 32), (1024, 64), (900, 30), (4096, 64)])
def test_chunks_need_half_as_many(length: int, chunk: int) -> None:
    m = accumulator_bits(length, family="float", chunk=chunk).worst
    assert m < accumulator_bits(length, family="float").worst
    assert abs(sum_of_ones(length, m, chunk=chunk) / length - 1) <= 2.0**-m
    if chunk * chunk == length:
        assert sum_of_ones(length, m - 1, chunk=chunk) < 0.6 * length


@pytest.mark.parametrize("m", [3, 4, 5])
def test_kahan_sums(m: int) -> None:
    length = 2 ** (2 * m + 2)
    assert accumulator_bits(length, family="float", kahan=True).worst == m
    assert accumulator_bits(length + 1, family="float", kahan=True).worst == m + 1
    total = sum_of_ones(length, m, kahan=True)
    assert abs(total / length - 1) <= 2.0**-m
    assert sum_of_ones(16 * length, m, kahan=True) < 8 * length  # swamped


def test_trees_swamp_nothing() -> None:
    assert accumulator_bits(10**6, family="float", tree=True).worst == 1
    assert sum_of_ones(4096, 1, adder="tree") == 4096


def test_typical_sums_keep_most_of_their_variance() -> None:
    length = 4096
    bits = accumulator_bits(length, family="float")
    assert bits.typical < bits.worst
    g = torch.Generator().manual_seed(0)
    a = torch.randint(0, 2, (200, length), generator=g) * 2.0 - 1
    b = torch.randint(0, 2, (length, 20), generator=g) * 2.0 - 1
    exact = a @ b

    def error(m: int) -> float:
        return float((matmul(a, b, FloatingPoint(8, m)) - exact).norm() / exact.norm())

    assert bits.typical == 7
    assert error(7) <= 1 / 8
    assert error(5) > 1 / 4


@pytest.mark.parametrize(("length", "product_bits"), [(1, 5), (7, 3), (64, 8), (65, 8), (1000, 15)])
def test_fixed_point_worst_case_is_tight(length: int, product_bits: int) -> None:
    n = accumulator_bits(length, product_bits=product_bits).worst
    assert n == product_bits + (length - 1).bit_length()
    a = torch.full((1, length), -(2.0 ** (product_bits - 1)))
    b = torch.ones(length, 1)
    lowest = -length * 2.0 ** (product_bits - 1)
    assert matmul(a, b, FixedPoint(n, 0)).item() == lowest
    assert matmul(a, b, FixedPoint(n - 1, 0)).item() > lowest


def test_fixed_point_typical_sums_do_not_overflow() -> None:
    length, product_bits = 4096, 8
    bits = accumulator_bits(length, product_bits=product_bits, failure=1e-6)
    assert bits.typical < bits.worst
    g = torch.Generator().manual_seed(1)
    a = (torch.randint(0, 2, (300, length), generator=g) * 2.0 - 1) * 2.0 ** (product_bits - 1)
    sums = (a - 0.0).cumsum(1).abs().amax()
    assert sums < 2.0 ** (bits.typical - 1)
    assert sums > 2.0 ** (bits.typical - 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"length": 0}, "length is 0; give an integer of at least 1"),
        ({"length": 2.0}, r"length is 2\.0"),
        ({"length": 9, "family": "log"}, "family 'log'; use 'fixed' or 'float'"),
        ({"length": 9, "product_bits": 1}, "product_bits is 1"),
        ({"length": 9, "failure": 0.0}, "give one between 0 and 1"),
        ({"length": 9, "family": "float", "chunk": 0}, "chunk is 0"),
        ({"length": 9, "family": "float", "spread": -1}, "spread is -1"),
    ],
)
def test_errors(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(GuidelineError, match=message):
        accumulator_bits(**arguments)  # type: ignore[arg-type]


def test_reasons_and_units() -> None:
    fixed = accumulator_bits(1024)
    assert (fixed.worst, fixed.typical, fixed.unit) == (25, 23, "bits")
    assert "reach 2^24" in fixed.reason
    floating = accumulator_bits(1024, family="float")
    assert (floating.worst, floating.typical, floating.unit) == (9, 6, "mantissa bits")
    assert "chunks of 32" in floating.reason
    assert accumulator_bits(1024, family="float", spread=3).worst == 12
