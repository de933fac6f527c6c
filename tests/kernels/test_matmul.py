"""Sums at accumulator precision: exact rationals judge the reference, it judges the kernels."""

import itertools
import math
import random
from collections.abc import Iterator
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from limprec.errors import FormatError, KernelError, LimprecError
from limprec.formats import FixedPoint, FloatingPoint, Format, Rounding, parse_format
from limprec.formats.oracle import round_exact, round_to_integer
from limprec.kernels import Backend, Key, random_words
from limprec.kernels.matmul import matmul, native, reference
from limprec.kernels.matmul.adder import Adder, check_format, check_sum, parse_adder
from limprec.kernels.matmul.reference import Request
from limprec.kernels.native import Simd, best_simd

FLOATS = ["e5m10", "bf16", "e4m3", "e5m2", "e3m2", "e6m9", "e8m15", "fp32", "e9m20", "e9m40"]
TWISTED = ["e5m10-sat", "e4m3fnuz", "e5m10-nosub", "e4m3-ovf", "e2m1-ovf", "e2m1", "bf16-sat"]
FIXED = ["fx16.8", "fx16.8-wrap", "ufx12.4", "fx8.0-wrap", "fx24.0", "fx32.16", "fx51.20-wrap"]
PRODUCTS = [None, None, "e5m10", "e4m3", "bf16", "fx16.8", "fx12.4-wrap", "e8m15"]
ADDERS = [None, "tree", "aligned:4:2", "aligned:3:0", "aligned:1:5"]

needs_native = pytest.mark.skipif(
    native.missing() is not None, reason=f"no native kernel: {native.missing()}"
)


def same(x: Tensor, y: Tensor) -> bool:
    """Equal bit for bit, but for the payload of NaN."""
    assert x.dtype == y.dtype
    x, y = torch.where(x.isnan(), 12345.0, x), torch.where(y.isnan(), 12345.0, y)
    return torch.equal(x, y) and torch.equal(x.signbit(), y.signbit())


# --- the oracle ----------------------------------------------------------------------------------


