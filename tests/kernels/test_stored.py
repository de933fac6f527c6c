"""Narrow storage: codes that widen to the very bits of ``round_to``, small ones and fast ones."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from native_checks import DTYPES, KEY, LEVELS, assert_same, built, fits, layouts, spread
from torch import Tensor

from limprec.formats import (
    DynamicFixedPoint,
    FixedPoint,
    FloatingPoint,
    Format,
    Precision,
    Rounding,
    parse_format,
    parse_precision,
)
from limprec.kernels import (
    Backend,
    Codes,
    Key,
    native,
    round_to,
    round_to_codes,
    storable,
    to_codes,
    widen,
)
from limprec.kernels.native import Simd, stored

STORED = {
    torch.int8: "dfx8 dfx2 dfx5c0 dfx8b32 fx8.4 fx2.-3 ufx7.9 fx8.3-wrap mxint8",
    torch.uint8: "ufx8.3",
    torch.int16: "dfx9 dfx16 fx16.20 ufx15.0 dfx12b16a0",
    torch.float8_e4m3fn: "e4m3 e4m3-ovf e3m2 e2m3 e2m1 e4m3ieee mxfp8_e4m3 mxfp6_e2m3 mxfp4_e2m1",
    torch.float8_e5m2: "e5m2 e5m2-ovf mxfp8_e5m2",
    torch.bfloat16: "bf16 e8m3 e3m4 e4m3ieee-ovf e4m3fnuz binary8p4",
    torch.float16: "fp16 e5m9",
    None: "dfx17 fx17.4 ufx16.3 fp32 tf32 e6m9 nvfp4 int8 posit8 tri{-1,0,1}",
}
CASES = [(name, dtype) for dtype, names in STORED.items() for name in names.split()]
NAMES = [name for name, _ in CASES]
MODES = ["nearest", "stochastic", "stochastic16", "toward_zero", "up"]


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_what_is_storable(name: str, dtype: torch.dtype | None) -> None:
    assert storable(parse_format(name)) == dtype


def assert_stored(x: Tensor, precision: Precision, key: Key | None, backend: Backend) -> Codes:
    """Check that codes widen to what ``round_to`` gives, and are those of its result."""
    want = round_to(x, precision, key)
    codes = round_to_codes(x, precision, key, backend=backend)
    assert codes.codes.shape == x.shape
    assert codes.dtype == x.dtype
    assert codes.scale.dtype == (torch.float64 if x.dtype == torch.float64 else torch.float32)
    assert_same(widen(codes, backend=backend), want, x, (precision, backend))
    again = to_codes(want, precision.format, backend=backend)
    if again is None:
        assert not codes.narrow
        return codes
    assert codes.codes.dtype == storable(precision.format)
    assert_same_codes(again, codes)
    return codes


def assert_same_codes(a: Codes, b: Codes) -> None:
    assert (a.format, a.dtype, a.codes.dtype) == (b.format, b.dtype, b.codes.dtype)
    assert torch.equal(a.scale.nan_to_num(-1.0), b.scale.nan_to_num(-1.0))
    if a.codes.dtype.is_floating_point:
        assert_same(a.codes.float(), b.codes.float(), b.codes)
    else:
        assert torch.equal(a.codes, b.codes)


@pytest.mark.parametrize("backend", [Backend.REFERENCE, Backend.AUTO])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_codes_widen_to_what_was_rounded(name: str, dtype: torch.dtype, backend: Backend) -> None:
    fmt = parse_format(name)
    if not fits(fmt, dtype):
        return
    x = spread(dtype, 37 * 41).clamp(-3e4, 3e4).view(37, 41)  # float16 has no more
    x[0, :9] = torch.tensor([0.0, -0.0, 1e-30, -1e-30, 1.0, -1.0, 0.5, 447.0, -3e4])
    for mode in MODES:
        precision = parse_precision(f"{name}:{mode}")
        codes = assert_stored(x, precision, KEY, backend)
        assert codes.narrow == (storable(fmt) is not None)
        assert not codes.narrow or codes.nbytes < x.nbytes or dtype.itemsize < 4


@pytest.mark.parametrize("backend", [Backend.REFERENCE, Backend.AUTO])
@pytest.mark.parametrize("exponent", [-148, -145, -140, -130, -126, -24, 100, 120])
@pytest.mark.parametrize(
    "name", ["dfx8", "dfx2", "dfx16", "dfx8b32", "mxint8", "mxfp8_e5m2", "bf16"]
)
def test_tiny_and_huge_tensors(name: str, exponent: int, backend: Backend) -> None:
    """Where a step would be below float32's last digit, a code counts that digit."""
    x = torch.randn(999, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = (x * 2.0**exponent).to(torch.float32)
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        if fits(parse_format(name), dtype):
            for mode in MODES:
                assert_stored(x.to(dtype), parse_precision(f"{name}:{mode}"), KEY, backend)


@pytest.mark.parametrize("backend", [Backend.REFERENCE, Backend.AUTO])
@pytest.mark.parametrize("special", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_finite(name: str, special: float, backend: Backend) -> None:
    x = spread(torch.float32, 400).view(20, 20)
    x[7, 3] = special
    codes = assert_stored(x, parse_precision(name), None, backend)
    fmt = parse_format(name)
    if isinstance(fmt, FixedPoint):  # a NaN has no code, an infinity saturates
        lost = math.isnan(special) or fmt.overflow == "wrap"
        assert codes.narrow == (storable(fmt) is not None and not lost)
        assert codes.codes.dtype == (storable(fmt) if codes.narrow else x.dtype)
    if name == "dfx8":  # no scale at all
        assert codes.scale.isnan()
        assert not codes.codes.any()
    if name == "dfx8b32":
        assert codes.scale.isnan().sum() == 1


@pytest.mark.parametrize("backend", [Backend.REFERENCE, Backend.AUTO])
def test_scales_and_codes_by_hand(backend: Backend) -> None:
    x = torch.tensor([1.0, -0.26, 0.004, -0.003, 0.0])
    codes = round_to_codes(x, parse_precision("dfx8"), None, backend=backend)
    assert codes.scale.item() == 2.0**-6  # amax 1: E = 1, LSB = 2^(1 - 8 + 1)
    assert codes.codes.tolist() == [64, -17, 0, 0, 0]
    codes = round_to_codes(x * 100, parse_precision("fx8.1"), None, backend=backend)
    assert codes.scale.item() == 0.5
    assert codes.codes.tolist() == [127, -52, 1, -1, 0]
    codes = round_to_codes(torch.zeros(3), parse_precision("dfx8"), None, backend=backend)
    assert (codes.scale.item(), codes.codes.tolist()) == (1.0, [0, 0, 0])
    codes = round_to_codes(x, parse_precision("e4m3"), None, backend=backend)
    assert (codes.scale.item(), codes.codes.dtype) == (1.0, torch.float8_e4m3fn)


@pytest.mark.parametrize("backend", [Backend.REFERENCE, Backend.AUTO])
@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0, 2), (5,), (17,), (1, 1)])
@pytest.mark.parametrize("name", ["dfx8", "fx8.4", "e4m3", "bf16", "dfx12", "mxfp8_e4m3"])
def test_small_and_empty_tensors(name: str, shape: tuple[int, ...], backend: Backend) -> None:
    x = torch.randn(shape)
    codes = assert_stored(x, parse_precision(name), None, backend)
    assert codes.narrow


