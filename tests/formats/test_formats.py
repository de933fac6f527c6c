"""Facts and names of the formats; ml_dtypes, which is not ours, judges the facts."""

from __future__ import annotations

import math
import pickle
from dataclasses import FrozenInstanceError, fields, replace

import ml_dtypes
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from limprec.errors import FormatError
from limprec.formats import (
    GRAMMAR,
    NAMED_FLOATS,
    DynamicFixedPoint,
    FixedPoint,
    FloatingPoint,
    Precision,
    Rounding,
    parse_format,
    parse_precision,
    parse_rounding,
)
from limprec.formats.floating import SPECIALS

ML_DTYPES = {
    "float8_e4m3fn": "e4m3",
    "float8_e5m2": "e5m2",
    "float8_e4m3fnuz": "e4m3fnuz",
    "float8_e5m2fnuz": "e5m2fnuz",
    "float8_e4m3b11fnuz": "e4m3b11fnuz",
    "float8_e3m4": "e3m4",
    "float8_e4m3": "e4m3ieee",
    "bfloat16": "bf16",
    "float6_e2m3fn": "e2m3",
    "float6_e3m2fn": "e3m2",
    "float4_e2m1fn": "e2m1",
}


@st.composite
def floats(draw) -> FloatingPoint:
    try:
        return FloatingPoint(
            draw(st.integers(1, 11)),
            draw(st.integers(1, 52)),
            draw(st.one_of(st.none(), st.integers(-1100, 1100), st.integers(-3, 20))),
            draw(st.booleans()),
            draw(st.sampled_from(sorted(SPECIALS))),
            draw(st.sampled_from([None, "saturate", "ieee"])),
        )
    except FormatError:
        assume(False)
        raise


fixed = st.builds(
    FixedPoint,
    st.integers(2, 53),
    st.integers(-60, 60),
    st.booleans(),
    st.sampled_from(["saturate", "wrap"]),
)
dynamic = st.builds(DynamicFixedPoint, st.integers(2, 54))
formats = st.one_of(floats(), fixed, dynamic)


@given(formats)
def test_names_read_back(fmt):
    assert parse_format(str(fmt)) == fmt
    assert parse_format(f"  {fmt.name} ") == fmt
    assert parse_format(str(parse_format(str(fmt)))).name == fmt.name


@given(formats, st.sampled_from(list(Rounding)))
def test_precisions_read_back(fmt, rounding):
    precision = Precision(fmt, rounding)
    assert parse_precision(str(precision)) == precision
    assert parse_precision(f"{fmt}:{rounding}") == precision
    assert parse_precision(precision) is precision
    assert parse_precision(fmt) == Precision(fmt, Rounding.NEAREST)


@given(formats, formats)
def test_one_name_one_format(a, b):
    assert (a.name == b.name) == (a == b)
    assert hash(a) == hash(parse_format(a.name))


@given(formats)
def test_formats_are_frozen_values(fmt):
    assert pickle.loads(pickle.dumps(fmt)) == fmt
    field = fields(fmt)[0].name
    with pytest.raises(FrozenInstanceError):
        setattr(fmt, field, 3)
    assert replace(fmt) == fmt


@pytest.mark.parametrize(("dtype", "name"), ML_DTYPES.items())
def test_facts_against_ml_dtypes(dtype, name):
    info = ml_dtypes.finfo(getattr(ml_dtypes, dtype))
    fmt = parse_format(name)
    assert isinstance(fmt, FloatingPoint)
    assert fmt.max == float(info.max)
    assert fmt.min == float(info.min)
    assert fmt.smallest == float(info.smallest_subnormal)
    assert fmt.smallest_normal == float(info.smallest_normal)
    assert fmt.epsilon == float(info.eps)
    assert fmt.bits == info.bits
    assert fmt.exponent_bits == info.nexp
    assert fmt.mantissa_bits == info.nmant
    assert fmt.significant_bits == info.nmant + 1