class Oracle:
    """One element of the result, in rational arithmetic, from the docstring of ``matmul``."""

    def __init__(self, request: Request, index: int) -> None:
        self.request = request
        self.index = index

    def round(self, x: Fraction, zero: float, fmt: Format, stream: int, step: int) -> float:
        """Round an exact number; ``zero`` is what an exact 0 is."""
        mode, word = self.request.rounding, None
        if mode is Rounding.STOCHASTIC:
            word = int(random_words(Key(self.request.seed, stream, step, self.index), 1))
        if x == 0:
            return round_exact(zero, fmt, mode, random=word)
        if isinstance(fmt, FixedPoint):
            code = round_to_integer(x * Fraction(2) ** fmt.fraction_bits, mode, word)
            if fmt.overflow == "wrap":
                code = (code - fmt.code_min) % 2**fmt.bits + fmt.code_min
            return max(fmt.code_min, min(fmt.code_max, code)) * fmt.lsb
        assert isinstance(fmt, FloatingPoint)
        step_size = Fraction(2) ** (max(exponent(x), fmt.min_exponent) - fmt.mantissa_bits)
        if not fmt.subnormals and abs(x) < Fraction(2) ** fmt.min_exponent:
            step_size = Fraction(2) ** fmt.min_exponent
        value = round_to_integer(x / step_size, mode, word) * step_size
        if abs(value) > Fraction(fmt.max):
            held = mode is Rounding.TOWARD_ZERO or mode is (Rounding.DOWN if x > 0 else Rounding.UP)
            end = fmt.max if held else round_exact(math.inf, fmt)
            return end if x > 0 else -end
        signed = math.copysign(float(abs(value)), x)
        return signed if fmt.has_negative_zero else signed + 0.0

    def add(self, x: float | Fraction, y: float | Fraction, stream: int, step: int) -> float:
        """Exact terms: fractions are products of nonzero numbers, floats anything."""
        fmt = self.request.accumulator
        floats = [v for v in (x, y) if isinstance(v, float)]
        if not all(math.isfinite(v) for v in floats):
            total = sum(v for v in floats if not math.isfinite(v))
            return round_exact(total, fmt)
        zero = -0.0 if [math.copysign(1, v) for v in floats if v == 0] == [-1, -1] else 0.0
        return self.round(Fraction(x) + Fraction(y), zero, fmt, stream, step)

    def product(self, a: float, b: float, k: int) -> float | Fraction:
        into = self.request.product
        if not math.isfinite(a * b) or a == 0 or b == 0:
            return (
                a * b if into is None else round_exact(a * b, into, self.request.rounding, random=0)
            )
        exact = Fraction(a) * Fraction(b)
        return exact if into is None else self.round(exact, 0.0, into, reference.PRODUCT, k)

    def kahan(
        self, s: float, c: float, x: float | Fraction, stream: int, k: int
    ) -> tuple[float, float]:
        y = self.add(x, -c, stream, k)
        t = self.add(s, y, stream + reference.KAHAN_T, k)
        d = self.add(t, -s, stream + reference.KAHAN_D, k)
        return t, self.add(d, -y, stream + reference.KAHAN_C, k)

    def tree(self, nodes: list[float | Fraction], first: int) -> float:
        for level in itertools.count():
            nodes += [0.0] * (len(nodes) % 2)
            nodes = [
                self.add(nodes[i], nodes[i + 1], reference.TREE + level, first + i * 2**level)
                for i in range(0, len(nodes), 2)
            ]
            if len(nodes) == 1:
                return nodes[0]  # type: ignore[return-value]  # the root is rounded
        raise AssertionError

    def aligned(self, acc: float, terms: list[float | Fraction], k: int) -> float:
        fmt = self.request.accumulator
        assert isinstance(fmt, FloatingPoint)
        floats = [v for v in (acc, *terms) if isinstance(v, float) and not math.isfinite(v)]
        if floats:
            return round_exact(sum(floats), fmt)
        exact = [Fraction(v) for v in (acc, *terms)]
        if not any(exact):
            return 0.0
        top = max(fmt.min_exponent, *(exponent(v) for v in exact if v))
        grid = Fraction(2) ** (top - fmt.mantissa_bits - self.request.adder.extra)
        total = sum((math.trunc(v / grid) * grid for v in exact), Fraction(0))
        return self.round(total, 0.0, fmt, reference.SUM, k)

    def chunk(self, a: list[float], b: list[float], start: int, stop: int) -> float:
        r = self.request
        terms = [self.product(a[k], b[k], k) for k in range(start, stop)]
        if r.adder.kind == "tree":
            return self.tree(terms, start)
        s = c = 0.0
        if r.adder.kind == "aligned":
            for i in range(0, len(terms), r.adder.ways):
                s = self.aligned(s, terms[i : i + r.adder.ways], start + i)
            return s
        for k, x in enumerate(terms, start):
            if r.kahan:
                s, c = self.kahan(s, c, x, 0, k)
            else:
                s = self.add(s, x, reference.SUM, k)
        return s

    def dot(self, a: list[float], b: list[float]) -> float:
        r, s, c = self.request, 0.0, 0.0
        if r.chunk is None:
            return self.chunk(a, b, 0, len(a)) if a else 0.0
        for number, start in enumerate(range(0, len(a), r.chunk)):
            part = self.chunk(a, b, start, min(start + r.chunk, len(a)))
            if r.kahan:
                s, c = self.kahan(s, c, part, reference.CHUNK, number)
            else:
                s = self.add(s, part, reference.CHUNK, number)
        return s


def exponent(x: Fraction) -> int:
    """floor(log2 |x|), exactly."""
    guess = abs(x).numerator.bit_length() - x.denominator.bit_length()
    return guess if Fraction(2) ** guess <= abs(x) else guess - 1


# --- requests and operands -----------------------------------------------------------------------


def possible(r: Request) -> bool:
    try:
        check_sum(r.accumulator, r.rounding, r.adder, r.kahan)
        if r.product is not None:
            check_format("product", r.product, r.rounding)
    except LimprecError:
        return False
    return True


def some_request(dice: random.Random) -> Request:
    while True:
        product = dice.choice(PRODUCTS)
        r = Request(
            parse_format(dice.choice(dice.choice([FLOATS, TWISTED, FIXED]))),  # type: ignore[arg-type]
            None if product is None else parse_format(product),  # type: ignore[arg-type]
            dice.choice([None, None, 1, 3, 5]),
            dice.random() < 0.3,
            dice.choice(list(Rounding)),
            dice.randrange(2**64),
            parse_adder(dice.choice([None, *ADDERS])),
        )
        if possible(r):
            return r


