"""The Triton kernels against the reference: the same bits. ``test_triton`` runs this file, in the
interpreter (TRITON_INTERPRET=1) and on a GPU where there is one."""

import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import limprec as lp
from limprec.errors import FormatError, KernelError
from limprec.formats import (
    MAX_RANDOM_BITS,
    DynamicFixedPoint,
    FixedPoint,
    FloatingPoint,
    Format,
    Precision,
    Rounding,
    ScalarFormat,
    parse_format,
    parse_precision,
)
from limprec.kernels import Backend, Key, check_carrier, reference, triton

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SCALAR = [
    *("fp16", "bf16", "tf32", "fp32-sat", "e5m2", "e4m3", "e4m3ieee", "e4m3fnuz", "e5m2fnuz"),
    *("e4m3b11fnuz", "e3m2", "e2m1", "e5m2-ovf", "e4m3-ovf", "e2m1-ovf", "e5m2-nosub", "e8m3"),
    *("e3m7", "e8m3b130", "e7m23", "e2m3b120-nosub", "binary8p1", "binary8p4", "e5m0fnuz"),
    *("fx8.4", "ufx8.4", "fx8.4-wrap", "ufx8.4-wrap", "fx16.12", "fx12.-3", "fx8.130"),
    *("fx25.10", "fx25.-90-wrap"),
]
DYNAMIC = ["dfx2", "dfx8", "dfx16", "dfx25"]
KEY = Key(2**64 - 12345, stream=7, step=2**32 - 9, offset=2**35 - 1001)


@pytest.fixture
def wide_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make programs wide where each costs the interpreter much the same."""
    from limprec.kernels.triton import launch

    if DEVICE == "cpu":
        monkeypatch.setattr(launch, "BLOCK", 4096)


def integers(x: Tensor) -> Tensor:
    return x.contiguous().view({2: torch.int16, 4: torch.int32}[x.element_size()])


def assert_same(got: Tensor, expected: Tensor, x: Tensor, what: object = "") -> None:
    """Same bits; any NaN equals any other."""
    got, x = got.cpu(), x.cpu()
    assert got.shape == expected.shape
    assert got.dtype == expected.dtype
    wrong = (integers(got) != integers(expected)) & ~(got.isnan() & expected.isnan())
    if wrong.any():
        i = int(wrong.flatten().nonzero()[0])
        a, b, c = (t.flatten()[i].item() for t in (x, got, expected))
        pytest.fail(f"{what}: {a!r} gave {b!r}, not {c!r}, at {i}; {int(wrong.sum())} wrong")


def check(x: Tensor, precision: Precision, key: Key = KEY) -> None:
    """Compare with the reference on the CPU, whose arithmetic is no GPU's."""
    fmt, rounding, bits = precision.format, precision.rounding, precision.random_bits
    expected = reference.quantize(x, fmt, rounding, key, random_bits=bits)
    got = triton.round_to(x.to(DEVICE), precision, key)
    assert_same(got, expected, x, f"{precision} in {x.dtype} {tuple(x.shape)}")


def fits(fmt: Format, dtype: torch.dtype) -> bool:
    try:
        check_carrier(fmt, dtype, "test")
    except FormatError:
        return False
    return True


def patterns(dtype: torch.dtype, count: int) -> Tensor:
    """Random bit patterns."""
    bits = torch.randint(-(2**31), 2**31, (count,), generator=torch.Generator().manual_seed(1))
    return bits.to(torch.int16 if dtype.itemsize == 2 else torch.int32).view(dtype)