@pytest.mark.parametrize(
    ("name", "largest", "smallest", "bits", "significant"),
    [
        ("fp64", 1.7976931348623157e308, 5e-324, 64, 53),
        ("fp32", 3.4028234663852886e38, 2.0**-149, 32, 24),
        ("tf32", 3.4011621342146535e38, 2.0**-136, 19, 11),
        ("bf16", 3.3895313892515355e38, 2.0**-133, 16, 8),
        ("fp16", 65504.0, 2.0**-24, 16, 11),
        ("e5m2", 57344.0, 2.0**-16, 8, 3),
        ("e4m3", 448.0, 2.0**-9, 8, 4),
        ("e3m2", 28.0, 2.0**-4, 6, 3),
        ("e2m3", 7.5, 2.0**-3, 6, 4),
        ("e2m1", 6.0, 0.5, 4, 2),
    ],
)
def test_named_formats_as_published(name, largest, smallest, bits, significant):
    fmt = NAMED_FLOATS[name]
    assert (fmt.max, fmt.smallest, fmt.bits, fmt.significant_bits) == (
        largest,
        smallest,
        bits,
        significant,
    )
    assert fmt.name == name


def test_every_named_format_is_tested():
    assert set(NAMED_FLOATS) == {
        "fp64", "fp32", "tf32", "bf16", "fp16", "e5m2", "e4m3", "e3m2", "e2m3", "e2m1",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("e8m7", "bf16"),
        ("e8m23", "fp32"),
        ("e5m10", "fp16"),
        ("e11m52", "fp64"),
        ("e5m2ieee", "e5m2"),
        ("e5m2-sat", "e5m2"),
        ("e4m3fn", "e4m3"),
        ("e4m3b7fn", "e4m3"),
        ("e2m1fin", "e2m1"),
        ("e4m3b9", "e4m3b9fn"),
        ("e2m1-nosub", "e2m1fin-nosub"),
        ("fp16-ovf", "fp16"),
    ],
)
def test_aliases(name, same):
    assert parse_format(name) == parse_format(same)
    assert parse_format(name).name == same


def test_e4m3_is_the_one_of_ocp_and_the_ieee_layout_says_so():
    assert parse_format("e4m3").max == 448  # type: ignore[attr-defined]
    assert FloatingPoint(4, 3).max == 240
    assert FloatingPoint(4, 3).name == "e4m3ieee"
    assert FloatingPoint(4, 3, specials="fnuz").bias == 8


def test_defaults_of_the_overflow():
    assert FloatingPoint(5, 2).overflow == "saturate"
    assert FloatingPoint(5, 3).overflow == "ieee"
    assert FloatingPoint(5, 2, overflow="ieee").name == "e5m2-ovf"
    assert parse_format("fp16-sat") == FloatingPoint(5, 10, overflow="saturate")


def test_without_subnormals():
    fmt = FloatingPoint(5, 2, subnormals=False)
    assert fmt.smallest == fmt.smallest_normal == 2.0**-14
    assert fmt.name == "e5m2ieee-nosub"