def operands(dice: random.Random, kind: int, *shape: int) -> Tensor:
    g = torch.Generator().manual_seed(dice.randrange(2**31))
    x = torch.randn(shape, generator=g)
    if kind == 1:  # ties
        x = torch.randint(-9, 10, shape, generator=g) / 4
    elif kind == 2:  # far apart
        x = x * 2.0 ** torch.randint(-20, 12, shape, generator=g)
    elif kind == 3:  # overflow and everything that is not finite
        x = x * 300
        x[torch.rand(shape, generator=g) < 0.02] = torch.inf
        x[torch.rand(shape, generator=g) < 0.01] = torch.nan
        x[torch.rand(shape, generator=g) < 0.2] = -0.0
    elif kind == 4:  # any bits at all
        x = torch.randint(-(2**31), 2**31, shape, generator=g).to(torch.int32).view(torch.float32)
    elif kind == 5:  # half a unit of e5m10, a little more, a little less
        x = 1 + torch.randint(-3, 4, shape, generator=g) * 2.0**-11
        x = x + torch.randint(-1, 2, shape, generator=g) * 2.0**-23
    return x


KINDS = range(6)
BACKENDS = [Backend.REFERENCE, Backend.AUTO]


# --- the reference -------------------------------------------------------------------------------


@settings(max_examples=500, deadline=None)
@given(seed=st.integers(0, 2**32), kind=st.sampled_from(KINDS))
def test_the_reference_equals_exact_rationals(seed: int, kind: int) -> None:
    dice = random.Random(seed)
    r = some_request(dice)
    rows, terms, columns = dice.randint(1, 2), dice.randint(0, 9), dice.randint(1, 2)
    a, b = operands(dice, kind, 1, rows, terms), operands(dice, kind, 1, terms, columns)
    y = reference.matmul(a.double(), b.double(), r)
    for index, (i, j) in enumerate(itertools.product(range(rows), range(columns))):
        expected = Oracle(r, index).dot(a[0, i].tolist(), b[0, :, j].tolist())
        got = y[0, i, j]
        assert same(got, torch.tensor(expected, dtype=torch.float64)), (r, float(got), expected)


@pytest.mark.parametrize("bits", [3, 5, 11])
def test_rounding_twice_is_innocuous_where_the_kernels_rely_on_it(bits: int) -> None:
    """Sums of two p-bit numbers, p <= 11, rounded to 24 bits and then to p: 2p + 2 <= 24."""
    fmt = FloatingPoint(5, bits - 1)
    g = torch.Generator().manual_seed(bits)
    top = 2**bits
    x = torch.randint(-top, top, (200_000,), generator=g) * 2.0**-10
    y = torch.randint(-top, top, (200_000,), generator=g) * 2.0 ** -torch.randint(
        0, 15, (200_000,), generator=g
    )
    twice = reference.quantize((x + y).double(), fmt, Rounding.NEAREST, None)
    once = reference.add(x.double(), y.double(), Request(fmt), 0, 0)
    assert torch.equal(twice, once)


def test_rounding_twice_is_wrong_for_a_multiply_add() -> None:
    a = torch.tensor([[1 + 2.0**-10, 2.0**-11]])
    b = torch.tensor([[1.0], [1 - 2.0**-20]])
    in_float32 = a[0, 0] * b[0, 0] + a[0, 1] * b[1, 0]  # the product is exact, the sum a tie
    assert in_float32 == 1 + 2**-10 + 2**-11
    for backend in BACKENDS:
        assert matmul(a, b, backend=backend).item() == 1 + 2**-10  # the tie would go to 1 + 2^-9


# --- the native kernels --------------------------------------------------------------------------


def levels() -> Iterator[Simd]:
    return (simd for simd in Simd if Simd.AUTO < simd <= best_simd())


@needs_native
@pytest.mark.parametrize("seed", range(50))
def test_native_equals_the_reference(seed: int) -> None:
    dice = random.Random(seed)
    for _ in range(6):
        r, kind = some_request(dice), dice.choice(KINDS)
        narrow = r.accumulator.significant_bits <= 24 and r.accumulator.name[:2] not in ("e9", "e1")
        dtype = torch.float32 if narrow and dice.random() < 0.8 else torch.float64
        batch, rows, terms, columns = (dice.choice(c) for c in SIZES)
        a = operands(dice, kind, batch, rows, terms).to(dtype)
        b = operands(dice, dice.choice([kind, 0]), batch, terms, columns).to(dtype)
        expected = reference.matmul(a.double(), b.double(), r).to(dtype)
        for simd in levels():
            assert same(native.matmul(a, b, r, simd), expected), (r, kind, simd)