def edges(fmt: Format, dtype: torch.dtype) -> Tensor:
    """Numbers about the landmarks of format and carrier, each with its neighbours."""
    limits, wide = torch.finfo(dtype), torch.float64
    landmarks = [torch.tensor([0.0, torch.inf, torch.nan, limits.max], dtype=wide)]
    landmarks.append(limits.smallest_normal * torch.arange(9, dtype=wide) / 4)
    if isinstance(fmt, ScalarFormat):
        base = torch.tensor([fmt.max, fmt.min, fmt.smallest, 1.0], dtype=wide)
        landmarks += [base * factor for factor in (0.25, 0.5, 0.75, 1, 1.125, 1.25, 1.5, 1.75, 2)]
        landmarks.append(fmt.smallest * torch.arange(140, dtype=wide) / 8)  # halves are ties
        landmarks.append(fmt.max * torch.linspace(0.9, 1.1, 51, dtype=wide))
        if isinstance(fmt, FloatingPoint):
            landmarks.append(fmt.smallest_normal * torch.linspace(0, 2, 33, dtype=wide))
    x = torch.cat(landmarks).to(dtype)
    up, down = torch.tensor(torch.inf, dtype=dtype), torch.tensor(-torch.inf, dtype=dtype)
    x = torch.cat([x, torch.nextafter(x, up), torch.nextafter(x, down)])
    return torch.cat([x, -x])