@given(fixed)
def test_facts_of_fixed_point(fmt):
    codes = 2**fmt.bits
    assert fmt.code_max - fmt.code_min + 1 == codes
    assert fmt.code_min == (-codes // 2 if fmt.signed else 0)
    assert fmt.smallest == fmt.lsb == math.ldexp(1.0, -fmt.fraction_bits)
    assert fmt.max == math.ldexp(fmt.code_max, -fmt.fraction_bits)
    assert fmt.min == math.ldexp(fmt.code_min, -fmt.fraction_bits)
    assert fmt.significant_bits == max(1, fmt.code_max.bit_length())


@given(dynamic)
def test_facts_of_dynamic_fixed_point(fmt):
    assert fmt.code_max == 2 ** (fmt.bits - 1) - 1
    assert fmt.significant_bits == fmt.code_max.bit_length()


@given(floats())
def test_facts_of_floats_agree_with_each_other(fmt):
    assert fmt.bits == 1 + fmt.exponent_bits + fmt.mantissa_bits
    assert 0 < fmt.smallest <= fmt.smallest_normal <= 2.0**fmt.max_exponent <= fmt.max < math.inf
    assert fmt.min == -fmt.max
    assert fmt.max / 2.0**fmt.max_exponent < 2
    assert fmt.has_infinity == (fmt.specials in ("ieee", "p3109"))
    assert fmt.has_nan == (fmt.specials != "finite")
    assert fmt.has_negative_zero == (fmt.specials not in ("fnuz", "p3109"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("", "unknown format ''"),
        ("dfx", "unknown format 'dfx'"),
        ("dfx8.2", "unknown format 'dfx8.2'"),
        ("e4", "unknown format 'e4'"),
        ("e4m3x", "unknown format 'e4m3x'"),
        ("dfx8-sat", "unknown format 'dfx8-sat'"),
        ("e4m3 fn", "unknown format 'e4m3 fn'"),
        ("dfx8:stochastic", "a rounding goes with parse_precision"),
        (8, "8 is no name"),
        (None, "None is no name"),
        ("dfx1", "1 bits"),
        ("dfx55", "55 bits"),
        ("fx1.0", "1 bits"),
        ("ufx0.0", "0 bits"),
        ("fx99.0", "99 bits"),
        ("fx8.1001", "1001 fraction bits"),
        ("e0m3", "0 exponent bits"),
        ("e1m3", "1 exponent bits"),
        ("e12m3", "12 exponent bits"),
        ("e5m0", "0 mantissa bits"),
        ("e5m53", "53 mantissa bits"),
        ("e5m2b2000", "bias 2000"),
        ("e11m52b1100", "leave float64's range"),
        ("e11m3b-1", "leave float64's range"),
    ],
)
def test_bad_names_say_what_is_wrong_and_what_to_write(name, value):
    with pytest.raises(FormatError) as caught:
        parse_format(name)
    assert value in caught.value.problem
    assert caught.value.operation in ("parse_format", *(c.__name__ for c in KINDS))
    assert caught.value.remedy.startswith(("write e.g. dfx8", "give an integer", "choose fewer"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        *(("float8", "e4m3 or e5m2"), ("DFX8", "dfx8"), ("fx8", "fx8.4 for 4 fraction bits")),
        *(("Half", "fp16"), ("torch.bfloat16", "bf16"), ("float8_e4m3fnuz", "e4m3fnuz")),
        *(("mxfp4", "mxfp4_e2m1"), ("float6_e2m3fn", "e2m3")),
    ],
)
def test_spellings_of_others_are_refused_with_the_short_name(name, meant):
    """A spelling is not taken, since some mean another format elsewhere: float8_e4m3 is IEEE's."""
    with pytest.raises(FormatError, match=f"unknown format '{name}'; write {meant}$"):
        parse_format(name)


@pytest.mark.parametrize(("name", "short"), ML_DTYPES.items())
def test_names_of_ml_dtypes_are_answered_with_ours(name, short):
    if name == short:
        return
    with pytest.raises(FormatError, match=f"unknown format '{name}'; write {short}( |$)"):
        parse_format(name)


KINDS = (FixedPoint, DynamicFixedPoint, FloatingPoint)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FixedPoint(8, 4, overflow="clip"), "unknown overflow 'clip'; use 'saturate'"),
        (lambda: FixedPoint(8.0, 4), "8.0 bits; give an integer from 2 to 54"),
        (lambda: FixedPoint(8, 4.5), "4.5 fraction bits; give an integer"),
        (lambda: DynamicFixedPoint(True), "True bits"),
        (lambda: DynamicFixedPoint("8"), "'8' bits"),
        (lambda: FloatingPoint(5, 2, specials="inf"), "unknown specials 'inf'; use one of ieee"),
        (lambda: FloatingPoint(5, 2, overflow="clip"), "unknown overflow 'clip'; use 'saturate'"),
        (lambda: FloatingPoint(5, 2, bias=1.5), "bias 1.5; give an integer"),
        (lambda: FloatingPoint(5.0, 2), "5.0 exponent bits; give an integer from 2 to 11"),
        (lambda: parse_precision("dfx8:round"), "unknown rounding 'round'; use one of nearest"),
        (lambda: parse_precision("foo:stochastic"), "unknown format 'foo'"),
        (lambda: parse_precision(8), "8 is no name; write e.g. dfx8"),
        (lambda: parse_rounding("even"), "unknown rounding 'even'; use one of nearest"),
    ],
)
def test_bad_fields_say_what_is_wrong_and_what_to_write(make, message):
    with pytest.raises(FormatError) as caught:
        make()
    assert message in str(caught.value)


def test_an_error_of_a_format_is_a_value_error_and_survives_pickling():
    with pytest.raises(ValueError, match="unknown format") as caught:
        parse_format("nope")
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.remedy) == (str(caught.value), caught.value.remedy)


def test_the_grammar_names_every_rounding_and_every_tag():
    assert all(rounding in GRAMMAR["NAME:ROUNDING"] for rounding in Rounding)
    assert all(tag in GRAMMAR["eXmY"] for tag in ("bN", "fn", "fnuz", "fin", "ieee", "-nosub"))
    assert all(isinstance(parse_rounding(str(rounding)), Rounding) for rounding in Rounding)