@pytest.mark.parametrize("layout", list(layouts(torch.float32)))
@pytest.mark.parametrize("name", ["dfx8", "fx8.4", "e5m2", "dfx12", "bf16", "dfx8c-1", "mxint8"])
def test_layouts(name: str, layout: str) -> None:
    for dtype in (torch.float32, torch.float16):
        x = layouts(dtype)[layout]
        if (name == "dfx8c-1" and x.ndim == 0) or not fits(parse_format(name), dtype):
            continue
        for mode in ("nearest", "stochastic", "stochastic16"):
            precision = parse_precision(f"{name}:{mode}")
            codes = assert_stored(x, precision, Key(3, offset=11), Backend.AUTO)
            assert not x.numel() or codes.codes.stride() == torch.empty_like(x).stride()
            turned = codes._replace(codes=codes.codes[..., ::2] if x.ndim else codes.codes)
            if x.ndim and codes.scale.ndim == 0:
                assert_same(widen(turned), widen(codes)[..., ::2], x)


def test_the_gradient_stays_out() -> None:
    x = torch.randn(9, requires_grad=True)
    codes = round_to_codes(x, parse_precision("dfx8"), None)
    assert not widen(codes).requires_grad
    again = to_codes(x, parse_format("e5m2"))
    assert again is not None
    assert not again.codes.requires_grad


