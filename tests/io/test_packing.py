"""Real bits: exact round trips, the bits of ml_dtypes, and refusals that say where."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import limprec as lp
from limprec.errors import FormatError, KernelError
from limprec.formats import NAMED_FORMATS, ScaledFormat, parse_format
from limprec.io.packing import Packed, pack, pack_words, unpack, unpack_words
from limprec.kernels import Backend

NAMES = [
    *NAMED_FORMATS,
    *("fx8.4", "fx12.6", "fx5.9", "ufx3.1", "fx24.10", "e5m2-nosub", "e8m3", "ternary{-1,0,1}"),
    *("dfx8", "dfx5b4", "dfx12c0", "dfx2b3a0", "mxfp4_e2m1b8a0", "int3sb5", "int12mc0", "nvfp4b4"),
]
NAMES.remove("fp64")  # float32 does not carry it


def sample(name: str, count: int = 231) -> torch.Tensor:
    x = torch.randn(count, generator=torch.Generator().manual_seed(1))
    x[3], x[5] = 0.0, 1e-6
    return x.abs() if name == "e8m0" else x


@pytest.mark.parametrize("name", NAMES)
def test_values_of_a_format_come_back(name):
    fmt = parse_format(name)
    x = sample(name).view(7, 33)
    if name == "e8m0":
        x = x.clamp(min=1e-30)
    y = lp.quantize(x, fmt, backend=Backend.REFERENCE)
    packed = pack(x, fmt, "nearest")
    assert torch.equal(unpack(packed), y)
    assert packed.codes.dtype == torch.uint8
    assert packed.codes.numel() == math.ceil(x.numel() * fmt.bits / 8)
    assert packed.nbytes == packed.codes.numel() + sum(s.nbytes for s in packed.scales)
    assert (packed.shape, packed.dtype, packed.format) == ((7, 33), torch.float32, fmt)
    if not name.startswith(("int", "nvfp4")):  # their scales need not be found again
        again = pack(y, fmt)
        assert torch.equal(unpack(again), y)
        assert torch.equal(again.codes, packed.codes)


@pytest.mark.parametrize("name", ["dfx8", "dfx4b5", "mxfp8_e5m2b4", "mxint8", "nvfp4b4", "int4c0"])
@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.floats(width=32, min_value=-(2.0**100), max_value=2.0**100), max_size=30),
    seed=st.integers(0, 2**64 - 1),
)
def test_packing_with_a_rounding_keeps_what_quantize_gives(name, values, seed):
    x = torch.tensor(values, dtype=torch.float32)
    y = lp.quantize(x, name, "stochastic", seed=seed, stream=2, step=9, backend=Backend.REFERENCE)
    packed = pack(x, name, "stochastic", seed=seed, stream=2, step=9)
    assert torch.equal(unpack(packed), y)


JUDGES = {
    "e4m3": ml_dtypes.float8_e4m3fn,
    "e5m2": ml_dtypes.float8_e5m2,
    "e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "e3m4": ml_dtypes.float8_e3m4,
    "e8m0": ml_dtypes.float8_e8m0fnu,
    "bf16": ml_dtypes.bfloat16,
    "fp16": np.float16,
    "fp32": np.float32,
    "fp64": np.float64,
}


@pytest.mark.parametrize(("name", "dtype"), JUDGES.items())
def test_the_bytes_are_those_of_ml_dtypes(name, dtype):
    x = sample(name).double() if name == "fp64" else lp.quantize(sample(name), name)
    assert pack(x, name).codes.numpy().tobytes() == x.numpy().astype(dtype).tobytes()


def test_narrow_words_lie_side_by_side_the_first_lowest():
    x = torch.tensor([0.5, -1.0, 6.0])  # e2m1: 0001 1010 0111
    assert pack(x, "e2m1").codes.tolist() == [0b1010_0001, 0b0111]
    x = torch.tensor([0.125, -0.25, 7.5, 0.0])  # e2m3: 000001 100010 011111 000000
    bits = "000000" + "011111" + "100010" + "000001"
    assert pack(x, "e2m3").codes.tolist() == list(int(bits, 2).to_bytes(3, "little"))


@given(st.sampled_from([*range(1, 55), 64]), st.data())  # no format has 55 to 63
@settings(deadline=None)
def test_words_of_any_width(bits, data):
    words = data.draw(st.lists(st.integers(0, 2**bits - 1), max_size=40))
    whole = sum(word << (i * bits) for i, word in enumerate(words))
    signed = [w - (1 << 64) if w >= 1 << 63 else w for w in words]
    x = torch.tensor(signed, dtype=torch.int64)
    codes = pack_words(x, bits)
    assert bytes(codes.tolist()) == whole.to_bytes((len(words) * bits + 7) // 8, "little")
    assert unpack_words(codes, bits, len(words)).tolist() == signed


@pytest.mark.parametrize("name", ["e4m3", "dfx8", "dfx8b4", "mxint8", "nvfp4", "int8c0", "fx5.2"])
@pytest.mark.parametrize("shape", [(0,), (3, 0), (), (1,), (2, 3, 5)])
def test_shapes_and_layouts(name, shape):
    if name == "int8c0" and shape == ():
        return
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    y = unpack(pack(x, name, "nearest"))
    assert y.shape == shape
    assert torch.equal(y, lp.quantize(x, name, backend=Backend.REFERENCE))
    if len(shape) == 3:
        strided = torch.empty(5, 3, 2).permute(2, 1, 0).copy_(x)
        assert torch.equal(unpack(pack(strided, name, "nearest")), y)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtypes_come_back(dtype):
    x = sample("e4m3").to(dtype)
    for name in ("e4m3", "dfx6", "mxfp4_e2m1"):
        y = unpack(pack(x, name, "nearest"))
        assert y.dtype == dtype
        assert torch.equal(y, lp.quantize(x, name, backend=Backend.REFERENCE))


def test_nan_and_infinity_where_the_format_has_them():
    x = torch.tensor([1.0, math.nan, -math.inf, -0.0])
    for name in ("e5m2", "bf16", "e5m2-ovf", "fp32"):
        y = unpack(pack(x, name))
        assert y[1].isnan()
        assert y.tolist()[2:] == [-math.inf, 0.0]
        assert y[3].signbit()
    whole = torch.tensor([[math.nan, math.nan], [2.0, 3.0]])
    assert unpack(pack(whole, "mxfp8_e4m3")).isnan().tolist() == [[True, True], [False, False]]
    assert unpack(pack(torch.full((3,), math.nan), "nvfp4")).isnan().all()


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("e4m3", [1.0, 0.3, 0.7], "element 1 is 0.30000001192092896, no value of e4m3; round it"),
        ("fx8.4", [0.0625, 8.0], "element 1 is 8.0, no value of fx8.4"),
        ("fx8.4", [0.0, math.nan], "element 1 is nan, no value of fx8.4; choose a format that has"),
        ("e4m3", [0.0, 1.0, math.inf], "element 2 is inf, no value of e4m3"),
        ("e2m1", [math.nan], "element 0 is nan, no value of e2m1"),
        ("posit8", [1.0, 1e-9], "element 1 is"),
        ("t{-1,0,1}", [0.0, 1.0, 2.0], "element 2 is 2.0"),
        ("dfx4", [7.0, 0.5], "element 1 is 0.5, no value of dfx4; give pack a rounding"),
        ("dfx4", [7.0, math.nan], "element 1 is nan, no value of dfx4; choose a format that has"),
        ("mxfp4_e2m1", [6.0, 0.3], "element 1 is"),
        ("nvfp4", [2688.0, 0.3], "element 1 is"),
        ("int4", [0.0, 15.0, 0.3], "element 2 is"),
    ],
)
def test_what_is_no_value_is_refused_with_its_place(name, values, message):
    with pytest.raises(FormatError) as caught:
        pack(torch.tensor(values), name)
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["dfx4", "int8", "fx8.4", "e2m1"])
def test_a_rounding_does_not_hide_a_nan(name):
    with pytest.raises(FormatError, match=rf"element \d is .*, no value of {name}"):
        pack(torch.tensor([math.nan, 1.0]), name, "nearest")


def test_bad_arguments():
    x = torch.ones(3)
    with pytest.raises(KernelError, match="stochastic rounding without a seed; pass seed=0"):
        pack(x, "e4m3", "stochastic")
    with pytest.raises(FormatError, match="use a float64 carrier"):
        pack(x, "fp64")
    with pytest.raises(KernelError, match="carries no formats"):
        pack(torch.ones(3, dtype=torch.int32), "e4m3")
    packed = pack(x, "e4m3")
    cut = Packed(packed.codes[:2], packed.format, packed.shape, packed.dtype)
    with pytest.raises(FormatError, match=r"2 elements of torch.uint8; 3 words of 8 bits are 3"):
        unpack(cut)


def test_a_large_tensor_takes_its_real_bits():
    x = torch.randn(1 << 18, generator=torch.Generator().manual_seed(0))
    for name, share in [("e2m1", 4), ("e3m2", 6), ("fx12.8", 12), ("mxfp4_e2m1", 4.25)]:
        packed = pack(x, name, "nearest")
        assert packed.nbytes == x.numel() * share / 8
        assert torch.equal(unpack(packed), lp.quantize(x, name, backend=Backend.REFERENCE))


def test_every_named_scaled_format_is_packed_here():
    assert {n for n, f in NAMED_FORMATS.items() if isinstance(f, ScaledFormat)} <= set(NAMES)
