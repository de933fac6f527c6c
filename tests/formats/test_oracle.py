"""The oracle, judged by ml_dtypes and gfloat, by Python's integers and by plain enumeration."""

from __future__ import annotations

import bisect
import ctypes
import math
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limprec.errors import FormatError
from limprec.formats import (
    DynamicFixedPoint,
    FixedPoint,
    FloatingPoint,
    Rounding,
    ScalarFormat,
    parse_format,
)
from limprec.formats.oracle import RANDOM_BITS, round_exact

WORDS = 2**RANDOM_BITS
ML_DTYPES = {
    "float8_e4m3fn": "e4m3-ovf",
    "float8_e5m2": "e5m2-ovf",
    "float8_e4m3fnuz": "e4m3fnuz-ovf",
    "float8_e5m2fnuz": "e5m2fnuz-ovf",
    "float8_e4m3b11fnuz": "e4m3b11fnuz-ovf",
    "float8_e3m4": "e3m4-ovf",
    "float8_e4m3": "e4m3ieee-ovf",
    "bfloat16": "bf16",
    "float6_e2m3fn": "e2m3-ovf",
    "float6_e3m2fn": "e3m2-ovf",
    "float4_e2m1fn": "e2m1-ovf",
}
DETERMINISTIC = [rounding for rounding in Rounding if rounding is not Rounding.STOCHASTIC]
reals = st.floats(allow_nan=False, allow_infinity=False)


def same(a: float, b: float) -> bool:
    """Whether two numbers are the same, NaN and the sign of zero included."""
    if math.isnan(a) or math.isnan(b):
        return math.isnan(a) and math.isnan(b)
    return a == b and math.copysign(1, a) == math.copysign(1, b)


def edge_cases(dtype: type, rng: np.random.Generator) -> np.ndarray:
    """Return values, midpoints and their neighbours, specials and random floats, in float32."""
    bits = ml_dtypes.finfo(dtype).bits
    codes = np.arange(2**bits, dtype=np.uint16 if bits > 8 else np.uint8)
    if bits > 8:
        codes = np.union1d(codes[:40], rng.choice(codes, 400)).astype(codes.dtype)
    with np.errstate(invalid="ignore"):
        exact = codes.view(dtype).astype(np.float64)
    exact = np.unique(exact[np.isfinite(exact)])
    top = float(ml_dtypes.finfo(dtype).max)
    step = top - float(np.nextafter(dtype(top), dtype(0)))
    exact = np.concatenate([exact, [top + step / 2, top + step, -top - step / 2, -top - step]])
    middles = (exact[1:] + exact[:-1]) / 2
    with np.errstate(over="ignore"):
        near = np.concatenate([exact, middles]).astype(np.float32)
        near = np.concatenate(
            [near, np.nextafter(near, np.float32(np.inf)), np.nextafter(near, np.float32(-np.inf))]
        )
    spread = rng.standard_normal(1500) * np.exp2(rng.uniform(-20, 20, 1500))
    patterns = rng.integers(0, 2**32, 1000, dtype=np.uint32).view(np.float32)
    specials = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 3.4e38, -3.4e38]
    return np.concatenate(
        [near, spread.astype(np.float32), patterns, np.array(specials, np.float32)]
    )


@pytest.mark.parametrize(("dtype", "name"), ML_DTYPES.items())
def test_floats_against_ml_dtypes(dtype, name):
    fmt, kind = parse_format(name), getattr(ml_dtypes, dtype)
    assert isinstance(fmt, FloatingPoint)
    x = edge_cases(kind, np.random.default_rng(0))
    assert len(x) > 2500
    with np.errstate(all="ignore"):
        theirs = x.astype(kind).astype(np.float64)
    for value, expected in zip(x.tolist(), theirs.tolist(), strict=True):
        if math.isnan(value) and not fmt.has_nan:
            expected = math.nan  # ml_dtypes makes it 0; we keep it, lest a divergence be hidden
        ours = round_exact(value, fmt)
        assert same(ours, expected), (value, ours, expected)


