"""What plans ask: is a precision enough, and one like it that is."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limprec.bounds import SHARE, guideline, shortfall, widen
from limprec.errors import FormatError, GuidelineError
from limprec.formats import (
    DynamicFixedPoint,
    DynamicFloatingPoint,
    FixedPoint,
    FloatingPoint,
    Format,
    Precision,
    Rounding,
    parse_precision,
)
from limprec.formats.oracle import round_exact


def widened(fmt: Format, classes: int, rounding: Rounding = Rounding.NEAREST) -> Format:
    wide = widen(Precision(fmt, rounding), classes)
    assert wide.rounding is rounding
    return wide.format


def survives(x: float, fmt: Format) -> bool:
    return round_exact(x, fmt, Rounding.NEAREST) != 0


@given(bits=st.integers(2, 32), classes=st.integers(2, 10**6))
def test_widen_dynamic_fixed_point(bits, classes):
    wide = widened(DynamicFixedPoint(bits), classes)
    assert wide == DynamicFixedPoint(max(bits, guideline(classes).advised))


@given(
    bits=st.integers(2, 24),
    fraction=st.integers(-4, 24),
    classes=st.integers(2, 10**6),
    overflow=st.sampled_from(["saturate", "wrap"]),
)
def test_widen_fixed_point_keeps_the_range(bits, fraction, classes, overflow):
    narrow = FixedPoint(bits, fraction, overflow=overflow)
    wide = widened(narrow, classes)
    assert isinstance(wide, FixedPoint)
    assert wide.bits - wide.fraction_bits == bits - fraction
    assert wide.bits >= bits
    assert wide.overflow == overflow
    assert Fraction(wide.lsb) <= Fraction(1, classes)
    assert wide == narrow or Fraction(wide.lsb) * 2 > Fraction(1, classes)


@given(classes=st.integers(2, 10**6))
def test_widen_dynamic_floating_point(classes):
    narrow = parse_precision("de2m1")
    wide = widened(narrow.format, classes)
    assert isinstance(wide, DynamicFloatingPoint)
    least = [
        DynamicFloatingPoint(FloatingPoint(e, 1, specials="finite"))
        for e in range(2, wide.element.exponent_bits + 1)
    ]
    enough = [survives(1 / classes, fmt.at(fmt.exponent(1.0))) for fmt in least]
    assert enough == [False] * (len(least) - 1) + [True]
    assert (shortfall(narrow, classes) is None) == (len(least) == 1)


def test_widen_gives_fixed_point_at_least_the_advised_bits():
    assert widened(FixedPoint(8, 7), 1000) == FixedPoint(11, 10)
    assert widened(FixedPoint(8, 4), 1000) == FixedPoint(14, 10)
    assert widened(FixedPoint(16, 12), 1000) == FixedPoint(16, 12)


@given(
    exponent=st.integers(2, 6),
    mantissa=st.integers(1, 7),
    shift=st.integers(-3, 3),
    subnormals=st.booleans(),
    specials=st.sampled_from(["ieee", "fn", "fnuz", "finite"]),
    overflow=st.sampled_from(["saturate", "ieee"]),
    classes=st.integers(2, 10**6),
)
def test_widen_floating_point(exponent, mantissa, shift, subnormals, specials, overflow, classes):
    usual = FloatingPoint(exponent, mantissa, specials=specials).bias
    narrow = FloatingPoint(exponent, mantissa, usual + shift, subnormals, specials, overflow)
    wide = widened(narrow, classes)
    assert isinstance(wide, FloatingPoint)
    assert survives(1 / classes, wide)
    assert wide.max >= narrow.max
    for name in ("mantissa_bits", "subnormals", "specials", "overflow"):
        assert getattr(wide, name) == getattr(narrow, name)
    more = wide.exponent_bits - exponent
    assert more >= 0
    assert wide.bias == FloatingPoint(exponent + more, mantissa, specials=specials).bias + shift
    if more:
        before = FloatingPoint(exponent + more - 1, mantissa, specials=specials)
        before = FloatingPoint(
            exponent + more - 1, mantissa, before.bias + shift, subnormals, specials, overflow
        )
        assert not survives(1 / classes, before)


@pytest.mark.parametrize(
    ("name", "classes", "wide"),
    [
        ("e4m3", 1000, "e4m3"),
        ("e4m3", 2000, "e5m3fn-sat"),
        ("e5m2", 50257, "e5m2"),
        ("e2m1", 10, "e3m1fin"),
        ("fp32", 50257, "fp32"),
        ("dfx8", 10, "dfx8"),
        ("dfx8", 1000, "dfx11"),
        ("dfx8:toward_zero", 1000, "dfx11:toward_zero"),
        ("dfx8:stochastic", 50257, "dfx8:stochastic"),
        ("dfx2:stochastic", 1000, "dfx6:stochastic"),
        ("dfx4b32", 1000, "dfx11b32"),
        ("fx4.3:stochastic", 1000, "fx6.5:stochastic"),
        ("e2m1:stochastic", 10, "e3m1fin:stochastic"),
        ("e4m3:toward_zero", 1000, "e5m3fn-sat:toward_zero"),
        ("de4m3", 50257, "de4m3"),
        ("de2m1", 10, "de2m1"),
        ("mxfp4_e2m1", 1000, "mxfp6_e2m3"),
        ("mxfp8_e4m3", 1000, "mxint8"),
        ("mxfp8_e4m3b16", 100, "mxint8b16"),
        ("mxfp6_e2m3a0", 1000, "mxfp6_e2m3a0"),
        ("mxint8:stochastic", 50257, "mxint8:stochastic"),
    ],
)
def test_widen_named_formats(name, classes, wide):
    assert str(widen(parse_precision(name), classes)) == wide


def test_widen_refuses_what_cannot_help():
    with pytest.raises(GuidelineError, match=r"ufx8\.8 holds no negative error; use a signed"):
        widened(FixedPoint(8, 8, signed=False), 10)
    with pytest.raises(GuidelineError, match="no rule for nvfp4; give the classifier's error"):
        widen(parse_precision("nvfp4"), 10)
    with pytest.raises(GuidelineError, match="'dfx8' is no precision"):
        widen("dfx8", 10)  # type: ignore[arg-type]
    with pytest.raises(GuidelineError, match="num_classes is 1"):
        widened(DynamicFixedPoint(8), 1)
    with pytest.raises(FormatError, match="leave float64's range"):
        widened(FloatingPoint(5, 2, bias=-1000), 10)


NAMES = (
    *("dfx2", "dfx5", "dfx10", "fx4.2", "fx8.4", "fx12.11", "e2m1", "e4m3", "e5m2", "e3m4-nosub"),
    *("mxfp4_e2m1", "mxfp6_e3m2", "mxint8", "mxfp8_e4m3b8"),
)


@given(
    name=st.sampled_from(NAMES),
    rounding=st.sampled_from(Rounding),
    classes=st.integers(2, 10**6),
)
def test_what_auto_gives_is_never_short_nor_narrower(name, rounding, classes):
    narrow = Precision(parse_precision(name).format, rounding)
    wide = widen(narrow, classes)
    assert shortfall(wide, classes) is None
    assert wide.format.bits >= narrow.format.bits
    assert widen(wide, classes) == wide


@pytest.mark.parametrize(
    ("name", "classes", "words"),
    [
        ("dfx8", 1000, "dfx8 has 8 bits, 1000 classes need 10 (advised 11)"),
        ("dfx10", 1000, None),
        ("dfx2:stochastic", 1000, None),
        ("dfx4:stochastic4", 1000, "dfx4:stochastic4 has 4 bits, 1000 classes need 7 (advised 11)"),
        ("fx8.4", 100, "fx8.4 has 4 fraction bits, 100 classes need 6"),
        ("fx8.6", 100, None),
        ("fx8.6:toward_zero", 100, "fx8.6:toward_zero has 6 fraction bits, 100 classes need 7"),
        ("e4m3", 2000, "e4m3 has 4 exponent bits, 2000 classes need 5 or a loss scale"),
        ("e5m2", 50257, None),
        ("mxfp4_e2m1", 40, "mxfp4_e2m1 has elements of 4 bits, 40 classes need mxfp6_e2m3"),
        ("mxfp8_e4m3", 40, None),
        ("nvfp4", 1000, None),
        ("posit8", 1000, None),
    ],
)
def test_shortfall(name, classes, words):
    assert shortfall(parse_precision(name), classes) == words


@given(bits=st.integers(2, 20), classes=st.integers(2, 10**6), rounding=st.sampled_from(Rounding))
def test_shortfall_is_the_guidelines_word(bits, classes, rounding):
    short = shortfall(Precision(DynamicFixedPoint(bits), rounding), classes)
    assert (short is None) == (bits >= guideline(classes, rounding=rounding).least)


def test_stochastic_fixed_point_is_quiet_enough():
    for classes in (10, 1000, 10**6):
        wide = widen(Precision(FixedPoint(2, 1), Rounding.STOCHASTIC), classes).format
        step, error = Fraction(wide.lsb), Fraction(1, classes)
        noise = (classes - 1) * min(error * step, step**2 / 4) + step**2
        assert noise <= SHARE * (1 - error)
