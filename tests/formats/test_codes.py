"""Codes of scalar formats: values to words and back, judged by ml_dtypes, numpy and gfloat."""

from __future__ import annotations

import math

import gfloat
import gfloat.formats
import ml_dtypes
import numpy as np
import pytest
import torch

from limprec.errors import FormatError
from limprec.formats import FixedPoint, FloatingPoint, Logarithmic, Posit, parse_format
from limprec.kernels import codes

ML_DTYPES = {
    "e4m3": ml_dtypes.float8_e4m3fn,
    "e4m3ieee": ml_dtypes.float8_e4m3,
    "e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "e4m3b11fnuz": ml_dtypes.float8_e4m3b11fnuz,
    "e5m2": ml_dtypes.float8_e5m2,
    "e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
    "e3m4": ml_dtypes.float8_e3m4,
    "e8m0": ml_dtypes.float8_e8m0fnu,
    "e3m2": ml_dtypes.float6_e3m2fn,
    "e2m3": ml_dtypes.float6_e2m3fn,
    "e2m1": ml_dtypes.float4_e2m1fn,
    "bf16": ml_dtypes.bfloat16,
    "fp16": np.float16,
}
ALL = [
    *ML_DTYPES,
    *(f"binary8p{p}" for p in range(1, 8)),
    *("e4m0fin", "e5m0fn", "e1m2fnuz", "e5m2-nosub", "e4m3b3", "binary6p3"),
    *("fx8.4", "ufx5.9", "fx12.-3", "posit8", "posit8es1", "posit6es0", "posit10"),
    *("log8.3", "log5.0", "ternary{-1,0,1}", "odd{-3,-0.1,1e-30,0.5,700}"),
]


def same(a: float, b: float) -> bool:
    if math.isnan(a) or math.isnan(b):
        return math.isnan(a) and math.isnan(b)
    return a == b and math.copysign(1, a) == math.copysign(1, b)


@pytest.mark.parametrize(("name", "dtype"), ML_DTYPES.items())
def test_every_code_against_ml_dtypes(name, dtype):
    fmt = parse_format(name)
    words = np.arange(1 << fmt.bits, dtype=np.uint16 if fmt.bits > 8 else np.uint8)
    with np.errstate(invalid="ignore"):
        values = words.view(dtype).astype(np.float64)
    assert all(same(fmt.decode(int(w)), float(v)) for w, v in zip(words, values, strict=True))
    with np.errstate(invalid="ignore"):
        nan = np.array([math.nan]).astype(dtype).view(words.dtype)[0]
    if fmt.has_nan:
        assert fmt.encode(math.nan) == nan


@pytest.mark.parametrize("p", range(1, 8))
def test_every_code_of_p3109_against_gfloat(p):
    info = gfloat.formats.format_info_p3109(8, p)
    fmt = parse_format(f"binary8p{p}")
    assert isinstance(fmt, FloatingPoint)
    assert (fmt.bias, fmt.max, fmt.smallest) == (info.bias, info.max, info.smallest)
    for code in range(256):
        assert same(fmt.decode(code), gfloat.decode_float(info, code).fval)
    assert [fmt.encode(v) for v in (math.nan, math.inf, -math.inf)] == [0x80, 0x7F, 0xFF]


def test_the_finite_domain_of_p3109_is_fnuz():
    for p in (3, 4):
        domain = gfloat.types.Domain.Finite
        info = gfloat.formats.format_info_p3109(8, p, domain=domain)
        fmt = FloatingPoint(8 - p, p - 1, specials="fnuz")
        assert all(same(fmt.decode(c), gfloat.decode_float(info, c).fval) for c in range(256))


@pytest.mark.parametrize("name", ALL)
def test_codes_read_back(name):
    """Scalar and tensor codes agree; only NaN and flushed subnormals have more codes than one."""
    fmt = parse_format(name)
    count = len(fmt.values()) if "{" in name else 1 << fmt.bits
    values = [fmt.decode(code) for code in range(count)]
    tensor = codes.decode(torch.arange(count), fmt)
    assert all(same(a, b) for a, b in zip(values, tensor.tolist(), strict=True))
    words, wrong = codes.encode(tensor, fmt)
    assert not wrong.any()
    assert words.tolist() == [fmt.encode(value) for value in values]
    again = [fmt.decode(word) for word in words.tolist()]
    assert all(same(a, b) for a, b in zip(values, again, strict=True))
    for code, (value, word) in enumerate(zip(values, words.tolist(), strict=True)):
        assert word == code or math.isnan(value) or (value == 0 and "nosub" in name)
    finite = sorted({v + 0.0 for v in values if math.isfinite(v)})
    assert tuple(finite) == fmt.values()
    assert (fmt.min, fmt.max) == (finite[0], finite[-1])
    assert fmt.smallest == min(v for v in finite if v > 0)
    widest = max((abs(v.as_integer_ratio()[0]) for v in finite), key=lambda n: _bits(n))
    assert _bits(widest) <= fmt.significant_bits