SIZES = [(1, 1, 2), (1, 2, 5), (1, 2, 3, 7, 12, 33), (1, 3, 17, 70)]


@needs_native
@pytest.mark.parametrize("name", ["e5m10", "e6m9", "bf16", "fx16.8"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"kahan": True},
        {"chunk": 8, "product": "e5m10"},
        {"adder": "tree"},
        {"rounding": "stochastic", "seed": 2**64 - 1},
    ],
    ids=str,
)
def test_threads_and_backends_do_not_change_a_bit(name: str, options: dict[str, object]) -> None:
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(130, 40, generator=g), torch.randn(40, 133, generator=g)
    expected = matmul(a, b, name, backend=Backend.REFERENCE, **options)  # type: ignore[arg-type]
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            assert same(matmul(a, b, name, **options), expected)  # type: ignore[arg-type]
    finally:
        torch.set_num_threads(before)


# --- what it is for ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "total"),
    [
        ({}, 2048),  # 2048 + 1 is a tie, and stays: the sum is swamped
        ({"rounding": "nearest_away"}, 4096),  # the ties up to there go up, by 2 for 1
        ({"rounding": "toward_zero"}, 2048),
        ({"chunk": 64}, 10_000),
        ({"kahan": True}, 10_000),
        ({"adder": "tree"}, 10_000),
        ({"adder": "aligned:4:2"}, 8192),
        ({"accumulator": "fx16.0"}, 10_000),
        ({"accumulator": "fx12.0"}, 2047),
        ({"accumulator": "fx8.0-wrap"}, 10_000 % 256),
        ({"accumulator": "ufx8.0-wrap"}, 10_000 % 256),
        ({"accumulator": "e8m7"}, 256),
    ],
    ids=str,
)
def test_ten_thousand_ones(options: dict[str, object], total: int) -> None:
    ones = torch.ones(1, 10_000)
    assert matmul(ones, ones.t(), **options).item() == total  # type: ignore[arg-type]
    if not options:
        assert matmul(ones, ones.t(), backend=Backend.REFERENCE).item() == total


def test_stochastic_sums_are_right_on_average() -> None:
    a, b = torch.ones(40, 4000), torch.ones(4000, 50)
    y = matmul(a, b, "e5m10", rounding="stochastic", seed=5)
    assert abs(float(y.mean()) - 4000) < 5 * float(y.std()) / 2000**0.5
    assert not torch.equal(y, matmul(a, b, "e5m10", rounding="stochastic", seed=6))


# --- the door ------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("left", "right"),
    [
        ((3, 4), (4, 5)),
        ((2, 3, 4), (4, 5)),
        ((3, 4), (2, 4, 5)),
        ((2, 1, 3, 4), (6, 4, 5)),
        ((4,), (4,)),
        ((4,), (4, 5)),
        ((3, 4), (4,)),
        ((2, 3, 4), (4,)),
        ((4,), (2, 4, 5)),
        ((3, 0), (0, 5)),
        ((0, 4), (4, 5)),
        ((2, 3, 4), (2, 4, 0)),
        ((0, 3, 4), (4, 5)),
    ],
    ids=str,
)
def test_shapes_are_those_of_torch(
    backend: Backend, left: tuple[int, ...], right: tuple[int, ...]
) -> None:
    g = torch.Generator().manual_seed(0)
    a = torch.randint(-4, 5, left, generator=g).float()
    b = torch.randint(-4, 5, right, generator=g).float()
    y = matmul(a, b, backend=backend)
    assert y.shape == torch.matmul(a, b).shape
    assert torch.equal(y, torch.matmul(a, b))  # small integers are exact in e5m10
    chunked = matmul(a, b, chunk=2, adder="tree", backend=backend)
    assert torch.equal(chunked, y)
    meta = matmul(a.to("meta"), b.to("meta"), backend=backend)
    assert (meta.shape, meta.dtype, meta.device.type) == (y.shape, y.dtype, "meta")


