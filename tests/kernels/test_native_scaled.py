"""The native kernels for formats with shared scales against the reference: the same bits."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from native_checks import DTYPES, KEY, LEVELS, assert_same, built, expected, fits, layouts, spread
from torch import Tensor

import limprec as lp
from limprec.errors import KernelError
from limprec.formats import (
    MX_ELEMENTS,
    NVFP4,
    Affine,
    DynamicFixedPoint,
    Microscaling,
    Precision,
    Rounding,
    ScaledFormat,
    parse_format,
    parse_precision,
)
from limprec.kernels import Backend, Key, native, reference
from limprec.kernels.native import Simd

GROUPED = [
    *("dfx8c0", "dfx8c-1", "dfx4c1", "dfx8b32", "dfx16b16", "dfx8b20", "dfx8b7a-2", "dfx30b16"),
    *("mxfp8_e4m3", "mxfp8_e5m2", "mxfp6_e3m2", "mxfp6_e2m3b16", "mxfp4_e2m1b5a0", "mxint8"),
    *("nvfp4", "nvfp4b7", "nvfp4a0"),
    *("int8", "int8s", "int8m", "int4c0", "int8sc1", "int16mc-1", "int8b32", "int3mb5a0"),
]
blocks = st.none() | st.sampled_from([1, 2, 3, 5, 8, 16, 17, 31, 32, 64, 100])
axes = st.integers(-3, 2)
scaled = (
    st.builds(DynamicFixedPoint, st.integers(2, 30), st.none() | axes, blocks)
    | st.builds(
        Microscaling, st.sampled_from(list(MX_ELEMENTS.values())), blocks.filter(bool), axes
    )
    | st.builds(NVFP4, blocks.filter(bool), axes)
    | st.builds(
        Affine,
        st.integers(2, 16),
        st.sampled_from(["integer", "none", "real"]),
        st.none() | axes,
        blocks,
    )
)
keys = st.builds(Key, *(st.integers(0, 2**bits - 1) for bits in (64, 32, 32, 62)))


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """Draw float64 tensors of three axes: spread, tiny, huge, sparse, tied, with odd elements."""
    shape = tuple(draw(st.lists(st.sampled_from([1, 2, 3, 9, 16, 33, 70]), min_size=3, max_size=3)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    x = x * 2.0 ** draw(st.sampled_from([0, 0, 0, -149, -140, -126, -120, -24, 14, 100, 120, 127]))
    spread_out = draw(st.sampled_from([0, 0, 3, 20, 40]))
    x = x * torch.exp2(torch.randint(-spread_out, spread_out + 1, shape, generator=generator))
    if draw(st.booleans()):
        x = x * (torch.rand(shape, generator=generator) < 0.2)
    if draw(st.booleans()):
        x = torch.round(x * 8) / 4
    if draw(st.integers(0, 3)) == 0:
        odd = st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -0.0, 2.0**127])
        x.view(-1)[draw(st.integers(0, x.numel() - 1))] = draw(odd)
    order = draw(st.permutations(range(3)))
    return x.permute(*order)


@built
@settings(max_examples=400, deadline=None)
@given(
    fmt=scaled,
    rounding=st.sampled_from(Rounding),
    x=tensors(),
    key=keys,
    random_bits=st.integers(1, 32),
    simd=st.sampled_from(LEVELS),
    dtype=st.sampled_from(DTYPES),
    place=st.sampled_from(["new", "out", "in place"]),
)
def test_any_scaled_format(
    fmt: ScaledFormat,
    rounding: Rounding,
    x: Tensor,
    key: Key,
    random_bits: int,
    simd: Simd,
    dtype: torch.dtype,
    place: str,
) -> None:
    if not fits(fmt, dtype):
        return
    x = x.to(dtype)
    if dtype != torch.float64:  # what is beyond a narrow dtype would make most tensors NaN
        x = torch.where(x.isinf() & (torch.arange(x.shape[-1]) > 0), x.new_ones(()), x)
    precision = Precision(fmt, rounding)
    if rounding is Rounding.STOCHASTIC:
        precision = Precision(fmt, rounding, random_bits)
    want, given = expected(x, precision, key), x.clone()
    out = {"new": None, "out": torch.empty(x.shape, dtype=dtype), "in place": x}[place]
    y = native.round_to(x, precision, key, out=out, simd=simd)
    assert_same(y, want, given, (precision, simd))


@built
@pytest.mark.parametrize("simd", LEVELS, ids=str)
@pytest.mark.parametrize("name", GROUPED)
def test_long_tensors(name: str, simd: Simd) -> None:
    """Many stretches, blocks longer than one, and threads."""
    x = spread(torch.float32, 70 * 1100).view(70, 1100)
    for rounding in ("nearest", "stochastic", "stochastic16"):
        precision = parse_precision(f"{name}:{rounding}")
        for t in (x, x[:3], x[:, :2], x.view(7, 10, 1100), x.view(5, 14, 1100)[:, :, :70]):
            y = native.round_to(t, precision, KEY, simd=simd)
            assert_same(y, expected(t, precision), t, (precision, simd))


@built
@pytest.mark.parametrize("name", ["dfx8b1000", "dfx8c0", "mxfp8_e4m3b600", "int8b513", "nvfp4b700"])
def test_groups_longer_than_a_stretch(name: str) -> None:
    x = spread(torch.float32, 3 * 2500).view(3, 2500)
    precision = parse_precision(f"{name}:stochastic16")
    assert_same(native.round_to(x, precision, KEY), expected(x, precision), x)


@built
@pytest.mark.parametrize("layout", list(layouts(torch.float32)))
@pytest.mark.parametrize("name", ["dfx8c-1", "mxfp8_e4m3", "nvfp4", "int8b32", "dfx8b4a0", "int8"])
@pytest.mark.parametrize("rounding", ["nearest", "stochastic16"])
def test_layouts(name: str, layout: str, rounding: str) -> None:
    x = layouts(torch.float32)[layout]
    precision, key = parse_precision(f"{name}:{rounding}"), Key(9, offset=5)
    if x.ndim == 0 and name == "dfx8c-1":
        return
    want, before = expected(x, precision, key), x.clone()
    assert_same(native.round_to(x, precision, key), want, x)
    turned = torch.empty(x.shape[::-1]).permute(tuple(range(x.dim()))[::-1])
    native.round_to(x, precision, key, out=turned)
    assert_same(turned, want, x)
    assert_same(x, before, x)
    if layout not in ("expanded", "windows"):
        native.round_to(x, precision, key, out=x)
        assert_same(x, want, before)


@built
@pytest.mark.parametrize("name", ["dfx8", "dfx8c0", "mxfp8_e4m3", "mxint8b4", "int8sc0", "nvfp4b4"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@settings(max_examples=25, deadline=None)
@given(
    x=tensors(),
    amax=st.floats(0, 1e300) | st.sampled_from([0.0, 2.0**-140, 1.0, 3e38, math.inf, math.nan]),
    rounding=st.sampled_from(Rounding),
)
def test_a_given_amax(
    name: str, dtype: torch.dtype, x: Tensor, amax: float, rounding: Rounding
) -> None:
    fmt = parse_format(name)
    if not fits(fmt, dtype):
        return
    x = x.to(dtype)
    want = reference.quantize(x, fmt, rounding, KEY, amax=amax)
    y = native.round_within(x, Precision(fmt, rounding), KEY, amax)
    assert_same(y, want, x, (fmt, rounding, amax))


@built
def test_the_door_takes_one_amax_to_the_native_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(4, 50)
    want = lp.quantize(x, "dfx8c0", amax=torch.full((4,), 2.0))  # one each: the reference
    monkeypatch.setattr(reference, "quantize", None)
    for amax in (2.0, torch.tensor(2.0)):
        assert_same(lp.quantize(x, "dfx8c0", amax=amax), want, x)


@built
def test_refusals() -> None:
    x = torch.randn(3, 4)
    with pytest.raises(KernelError, match=r"dfx8c2 needs axis 2, the tensor has shape \(3, 4\)"):
        lp.quantize(x, "dfx8c2", backend=Backend.NATIVE)
    with pytest.raises(KernelError, match=r"mxint8a-3 needs axis -3"):
        lp.quantize(x[:, :0], "mxint8a-3")
    with pytest.raises(RuntimeError, match="16-bit tensors do not carry"):
        native.round_to(x.bfloat16(), parse_precision("nvfp4"), None)
    assert not native.can_round(x, parse_precision("dfx8b99999999"))