@pytest.mark.parametrize(("kind", "name"), [(np.float16, "fp16"), (np.float32, "fp32")])
def test_floats_against_numpy(kind, name):
    rng = np.random.default_rng(1)
    x = rng.integers(0, 2**64, 3000, dtype=np.uint64).view(np.float64)
    x = np.concatenate([x, rng.standard_normal(3000) * np.exp2(rng.uniform(-150, 130, 3000))])
    with np.errstate(all="ignore"):
        theirs = x.astype(kind).astype(np.float64)
    fmt = parse_format(name)
    for value, expected in zip(x.tolist(), theirs.tolist(), strict=True):
        assert same(round_exact(value, fmt), expected), value


def test_fp64_is_the_identity():
    for value in (0.1, -0.0, 5e-324, 1.7976931348623157e308, math.inf, -math.inf, math.nan):
        assert same(round_exact(value, parse_format("fp64")), value)


@pytest.mark.parametrize(
    "name",
    ["e4m3-ovf", "e5m2-ovf", "e4m3ieee-sat", "e4m3fnuz-ovf", "e2m1", "bf16", "e5m7", "e3m9b2"],
)
def test_every_rounding_against_gfloat(name):
    gfloat = pytest.importorskip("gfloat")
    fmt = parse_format(name)
    assert isinstance(fmt, FloatingPoint)
    info = gfloat.FormatInfo(
        name,
        fmt.bits,
        fmt.significant_bits,
        bias=fmt.bias,
        is_signed=True,
        domain=gfloat.Domain.Extended if fmt.has_infinity else gfloat.Domain.Finite,
        has_nz=fmt.has_negative_zero,
        num_high_nans={"ieee": 2**fmt.mantissa_bits - 1, "fn": 1}.get(fmt.specials, 0),
        has_subnormals=True,
        is_twos_complement=False,
    )
    assert float(info.max) == fmt.max
    modes = {
        Rounding.NEAREST: gfloat.RoundMode.TiesToEven,
        Rounding.NEAREST_AWAY: gfloat.RoundMode.TiesToAway,
        Rounding.TOWARD_ZERO: gfloat.RoundMode.TowardZero,
        Rounding.DOWN: gfloat.RoundMode.TowardNegative,
        Rounding.UP: gfloat.RoundMode.TowardPositive,
        Rounding.STOCHASTIC: gfloat.RoundMode.StochasticFastest,
    }
    saturate = fmt.overflow == "saturate" or not fmt.has_nan
    rng = np.random.default_rng(2)
    span = math.log2(fmt.max) + 1
    low = math.log2(fmt.smallest) - 3
    x = (rng.choice([-1, 1], 1500) * np.exp2(rng.uniform(low, span, 1500))).tolist()
    ties = [k * fmt.smallest / 2 for k in range(-9, 10)]
    x += [*ties, fmt.max, -fmt.max, fmt.max * 1.01, -fmt.max * 4, math.inf, -math.inf, 0.0, -0.0]
    for value in x:
        for rounding, mode in modes.items():
            word = int(rng.integers(0, WORDS)) if rounding is Rounding.STOCHASTIC else 0
            expected = gfloat.round_float(info, value, mode, saturate, word, RANDOM_BITS)
            ours = round_exact(value, fmt, rounding, random=word)
            if saturate and abs(value) > fmt.max and math.isfinite(value):
                expected = math.copysign(fmt.max, value)
            assert same(ours, float(expected)), (value, rounding, word, ours, expected)