@pytest.mark.parametrize("backend", BACKENDS)
def test_layout_dtype_and_out_do_not_matter(backend: Backend) -> None:
    g = torch.Generator().manual_seed(3)
    a, b = torch.randn(6, 9, generator=g), torch.randn(9, 9, generator=g)
    a, b = a.bfloat16().half().float(), b.bfloat16().half().float()
    y = matmul(a, b, "e4m3", backend=backend)
    assert torch.equal(matmul(a.t().contiguous().t(), b[:, ::1], "e4m3", backend=backend), y)
    assert torch.equal(matmul(a[::2], b, "e4m3", backend=backend), y[::2])
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        other = matmul(a.to(dtype), b.to(dtype), "e4m3", backend=backend)
        assert other.dtype == dtype
        assert torch.equal(other.float(), y)
    out = torch.empty(6, 9)
    assert matmul(a, b, "e4m3", out=out, backend=backend) is out
    assert torch.equal(out, y)
    square = b.clone()
    assert torch.equal(
        matmul(b, square, "e4m3", out=square, backend=backend),
        matmul(b, b, "e4m3", backend=backend),
    )
    assert not matmul(a.requires_grad_(), b, backend=backend).requires_grad


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
def test_compile() -> None:
    a, b = torch.ones(3, 40), torch.ones(40, 5)

    def f(x: Tensor, y: Tensor) -> Tensor:
        return matmul(x * 2, y, "e4m3", chunk=8, rounding="stochastic", seed=1) + 1

    compiled = torch.compile(f, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(a, b), f(a, b))


X = torch.zeros(2, 3)
Y = torch.zeros(3, 2)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((X, X), {}, KernelError, r"shapes \(2, 3\) and \(2, 3\) do not fit; give"),
        ((torch.zeros(2, 2, 3), torch.zeros(3, 3, 2)), {}, KernelError, "batches that broadcast"),
        ((X.int(), Y.int()), {}, KernelError, "carries no formats; use float32"),
        ((X, Y.double()), {}, KernelError, "bring both to one dtype"),
        ((X, 3.0), {}, KernelError, "float is no tensor"),
        ((X, torch.tensor(1.0)), {}, KernelError, "without dimensions; give vectors"),
        ((X, Y), {"chunk": 0}, KernelError, "chunk is 0; give at least 1"),
        ((X, Y), {"chunk": 1.5}, KernelError, r"chunk is 1\.5"),
        ((X, Y), {"accumulator": "fx1.0"}, FormatError, "1 bits; give an integer from 2"),
        ((X, Y), {"accumulator": "e5m0"}, FormatError, "0 mantissa bits"),
        ((X, Y), {"accumulator": "dfx8"}, KernelError, "scale that follows the whole tensor"),
        ((X, Y), {"accumulator": "fx32.16"}, FormatError, "use a float64 carrier"),
        ((X.double(), Y.double()), {"accumulator": "fp64"}, KernelError, "at most 50"),
        ((X.double(), Y.double()), {"accumulator": "e11m8"}, KernelError, "2\\^-500 to 2\\^500"),
        ((X, Y), {"rounding": "stochastic"}, KernelError, "without a seed; pass seed=0"),
        ((X, Y), {"rounding": "stochastic", "seed": -1}, KernelError, "seed is -1"),
        (
            (X, Y),
            {"rounding": "stochastic", "seed": 0, "accumulator": "fp32"},
            KernelError,
            "use at most 20 with rounding 'stochastic'",
        ),
        ((X, Y), {"rounding": "sideways"}, FormatError, "use one of nearest"),
        ((X, Y), {"product": "dfx8"}, KernelError, "product dfx8 has a scale"),
        ((X, Y), {"adder": "ring"}, KernelError, "unknown adder 'ring'; use 'sequential'"),
        ((X, Y), {"adder": "aligned:0:2"}, KernelError, "give 1 to 4096 ways"),
        ((X, Y), {"adder": "aligned:4:40"}, KernelError, "is 54 bits wide; choose fewer"),
        ((X, Y), {"adder": "aligned:4:2", "accumulator": "fx8.2"}, KernelError, "aligned already"),
        ((X, Y), {"adder": "tree", "kahan": True}, KernelError, "adder='sequential' with kahan"),
        ((X, Y), {"out": torch.zeros(3, 2)}, KernelError, "give an out that matches"),
        ((X.double() + 1e300, Y.double()), {}, KernelError, "quantize operands first"),
        ((X.double() + 0.1, Y.double()), {}, KernelError, "over 26 significant bits"),
    ],
)
def test_errors_name_the_value_and_the_remedy(
    arguments: tuple[Tensor, Tensor],
    options: dict[str, object],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        matmul(*arguments, **options)  # type: ignore[arg-type]


def test_adders_print_as_they_are_read() -> None:
    for name in ADDERS:
        assert str(parse_adder(name)) == (name or "sequential")
    assert parse_adder("aligned:4:2") == Adder("aligned", 4, 2)