def test_what_is_kept_is_not_copied_again() -> None:
    x = torch.randn(9)
    codes = round_to_codes(x, parse_precision("tf32"), None)
    assert widen(codes) is codes.codes
    assert codes.codes.data_ptr() != x.data_ptr()
    assert to_codes(x, parse_format("tf32")) is None


numbers = st.floats(width=32) | st.sampled_from([0.0, -0.0, 2.0**-149, -1.5, 127.5, 3e38])
scalar = (
    st.builds(DynamicFixedPoint, st.integers(2, 16))
    | st.builds(FixedPoint, st.integers(2, 16), st.integers(-120, 140), st.booleans())
    | st.builds(FloatingPoint, st.integers(2, 8), st.integers(1, 10))
)


@built
@settings(max_examples=300)
@given(
    fmt=scalar,
    values=st.lists(numbers, max_size=70) | st.lists(st.floats(-9, 9), max_size=70),
    rounding=st.sampled_from(Rounding),
    simd=st.sampled_from(LEVELS),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    offset=st.integers(0, 2**62 - 1),
)
def test_any_format_on_every_instruction_set(
    fmt: Format,
    values: list[float],
    rounding: Rounding,
    simd: Simd,
    dtype: torch.dtype,
    offset: int,
) -> None:
    kept = storable(fmt)
    if kept is None or not fits(fmt, dtype):
        return
    x = torch.tensor(values, dtype=torch.float32).to(dtype)
    precision, key = Precision(fmt, rounding), Key(5, offset=offset)
    if not stored.can_store(x, precision, kept):
        return
    want = round_to_codes(x, precision, key, backend=Backend.REFERENCE)
    words, factor = stored.round_to_codes(x, precision, key, kept, simd)
    if not want.narrow:
        assert factor.isnan()
        return
    got = Codes(words, factor, fmt, dtype)
    assert_same_codes(got, want)
    assert_same(stored.widen(words, factor, dtype, simd), round_to(x, precision, key), x)


@built
@pytest.mark.parametrize("simd", LEVELS, ids=str)
@pytest.mark.parametrize("name", ["dfx8", "fx8.4", "e4m3", "e5m2", "dfx11", "bf16", "fp16"])
def test_long_tensors(name: str, simd: Simd) -> None:
    """Many tiles and threads, and a first tile that is cut."""
    for mode in ("nearest", "stochastic", "stochastic16"):
        precision = parse_precision(f"{name}:{mode}")
        for dtype in (torch.float32, torch.float16):
            x = spread(dtype, 2**16 + 77).clamp(-3e4, 3e4)
            if not fits(precision.format, dtype):
                continue
            key = Key(7, stream=3, offset=2**34 - 1000)
            kept = storable(precision.format)
            assert kept is not None
            words, factor = stored.round_to_codes(x, precision, key, kept, simd)
            want = round_to(x, precision, key)
            assert_same(stored.widen(words, factor, dtype, simd), want, x, precision)
            channels = x[: 2**16].view(8, 64, 8, 16).to(memory_format=torch.channels_last)
            words, factor = stored.round_to_codes(channels, precision, key, kept, simd)
            assert words.is_contiguous(memory_format=torch.channels_last)
            want = round_to(channels, precision, key)
            assert_same(stored.widen(words, factor, dtype, simd), want, channels, precision)


@built
@pytest.mark.parametrize("simd", LEVELS, ids=str)
@pytest.mark.parametrize("name", ["e4m3", "e5m2", "bf16", "fp16", "e3m2", "dfx8", "fx8.4"])
def test_a_nan_stays_one_whatever_its_bits(name: str, simd: Simd) -> None:
    patterns = [0x7F800001, 0x7FC00000, 0x7F801000, -1, -0x7FFFFF, 0x7FBFFFFF]
    x = torch.tensor([*patterns * 20, 0], dtype=torch.int32).view(torch.float32)
    precision, kept = parse_precision(name), storable(parse_format(name))
    assert kept is not None
    words, factor = stored.round_to_codes(x, precision, None, kept, simd)
    y = stored.widen(words, factor, torch.float32, simd)
    assert y[:-1].isnan().all()
    assert y[-1] == 0 or factor.isnan()