def values_of(fmt: ScalarFormat) -> tuple[list[Fraction], list[bool]]:
    """Enumerate the finite values of a small format, ascending, and whether each code is odd."""
    if isinstance(fmt, FixedPoint):
        codes = range(fmt.code_min, fmt.code_max + 1)
        unit = Fraction(2) ** -fmt.fraction_bits
        return [code * unit for code in codes], [code % 2 == 1 for code in codes]
    assert isinstance(fmt, FloatingPoint)
    steps = 2**fmt.mantissa_bits
    found = {}
    for exponent in range(2**fmt.exponent_bits):
        for mantissa in range(steps):
            if exponent == 0 and mantissa and not fmt.subnormals:
                continue
            lead = 0 if exponent == 0 else 1
            power = Fraction(2) ** (max(exponent, 1) - fmt.bias)
            value = (lead + Fraction(mantissa, steps)) * power
            is_special = {
                "ieee": exponent == 2**fmt.exponent_bits - 1,
                "fn": exponent == 2**fmt.exponent_bits - 1 and mantissa == steps - 1,
            }.get(fmt.specials, False)
            if not is_special:
                found[value] = found[-value] = mantissa % 2 == 1
    values = sorted(found)
    return values, [found[value] for value in values]


def by_enumeration(
    x: Fraction, values: list[Fraction], odd: list[bool], rounding: Rounding, word: int
) -> Fraction:
    """Round within the range by looking at both neighbours."""
    if x <= values[0] or x >= values[-1]:
        return values[0] if x <= values[0] else values[-1]
    above = bisect.bisect_left(values, x)
    high, low = values[above], values[above - 1]
    if high == x:
        return x
    inner, outer = (low, high) if x > 0 else (high, low)
    share = (x - inner) / (outer - inner)
    if rounding is Rounding.DOWN:
        return low
    if rounding is Rounding.UP:
        return high
    if rounding is Rounding.TOWARD_ZERO:
        return inner
    if rounding is Rounding.STOCHASTIC:
        return outer if share + Fraction(word, WORDS) >= 1 else inner
    if share != Fraction(1, 2):
        return outer if share > Fraction(1, 2) else inner
    if rounding is Rounding.NEAREST_AWAY:
        return outer
    inner_odd = odd[above - 1] if inner == low else odd[above]
    return outer if inner_odd else inner