def _bits(n: int) -> int:
    return (n // (n & -n)).bit_length() if n else 1


@pytest.mark.parametrize("name", [*ALL, "fp32", "fp64", "tf32", "fx30.7"])
def test_what_is_no_value_is_refused(name):
    fmt = parse_format(name)
    near = np.nextafter(fmt.max, 0)
    tries = [fmt.max * 1.5, near, -fmt.max * 2 - 1, fmt.smallest * 0.75, math.inf, math.nan]
    x = torch.tensor(tries, dtype=torch.float64)
    _, wrong = codes.encode(x, fmt)
    for value, refused in zip(tries, wrong.tolist(), strict=True):
        if refused:
            with pytest.raises(FormatError) as caught:
                fmt.encode(value)
            assert f"{value!r} is no value of {fmt}" in str(caught.value)
        else:
            assert same(fmt.decode(fmt.encode(value)), value)
    assert wrong[0] or name == "fp64"  # 1.5 times the largest is infinite there
    assert wrong[4] != getattr(fmt, "has_infinity", False)
    assert wrong[5] != fmt.has_nan


def test_negative_zero_takes_the_code_of_zero_where_there_is_none():
    assert parse_format("e4m3").encode(-0.0) == 0x80
    for name in ("e4m3fnuz", "binary8p3", "fx8.4", "posit8", "log8.3", "t{-1,0,1}"):
        fmt = parse_format(name)
        assert fmt.decode(fmt.encode(-0.0)) == 0
        assert codes.encode(torch.tensor([-0.0, 0.0]), fmt)[0].unique().numel() == 1


def test_posits_by_hand():
    """Words worked out from the standard of 2022: sign, regime, two exponent bits, fraction."""
    fmt = Posit(8)
    words = {
        0b01000000: 1.0,
        0b01001000: 2.0,
        0b01001101: 3.25,
        0b00111000: 0.5,
        0b01100000: 16.0,
        0b01111111: 2.0**24,
        0b00000001: 2.0**-24,
        0b11000000: -1.0,
        0b10110011: -3.25,
    }
    assert {word: fmt.decode(word) for word in words} == words
    assert math.isnan(fmt.decode(0x80))
    assert Posit(16, 1).max == 2.0**28
    assert Posit(6, 0).max == 16


@pytest.mark.parametrize("es", range(4))
def test_posits_are_ordered_like_integers_and_negate_like_them(es):
    fmt = Posit(9, es)
    by_word = [fmt.decode(word % 512) for word in range(-255, 256)]
    assert by_word == sorted(by_word)
    assert all(fmt.decode(-w % 512) == -fmt.decode(w) for w in range(1, 256))


def test_logarithmic_numbers_by_hand():
    fmt = Logarithmic(8, 3)
    assert fmt.decode(64) == 1.0
    assert fmt.decode(72) == 2.0
    assert fmt.decode(56 + 128) == -0.5
    assert fmt.decode(65) == float(np.float32(2 ** (1 / 8)))
    assert fmt.decode(0) == 0.0
    assert math.isnan(fmt.decode(128))
    assert fmt.significant_bits == 24


@pytest.mark.parametrize(
    ("name", "code"), [("e4m3", 256), ("e4m3", -1), ("e4m3", 1.0), ("t{-1,0,1}", 3), ("e8m0", 256)]
)
def test_codes_out_of_range(name, code):
    with pytest.raises(FormatError, match=r"is no code of .*; give 0 to"):
        parse_format(name).decode(code)


def test_long_lists_are_refused():
    with pytest.raises(FormatError, match="tf32 has 19 bits; list up to 16 bits"):
        parse_format("tf32").values()
    assert FixedPoint(3, 1).values() == (-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5)