@built
def test_float64_is_left_to_the_reference() -> None:
    x = torch.randn(5, dtype=torch.float64)
    assert not stored.can_store(x, parse_precision("dfx8"), torch.int8)
    with pytest.raises(RuntimeError, match="no narrow storage of float64"):
        stored.round_to_codes(x, parse_precision("dfx8"), None, torch.int8)


@built
def test_refusals() -> None:
    x = torch.randn(5)
    for name, dtype, words in (
        ("dfx9", torch.int8, "the dtype of the codes does not hold them"),
        ("e4m3", torch.int8, "the dtype of the codes does not hold them"),
        ("dfx8", torch.float16, "the dtype of the codes does not hold them"),
        ("dfx8", torch.int32, "codes are int8, int16, float8, bfloat16 or float16"),
        ("dfx8c0", torch.int8, "no narrow storage of this format"),
    ):
        with pytest.raises(RuntimeError, match=words):
            stored.round_to_codes(x, parse_precision(name), None, dtype)


@built
def test_schemas() -> None:
    x, spec = torch.randn(3, 4), native.pack(parse_precision("dfx8:stochastic"))
    codes, scale = torch.empty(3, 4, dtype=torch.int8), torch.ones(())
    ops = torch.ops.limprec
    for operator, arguments in (
        (ops.round_to_codes.default, (x, codes, scale, native.pack(parse_precision("dfx8")))),
        (ops.round_to_codes.keyed, (x, codes, scale, spec, 1, 2, 3, 4)),
        (ops.widen_codes.default, (codes, scale, x, 0)),
    ):
        results = torch.library.opcheck(operator, arguments)
        assert set(results.values()) == {"SUCCESS"}, results


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
@pytest.mark.parametrize("name", ["dfx8", "fx8.4", "e4m3", "dfx8b4", "tf32"])
def test_compiled_graphs_give_the_same(name: str) -> None:
    def kept(x: Tensor) -> Tensor:
        return widen(round_to_codes(x * 3, parse_precision(name), None)) + 1

    x = torch.randn(7, 8)
    torch.compiler.reset()
    compiled = torch.compile(kept, backend="aot_eager", fullgraph=True)
    assert_same(compiled(x), kept(x), x)


@pytest.mark.skipif(native.missing() is not None, reason="no extension")
@pytest.mark.parametrize("name", ["dfx8", "dfx5", "dfx8:stochastic", "dfx6:stochastic16"])
@pytest.mark.parametrize("shape", [(9, 7), (2, 3, 40, 130), (3, 70, 1), (2, 1, 5000)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_parts_of_a_tensor(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Bands of rows, each with its first columns: their codes are those of the whole."""
    precision, key = parse_precision(name), Key(seed=5, stream=3, step=2, offset=12)
    rows, columns = shape[-2:]
    starts = sorted({0, rows // 3, rows // 2})
    bands = [
        (slice(start, stop), slice(max(1, columns * stop // rows)))
        for start, stop in zip(starts, [*starts[1:], rows], strict=True)
    ]
    x = torch.zeros(shape, dtype=dtype)
    g = torch.Generator().manual_seed(1)
    for scale, band in enumerate(bands):
        x[..., *band] = torch.randn(x[..., *band].shape, generator=g).to(dtype) * 2.0**-scale
    parts = [x[..., *band].contiguous() for band in bands]
    assert all(stored.can_store_part(part, precision) for part in parts)
    most = max(stored.magnitude(part, precision) for part in parts)
    codes, scale = torch.zeros(shape, dtype=torch.int8), torch.empty(())
    for part, band in zip(parts, bands, strict=True):
        stored.round_part(part, codes[..., *band], scale, precision, key, most)
    whole = round_to_codes(x, precision, key)
    assert torch.equal(codes, whole.codes)
    assert scale == whole.scale


@pytest.mark.skipif(native.missing() is not None, reason="no extension")
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_part_that_is_not_finite(bad: float) -> None:
    precision = parse_precision("dfx8")
    parts = [torch.ones(3, 4), torch.ones(3, 4)]
    parts[1][2, 1] = bad
    most = max(stored.magnitude(part, precision) for part in parts)
    codes, scale = torch.ones(6, 4, dtype=torch.int8), torch.empty(())
    for i, part in enumerate(parts):
        stored.round_part(part, codes[3 * i : 3 * i + 3], scale, precision, None, most)
        assert scale.isnan()
    assert not codes.any()