SMALL = [
    "e5m2", "e4m3", "e4m3ieee", "e3m2", "e2m1", "e1m2fin", "e1m3fn", "e4m3fnuz", "e3m2b-4fin",
    "e5m2ieee-nosub", "e4m3fn-nosub", "e2m3fnuz-nosub", "fx8.4", "fx2.0", "fx5.-3", "fx6.9",
    "ufx8.8", "ufx1.0",
]  # fmt: skip


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("rounding", Rounding)
def test_every_rounding_against_enumeration(name, rounding):
    fmt = parse_format(name)
    assert isinstance(fmt, ScalarFormat)
    values, odd = values_of(fmt)
    assert max(values) == fmt.max
    assert min(values) == fmt.min
    assert min(value for value in values if value > 0) == fmt.smallest
    rng = np.random.default_rng(3)
    at = rng.integers(0, len(values) - 1, 400)
    shares = rng.choice([0, 1, 2, 4, 6, 7, 8], 400)
    words = rng.choice(
        [0, 1, WORDS // 4, WORDS // 2 - 1, WORDS // 2, 3 * WORDS // 4, WORDS - 1], 400
    )
    for index, share, word in zip(at.tolist(), shares.tolist(), words.tolist(), strict=True):
        low, high = values[index], values[index + 1]
        x = float(low + (high - low) * Fraction(share, 8))
        assert Fraction(x) == low + (high - low) * Fraction(share, 8)
        expected = by_enumeration(Fraction(x), values, odd, rounding, word)
        assert round_exact(x, fmt, rounding, random=word) == expected, (x, word)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("rounding", Rounding)
def test_beyond_the_range_saturates(name, rounding):
    fmt = parse_format(name)
    assert isinstance(fmt, ScalarFormat)
    for factor in (1.001, 1.5, 3.0, 1e30, math.inf):
        assert round_exact(fmt.max * factor, fmt, rounding, random=WORDS - 1) == fmt.max
        low = -max(fmt.max, -fmt.min) * factor
        assert round_exact(low, fmt, rounding, random=WORDS - 1) == fmt.min


@given(x=reals, bits=st.integers(2, 53), fraction=st.integers(-30, 60), signed=st.booleans())
def test_fixed_point_against_exact_arithmetic(x, bits, fraction, signed):
    fmt = FixedPoint(bits, fraction, signed)
    scaled = Fraction(x) * Fraction(2) ** fraction
    half = Fraction(1, 2)
    expected = {
        Rounding.NEAREST: round(scaled),  # Python rounds fractions half to even
        Rounding.NEAREST_AWAY: int(math.copysign(1, x)) * math.floor(abs(scaled) + half),
        Rounding.TOWARD_ZERO: math.trunc(scaled),
        Rounding.DOWN: math.floor(scaled),
        Rounding.UP: math.ceil(scaled),
    }
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    for rounding, code in expected.items():
        ours = Fraction(round_exact(x, fmt, rounding))
        assert ours == min(max(code, low), high) / Fraction(2) ** fraction


@given(x=st.floats(-1e6, 1e6), word=st.integers(0, WORDS - 1), fraction=st.integers(-4, 20))
def test_stochastic_fixed_point_against_exact_arithmetic(x, word, fraction):
    scaled = abs(Fraction(x)) * Fraction(2) ** fraction
    code = math.floor(scaled + Fraction(word, WORDS))
    ours = round_exact(x, FixedPoint(54, fraction), Rounding.STOCHASTIC, random=word)
    assert abs(Fraction(ours)) == code / Fraction(2) ** fraction
    assert ours == 0 or math.copysign(1, ours) == math.copysign(1, x)


@pytest.mark.parametrize(
    ("bits", "signed", "machine"),
    [
        (8, True, ctypes.c_int8),
        (8, False, ctypes.c_uint8),
        (16, True, ctypes.c_int16),
        (32, False, ctypes.c_uint32),
    ],
)
def test_wrapping_against_the_integers_of_the_machine(bits, signed, machine):
    @given(code=st.integers(-(2**40), 2**40))
    def check(code):
        fmt = FixedPoint(bits, 3, signed, "wrap")
        assert round_exact(code / 8, fmt) == machine(code).value / 8

    check()


def test_specials_of_fixed_point():
    assert math.isnan(round_exact(math.nan, FixedPoint(8, 4)))
    assert round_exact(math.inf, FixedPoint(8, 4)) == 7.9375
    assert round_exact(-math.inf, FixedPoint(8, 4)) == -8.0
    assert math.isnan(round_exact(math.inf, FixedPoint(8, 4, overflow="wrap")))
    assert same(round_exact(-0.01, FixedPoint(8, 4)), 0.0)


@given(
    amax=st.floats(1e-300, 1e300),
    share=st.floats(-1, 1),
    bits=st.integers(2, 54),
    rounding=st.sampled_from(DETERMINISTIC),
)
def test_dynamic_fixed_point_is_fixed_point_at_the_scale_of_amax(amax, share, bits, rounding):
    x = amax * share
    exponent = 0
    while Fraction(2) ** exponent <= Fraction(amax):
        exponent += 1
    while Fraction(2) ** (exponent - 1) > Fraction(amax):
        exponent -= 1
    fmt = DynamicFixedPoint(bits)
    ours = Fraction(round_exact(x, fmt, rounding, amax=amax))
    lsb = Fraction(2) ** (exponent - bits + 1)
    half = Fraction(1, 2)
    scaled = Fraction(x) / lsb
    code = {
        Rounding.NEAREST: round(scaled),
        Rounding.NEAREST_AWAY: int(math.copysign(1, x)) * math.floor(abs(scaled) + half),
        Rounding.TOWARD_ZERO: math.trunc(scaled),
        Rounding.DOWN: math.floor(scaled),
        Rounding.UP: math.ceil(scaled),
    }[rounding]
    top = 2 ** (bits - 1) - 1
    assert ours == min(max(code, -top), top) * lsb


@given(amax=st.floats(1e-300, 1e300), share=st.floats(-1, 1), bits=st.integers(2, 54))
def test_dynamic_fixed_point_is_idempotent(amax, share, bits):
    fmt = DynamicFixedPoint(bits)
    top = round_exact(amax, fmt, amax=amax)
    once = round_exact(amax * share, fmt, amax=amax)
    assert math.frexp(top)[1] == math.frexp(amax)[1]
    assert round_exact(once, fmt, amax=top) == once


def test_specials_of_dynamic_fixed_point():
    fmt = DynamicFixedPoint(8)
    assert round_exact(0.0, fmt, amax=0.0) == 0.0
    assert all(math.isnan(round_exact(1.0, fmt, amax=amax)) for amax in (math.inf, math.nan))
    assert math.isnan(round_exact(math.nan, fmt, amax=1.0))
    assert round_exact(1.0, fmt, amax=1.0) == 1.0
    assert round_exact(1.999, fmt, amax=1.999) == 127 / 64
    assert round_exact(-1.999, fmt, amax=1.999) == -127 / 64
    tiny = 5e-324
    assert round_exact(tiny, fmt, amax=tiny) == tiny


def test_scales_by_hand():
    # E = floor(log2 amax) + 1: 1.0 opens the next binade, the number under it does not.
    fmt = DynamicFixedPoint(4)
    assert round_exact(0.3, fmt, amax=math.nextafter(1.0, 0.0)) == 0.25
    assert round_exact(0.3, fmt, amax=0.5) == 0.25
    assert round_exact(0.3, fmt, amax=0.49) == 0.3125
    assert round_exact(0.12, fmt, amax=1.0) == 0.0
    assert round_exact(0.13, fmt, amax=1.0) == 0.25


@pytest.mark.parametrize("name", ["e4m3", "bf16", "fx8.4", "dfx6"])
@given(x=st.integers(-300, 300).map(lambda k: k / 256))
def test_stochastic_rounding_is_unbiased(name, x):
    fmt = parse_format(name)
    words = [k << 26 for k in range(64)]  # each share of 1/64 once
    results = [round_exact(x, fmt, Rounding.STOCHASTIC, random=word, amax=2.0) for word in words]
    assert sum(map(Fraction, results)) == len(words) * Fraction(x)
    assert len(set(results)) <= 2


@pytest.mark.parametrize("name", ["e4m3-ovf", "fp16", "bf16", "e4m3fnuz-ovf"])
def test_ieee_overflow_by_rounding(name):
    """IEEE 754-2008, section 7.4: directed roundings away from infinity stop at max."""
    fmt = parse_format(name)
    assert isinstance(fmt, FloatingPoint)
    beyond = math.inf if fmt.has_infinity else math.nan
    x = fmt.max * 4
    for sign in (1, -1):
        over = math.copysign(beyond, sign)
        for rounding in (Rounding.NEAREST, Rounding.NEAREST_AWAY):
            assert same(round_exact(sign * x, fmt, rounding), over)
        assert round_exact(sign * x, fmt, Rounding.TOWARD_ZERO) == sign * fmt.max
        assert same(round_exact(sign * math.inf, fmt, Rounding.TOWARD_ZERO), over)
    assert round_exact(x, fmt, Rounding.DOWN) == fmt.max
    assert round_exact(-x, fmt, Rounding.UP) == -fmt.max
    assert same(round_exact(x, fmt, Rounding.UP), beyond)
    assert same(round_exact(-x, fmt, Rounding.DOWN), -beyond)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: round_exact(0.1, DynamicFixedPoint(8)), "dfx8 without amax; give the tensor's"),
        (lambda: round_exact(0.1, parse_format("e4m3"), Rounding.STOCHASTIC), "random word None"),
        (
            lambda: round_exact(0.1, parse_format("e4m3"), Rounding.STOCHASTIC, random=WORDS),
            "random word 4294967296; give 0 to 2^32 - 1",
        ),
        (lambda: round_exact(0.1, "e4m3"), "no rule for 'e4m3'; use a format"),
    ],
)
def test_errors_name_the_value_and_the_remedy(make, message):
    with pytest.raises(FormatError) as caught:
        make()
    assert message in str(caught.value)