def spread(dtype: torch.dtype, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(count, generator=generator, dtype=torch.float64)
    return (x * torch.exp2(torch.randint(-20, 20, (count,), generator=generator))).to(dtype)


@pytest.mark.usefixtures("wide_programs")
@pytest.mark.parametrize("name", SCALAR)
def test_scalar_formats(name: str) -> None:
    fmt = parse_format(name)
    for dtype in (dtype for dtype in DTYPES if fits(fmt, dtype)):
        x = torch.cat([patterns(dtype, 900), edges(fmt, dtype), spread(dtype, 501)])
        for rounding in Rounding:
            check(x, Precision(fmt, rounding))


@pytest.mark.parametrize("name", DYNAMIC)
def test_dynamic_fixed_point(name: str) -> None:
    fmt = parse_format(name)
    for dtype in (dtype for dtype in DTYPES if fits(fmt, dtype)):
        x, bits, limits = spread(dtype, 301), patterns(dtype, 300), torch.finfo(dtype)
        tensors = [
            *(x, x * limits.smallest_normal, x.clamp(-1, 1) * limits.tiny, -x * 0),
            *(bits, bits[bits.isfinite()], bits[bits.isfinite()] * 2.0**-4),
            torch.tensor([limits.max, 1.0, -3.0, limits.tiny], dtype=dtype),
            torch.tensor([*[0.5] * 40, torch.inf], dtype=dtype),
            torch.tensor([1.0, 0.9999, -1.0, 0.75, 0.25, -0.25, 0.125, -0.0], dtype=dtype),
        ]
        roundings = list(Rounding)
        for i, t in enumerate(tensors):
            for rounding in {Rounding.STOCHASTIC, roundings[i % 6]}:
                check(t, Precision(fmt, rounding))


def test_the_largest_may_be_anywhere() -> None:
    x = torch.randn(20_001)
    for place in (0, 8191, 8192, 20_000):
        y = x.clone()
        y[place] = 77.0
        check(y, parse_precision("dfx8"))
    y[13_000] = torch.nan
    check(y, parse_precision("dfx8"))


floats = st.builds(
    FloatingPoint,
    st.integers(2, 8),
    st.integers(1, 23),
    st.none() | st.integers(-40, 140),
    st.booleans(),
    st.sampled_from(["ieee", "fn", "fnuz", "finite", "p3109"]),
    st.sampled_from([None, "saturate", "ieee"]),
)
fixed = st.builds(
    FixedPoint,
    st.integers(2, 25),
    st.integers(-100, 140),
    st.booleans(),
    st.sampled_from(["saturate", "wrap"]),
)


@settings(max_examples=80, deadline=None)
@given(
    fmt=floats | fixed | st.builds(DynamicFixedPoint, st.integers(2, 25)),
    rounding=st.sampled_from(Rounding),
    random_bits=st.integers(1, 32),
    bits=st.lists(st.integers(-(2**31), 2**31 - 1), max_size=70),
    scale=st.integers(-150, 130),
    key=st.builds(
        Key,
        st.integers(0, 2**64 - 1),
        st.integers(0, 2**32 - 1),
        st.integers(0, 2**32 - 1),
        st.integers(0, 2**62 - 1),
    ),
    dtype=st.sampled_from(DTYPES),
)
def test_any_format(
    fmt: Format,
    rounding: Rounding,
    random_bits: int,
    bits: list[int],
    scale: int,
    key: Key,
    dtype: torch.dtype,
) -> None:
    if not fits(fmt, dtype):
        return
    few = random_bits if rounding is Rounding.STOCHASTIC else MAX_RANDOM_BITS
    raw = torch.tensor(bits, dtype=torch.int32)
    near = torch.ldexp(raw.double(), torch.tensor(scale - 30.0, dtype=torch.float64))
    both = torch.cat([raw.view(torch.float32).to(dtype), near.to(dtype)])
    for x in [near.to(dtype)] if isinstance(fmt, DynamicFixedPoint) else [both]:
        check(x, Precision(fmt, rounding, few), key)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_lengths_and_offsets(dtype: torch.dtype) -> None:
    memory = spread(dtype, 2100)
    for name in ("e5m2:stochastic", "e5m2:stochastic16", "e5m2:stochastic17"):
        for length, offset in [(1, 0), (1, 3), (5, 2), (1023, 1), (1024, 5), (1024, 8), (2049, 7)]:
            check(memory[length % 5 :][:length], parse_precision(name), Key(3, 1, 4, offset))


@pytest.mark.parametrize("seed", [2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63])
def test_seeds_of_all_widths(seed: int) -> None:
    check(torch.full((40,), 0.3), parse_precision("fx8.1:stochastic"), Key(seed))


@pytest.mark.parametrize("boundary", [2**34, 2**35, 2**36, 2**61])
def test_counters_carry(boundary: int) -> None:
    for name in ("fx8.1:stochastic", "fx8.1:stochastic16"):
        check(torch.full((400,), 0.3), parse_precision(name), Key(5, offset=boundary - 203))


@pytest.mark.parametrize("bits", [1, 2, 9, 15, 16, 17, 31, 32])
def test_random_bits_by_choice(bits: int) -> None:
    x = torch.cat([spread(torch.float32, 100), torch.linspace(0.9, 1.3, 200)])
    for name in ("e5m2", "fx8.4", "dfx8"):
        check(x, Precision(parse_format(name), Rounding.STOCHASTIC, bits), Key(3, offset=bits))


@pytest.mark.parametrize("name", ["e4m3:stochastic", "dfx8", "mxfp4_e2m1b3:stochastic", "int8"])
def test_layouts(name: str) -> None:
    precision = parse_precision(name)
    memory = spread(torch.float32, 6 * 7 * 8 * 3)
    x = memory.view(6, 7, 8, 3)
    for t in (
        *(x.to(memory_format=torch.channels_last), x.transpose(1, 3), x[:, ::2, 3:, ::2]),
        *(x[..., 2], x[:, :1].expand(6, 7, 8, 3), memory.unfold(0, 5, 2), x[0, 0, 0, 0], x[:, :0]),
    ):
        expected = reference.quantize(t, precision.format, precision.rounding, KEY)
        given = t.to(DEVICE)
        assert_same(triton.round_to(given, precision, KEY), expected, t)
        turned = torch.empty(t.shape[::-1], device=DEVICE).permute(tuple(range(t.dim()))[::-1])
        assert triton.round_to(given, precision, KEY, out=turned) is turned
        assert_same(turned, expected, t)
        own = given.clone()
        assert triton.round_to(own, precision, KEY, out=own) is own
        assert_same(own, expected, t)
        assert_same(given, t.contiguous(), t)
    part = memory.to(DEVICE).view(6, 7, 8, 3).transpose(0, 3)[::2]
    expected = reference.quantize(part.cpu(), precision.format, precision.rounding, KEY)
    assert_same(triton.round_to(part, precision, KEY, out=part), expected, part)


@pytest.mark.parametrize("name", ["e4m3:stochastic", "dfx8", "dfx8b4"])
def test_out_may_overlap(name: str) -> None:
    precision, memory = parse_precision(name), torch.randn(5000).to(DEVICE)
    for x, out in (
        (memory[:-1], memory[1:]),
        (memory[1:], memory[:-1]),
        (memory[:2500], memory[::2]),
        (memory[:4900].view(70, 70), memory[:4900].view(70, 70).T),
    ):
        given = x.cpu().clone()
        expected = reference.quantize(given, precision.format, precision.rounding, KEY)
        triton.round_to(x, precision, KEY, out=out)
        assert_same(out, expected, given)


def test_negated_views() -> None:
    x = torch.complex(torch.randn(50), torch.randn(50)).to(DEVICE).conj().imag
    assert x.is_neg()
    check(x.cpu(), parse_precision("e4m3"))
    expected = reference.quantize(x.cpu(), parse_format("e4m3"), Rounding.NEAREST, None)
    assert_same(triton.round_to(x, parse_precision("e4m3"), None), expected, x)


def test_autograd_is_informed() -> None:
    a = torch.randn(10, device=DEVICE, requires_grad=True)
    b = a * 1
    c = b * b  # saves b
    with torch.no_grad():
        triton.round_to(b, parse_precision("e5m2"), None, out=b)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        c.sum().backward()
    with torch.inference_mode():
        x = torch.randn(10, device=DEVICE)
        triton.round_to(x, parse_precision("e5m2"), None, out=x)


def test_the_door() -> None:
    x = torch.randn(100, device=DEVICE)
    for name in ("e4m3:stochastic", "dfx8", "fx8.4:up", "mxfp8_e4m3", "nvfp4:stochastic8"):
        y = lp.quantize(x, name, seed=3, step=2, offset=7, backend=Backend.TRITON)
        expected = lp.quantize(x.cpu(), name, seed=3, step=2, offset=7, backend=Backend.REFERENCE)
        assert_same(y, expected, x)
        assert_same(lp.quantize(x, name, seed=3, step=2, offset=7), expected, x)
        z = x.clone()
        assert lp.quantize_(z, name, seed=3, step=2, offset=7, backend=Backend.TRITON) is z
        assert_same(z, expected, x)


def test_refusals() -> None:
    x = torch.randn(4, device=DEVICE)
    with pytest.raises(KernelError, match="without a key"):
        triton.round_to(x, parse_precision("e5m2:stochastic"), None)
    for odd, name in ((x.double(), "e5m2"), (x.int(), "e5m2"), (x.half(), "nvfp4"), (x, "posit8")):
        assert not triton.can_round(odd, parse_precision(name))
        with pytest.raises(KernelError, match=f"no kernel for {name} in {odd.dtype}"):
            triton.round_to(odd, parse_precision(name), None)


def test_meta_tensors_and_schemas() -> None:
    x = torch.randn(3, 4, device=DEVICE)
    shape = torch.ops.limprec.triton_round(torch.empty(3, 4, device="meta"), "e5m2")
    assert (shape.device.type, shape.shape) == ("meta", (3, 4))
    for operator, arguments in (
        (torch.ops.limprec.triton_round.default, (x, "e5m2")),
        (torch.ops.limprec.triton_round_.default, (x.clone(), "e5m2")),
        (torch.ops.limprec.triton_round_out.default, (x, x.clone(), "e5m2:stochastic", 1, 2, 3)),
    ):
        results = torch.library.opcheck(operator, arguments)
        assert set(results.values()) == {"SUCCESS"}, results


@pytest.fixture
def compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.usefixtures("compiler")
@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
def test_compiled_graphs() -> None:
    stochastic, dynamic = parse_precision("e5m2:stochastic"), parse_precision("dfx8")

    def layer(x: Tensor, step: int) -> Tensor:
        y = triton.round_to(x * 2, stochastic, Key(3, step=step))
        z = y + 1
        return triton.round_to(z, dynamic, None, out=z)

    x = torch.randn(100, device=DEVICE)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    for step in (2, 3, 4):
        assert_same(compiled(x, step), layer(x, step).cpu(), x)
