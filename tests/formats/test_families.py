"""Names, facts and roundings of the wider families; gfloat and enumeration judge them."""

from __future__ import annotations

import bisect
import math
import pickle
from fractions import Fraction

import gfloat
import gfloat.formats
import ml_dtypes
import numpy as np
import pytest
from gfloat.types import RoundMode
from hypothesis import given, settings
from hypothesis import strategies as st

from limprec.errors import FormatError
from limprec.formats import (
    E8M0,
    GRAMMAR,
    MX_ELEMENTS,
    NAMED_FLOATS,
    NAMED_FORMATS,
    NVFP4,
    Affine,
    DynamicFixedPoint,
    DynamicFloatingPoint,
    FixedPoint,
    FloatingPoint,
    Logarithmic,
    Microscaling,
    Posit,
    Rounding,
    ScaledFormat,
    TableFormat,
    parse_format,
    parse_precision,
)
from limprec.formats.oracle import RANDOM_BITS, round_exact

axes = st.one_of(st.none(), st.integers(-4, 4))
blocks = st.one_of(st.none(), st.integers(1, 512))
finite = st.floats(allow_nan=False, allow_infinity=False)
families = st.one_of(
    st.builds(DynamicFixedPoint, st.integers(2, 54), axes, blocks),
    st.builds(
        Microscaling,
        st.sampled_from(list(MX_ELEMENTS.values())),
        st.integers(1, 512),
        st.integers(-4, 4),
    ),
    st.builds(NVFP4, st.integers(1, 512), st.integers(-4, 4)),
    st.builds(
        DynamicFloatingPoint,
        st.builds(
            FloatingPoint,
            st.integers(2, 8),
            st.integers(1, 23),
            st.sampled_from([None, 3, 20]),
            st.booleans(),
            st.sampled_from(["ieee", "fn", "fnuz", "finite"]),
            st.sampled_from([None, "saturate", "ieee"]),
        ),
    ),
    st.builds(
        Affine, st.integers(2, 16), st.sampled_from(["integer", "none", "real"]), axes, blocks
    ),
    st.builds(Posit, st.integers(3, 16), st.integers(0, 3)),
    st.integers(3, 16).flatmap(
        lambda bits: st.builds(Logarithmic, st.just(bits), st.integers(max(0, bits - 8), bits - 2))
    ),
    st.builds(
        TableFormat,
        st.sampled_from(["mine", "Nf4", "a_1"]),
        st.lists(finite, min_size=2, max_size=9, unique_by=lambda v: v + 0.0).map(tuple),
    ),
    st.just(E8M0()),
)


@given(families)
def test_names_read_back(fmt):
    assert parse_format(str(fmt)) == fmt
    assert parse_format(fmt.name).name == fmt.name
    assert str(parse_precision(f"{fmt}:stochastic")) == f"{fmt}:stochastic"
    assert hash(parse_format(fmt.name)) == hash(fmt)
    assert pickle.loads(pickle.dumps(fmt)) == fmt
    if isinstance(fmt, ScaledFormat):
        assert fmt.per_tensor == (fmt.axis is None)
        assert fmt.element.bits == fmt.bits
        assert fmt.scale_rule


@given(families, families)
def test_one_name_one_format(a, b):
    assert (a.name == b.name) == (a == b)


def test_the_list_of_named_formats():
    assert all(str(fmt) == name for name, fmt in NAMED_FORMATS.items())
    assert all(parse_format(name) == fmt for name, fmt in NAMED_FORMATS.items())
    assert set(NAMED_FLOATS) | set(MX_ELEMENTS) < set(NAMED_FORMATS)
    judged = {name.removeprefix("float8_") for name in dir(ml_dtypes) if "float8_" in name}
    known = {str(fmt) for fmt in NAMED_FORMATS.values()}
    assert judged <= known | {"e4m3fn", "e8m0fnu"}  # e4m3 here, e8m0 here
    for word in ("dfxB", "binaryKpP", "intB", "positB", "logB.F", "LABEL{...}"):
        assert word in GRAMMAR


@pytest.mark.parametrize(
    ("name", "fmt"),
    [
        ("dfx8", DynamicFixedPoint(8)),
        ("dfx8c0", DynamicFixedPoint(8, axis=0)),
        ("dfx8b32", DynamicFixedPoint(8, block=32)),
        ("dfx8b32", DynamicFixedPoint(8, -1, 32)),
        ("dfx8b32a0", DynamicFixedPoint(8, 0, 32)),
        ("mxfp8_e4m3", Microscaling(FloatingPoint(4, 3, specials="fn"))),
        ("mxint8b16a1", Microscaling(FixedPoint(8, 6), 16, 1)),
        ("nvfp4", NVFP4()),
        ("nvfp4a0", NVFP4(axis=0)),
        ("int8", Affine(8)),
        ("int8sc0", Affine(8, "none", 0)),
        ("int8m", Affine(8, "real")),
        ("int4b32", Affine(4, block=32)),
        ("posit8", Posit(8)),
        ("posit8es1", Posit(8, 1)),
        ("log8.3", Logarithmic(8, 3)),
        ("binary8p3", FloatingPoint(5, 2, specials="p3109")),
        ("e5m2b9p3109", FloatingPoint(5, 2, 9, specials="p3109")),
        ("ternary{-1,0,1}", TableFormat("ternary", (1, -1, 0))),
        ("e8m0", E8M0()),
    ],
)
def test_names_as_published(name, fmt):
    assert str(fmt) == name
    assert parse_format(name) == fmt


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dfx8a0", "'dfx8a0' has no such groups; write c0 for a scale per index of axis 0"),
        ("mxint8c0", "'mxint8c0' has no such groups"),
        ("dfx8b0", "block 0; give a positive integer"),
        ("dfx8c99", "axis 99; give an integer"),
        ("int1", "1 bits; give an integer from 2 to 16"),
        ("int17", "17 bits"),
        ("posit2", "2 bits; give an integer from 3 to 16"),
        ("posit8es4", "es 4; give an integer from 0 to 3"),
        ("log8.7", "7 fraction bits; give an integer from 0 to 6"),
        ("log16.0", "log16.0 reaches 2^16384; give at least 8 fraction bits"),
        ("mxfp8_e3m4", "unknown format 'mxfp8_e3m4'; write e.g. dfx8"),
        ("binary8p8", "0 exponent bits; give an integer from 1 to 11"),
        ("e1m0fn", "1 exponent and 0 mantissa bits; give one more of either"),
        ("t{1}", "1 values; give 2 to 65536"),
        ("t{1,1.0}", "1.0 twice; give each value once"),
        ("t{1,inf}", "the value inf; give finite values only"),
        ("t{1,one}", "values ('1', 'one'); give numbers"),
        ("1t{1,2}", "label '1t'; write a letter"),
    ],
)
def test_bad_names_say_what_is_wrong_and_what_to_write(name, message):
    with pytest.raises(FormatError) as caught:
        parse_format(name)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Microscaling(FloatingPoint(3, 4)), "element e3m4; use one of e4m3, e5m2"),
        (lambda: Microscaling(FixedPoint(8, 6), None), "no block or axis"),
        (lambda: NVFP4(axis=None), "no block or axis"),
        (lambda: Affine(8, "zero"), "unknown zero 'zero'; use one of integer, none, real"),
        (lambda: DynamicFixedPoint(8, axis="rows"), "axis 'rows'"),
        (lambda: DynamicFixedPoint(8, block=1.5), "block 1.5"),
        (lambda: TableFormat("t", None), "values None; give numbers"),
    ],
)
def test_bad_fields_say_what_is_wrong_and_what_to_write(make, message):
    with pytest.raises(FormatError) as caught:
        make()
    assert message in str(caught.value)


MODES = {
    RoundMode.TiesToEven: Rounding.NEAREST,
    RoundMode.TiesToAway: Rounding.NEAREST_AWAY,
    RoundMode.TowardZero: Rounding.TOWARD_ZERO,
    RoundMode.TowardNegative: Rounding.DOWN,
    RoundMode.TowardPositive: Rounding.UP,
}


@pytest.mark.parametrize("p", range(1, 8))
@pytest.mark.parametrize("saturate", [True, False])
def test_p3109_against_gfloat(p, saturate):
    """All roundings at every value, every midpoint and their neighbours.

    The neighbours are those of float32: gfloat's TiesToAway adds a half in float64, which takes
    what is 2^-53 of a step under a tie for one. Elsewhere the two mean the same by saturation:
    infinities too become the largest value.
    """
    info = gfloat.formats.format_info_p3109(8, p)
    fmt = parse_format(f"binary8p{p}" + ("" if saturate else "-ovf"))
    assert isinstance(fmt, FloatingPoint)
    values = np.array(fmt.values())
    middles = (values[1:] + values[:-1]) / 2
    points = np.concatenate([values, middles, [fmt.max * 1.25, 1e30]]).astype(np.float32)
    points = np.concatenate([points, *(np.nextafter(points, np.float32(w)) for w in (-9e9, 9e9))])
    for x in [*points.tolist(), math.inf, -math.inf, math.nan]:
        for theirs, ours in MODES.items():
            want = gfloat.round_float(info, x, theirs, saturate)
            got = round_exact(x, fmt, ours)
            assert got == want or (math.isnan(got) and math.isnan(want)), (x, ours, got, want)


@pytest.mark.parametrize("name", ["ocp_e4m3", "ocp_e5m2", "ocp_e2m1", "p3109_k8p3se", "bfloat16"])
def test_stochastic_rounding_against_gfloat(name):
    """gfloat's StochasticFastest: up if share + bits * 2^-n >= 1, which is our rule with n = 32.

    Its other modes round the share to n bits first (Stochastic, to even), or add half a bit
    (StochasticFast): ours truncates the share, biased by under 2^-32.
    """
    info = next(f for f in gfloat.formats.sample_formats if f.name == name)
    ours = {"p3109_k8p3se": "binary8p3", "bfloat16": "bf16-sat"}.get(name, name[4:])
    fmt = parse_format(ours)
    rng = np.random.default_rng(3)
    x = rng.integers(-(2**12), 2**12, 2000) * 2.0 ** rng.integers(-18, -4, 2000)
    words = rng.integers(0, 1 << RANDOM_BITS, 2000)
    for value, word in zip(x.tolist(), words.tolist(), strict=True):
        mode = RoundMode.StochasticFastest
        want = gfloat.round_float(info, value, mode, True, word, RANDOM_BITS)
        assert round_exact(value, fmt, Rounding.STOCHASTIC, random=word) == want


LISTED = ["posit8", "posit8es0", "posit6es3", "log6.2", "t{-7,-1,-0.5,0,0.25,3,100}", "gap{-1,2}"]


@pytest.mark.parametrize("name", LISTED)
@pytest.mark.parametrize("rounding", [r for r in Rounding if r is not Rounding.STOCHASTIC])
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_listed_formats_against_enumeration(name, rounding, data):
    """Plain enumeration with exact distances; posits' nearest has a test of its own."""
    fmt = parse_format(name)
    values = fmt.values()
    middle = st.integers(0, len(values) - 2).map(lambda i: (values[i] + values[i + 1]) / 2)
    x = data.draw(st.one_of(st.floats(-300, 300), st.sampled_from(values), middle))
    got = round_exact(x, fmt, rounding)
    assert got in values
    below = [v for v in values if v <= x] or [values[0]]
    above = [v for v in values if v >= x] or [values[-1]]
    low, high = below[-1], above[0]
    assert got in (low, high)
    if low == high or x <= values[0] or x >= values[-1]:
        return
    if rounding is Rounding.DOWN:
        assert got == low
    elif rounding is Rounding.UP:
        assert got == high
    elif rounding is Rounding.TOWARD_ZERO:
        assert got == (low if x >= 0 else high)
    elif not name.startswith("posit"):
        to_low, to_high = Fraction(x) - Fraction(low), Fraction(high) - Fraction(x)
        if to_low != to_high:
            assert got == (low if to_low < to_high else high)
        elif rounding is Rounding.NEAREST:
            assert fmt.encode(got) % 2 == 0
        else:
            assert got == (high if x >= 0 else low)


@pytest.mark.parametrize("es", [0, 1, 2])
def test_posits_round_by_the_bits_cut_off(es):
    """The standard: cut the unbounded posit, to the nearest word, ties to the even word."""
    bits, more = 6, 6
    fine, coarse = Posit(bits + more, es), Posit(bits, es)
    for word in range(1, 1 << (bits + more - 1)):
        low, rest = divmod(word, 1 << more)
        half = 1 << (more - 1)
        up = rest > half or (rest == half and low % 2 == 1)
        want = min(max(low + up, 1), (1 << (bits - 1)) - 1)
        x = fine.decode(word)
        for sign in (1, -1):
            got = round_exact(sign * x, coarse)
            assert got == sign * coarse.decode(want), (x, word)
    assert math.isnan(round_exact(math.inf, coarse))
    assert math.isnan(round_exact(math.nan, coarse))
    assert round_exact(1e-300, coarse) == coarse.smallest


def test_tables_saturate():
    fmt = parse_format("t{-1,0,2}")
    for rounding in Rounding:
        found = [round_exact(x, fmt, rounding, random=0) for x in (-math.inf, -5, 7, math.inf)]
        assert found == [-1, -1, 2, 2]
    assert math.isnan(round_exact(math.nan, fmt))


@given(st.floats(0, 2), st.integers(0, 2**RANDOM_BITS - 1))
def test_stochastic_rounding_in_a_table_goes_by_the_share_of_the_gap(x, word):
    fmt = parse_format("t{0,0.5,2}")
    low = 0.0 if x < 0.5 else 0.5
    high = 0.5 if x < 0.5 else 2.0
    share = (x - low) / (high - low)
    far = math.floor(share * 2**RANDOM_BITS) + word >= 2**RANDOM_BITS
    want = high if far else low
    assert round_exact(x, fmt, Rounding.STOCHASTIC, random=word) == (x if x in (0.5, 2) else want)


def test_e8m0_roundings():
    fmt = E8M0()
    cases = {  # x: nearest, toward zero and down, up
        1.0: (1, 1, 1),
        1.49: (1, 1, 2),
        1.5: (2, 1, 2),
        3.0: (4, 2, 4),
        1e-45: (2.0**-127,) * 3,
        2.0**127 * 1.25: (2.0**127, 2.0**127, math.nan),
        2.0**128: (math.nan, 2.0**127, math.nan),
        0.0: (math.nan,) * 3,
        -1.0: (math.nan,) * 3,
        math.inf: (math.nan,) * 3,
    }
    groups = [
        (Rounding.NEAREST, Rounding.NEAREST_AWAY),
        (Rounding.TOWARD_ZERO, Rounding.DOWN),
        (Rounding.UP,),
    ]
    for x, wanted in cases.items():
        for want, modes in zip(wanted, groups, strict=True):
            for mode in modes:
                got = round_exact(x, fmt, mode)
                assert got == want or (math.isnan(got) and math.isnan(want)), (x, mode, got)
    half = 1 << (RANDOM_BITS - 1)
    assert round_exact(1.5, fmt, Rounding.STOCHASTIC, random=half) == 2
    assert round_exact(1.5, fmt, Rounding.STOCHASTIC, random=half - 1) == 1


def test_one_precision_bit_ties_to_the_even_code():
    fmt = FloatingPoint(4, 0, specials="finite")
    for code in range(1, 14):
        low, high = fmt.decode(code), fmt.decode(code + 1)
        assert round_exact((low + high) / 2, fmt) == (low if code % 2 == 0 else high)
    assert bisect.bisect(fmt.values(), 0) == 16
    assert fmt.values()[15:19] == (0.0, 2.0**-6, 2.0**-5, 2.0**-4)


@pytest.mark.parametrize(
    "name",
    [[], None, 8, "", "dfx", "e4m3-sat-ovf", "e4m3" + "-sat" * 400, "dfx" + "9" * 5000, "dfx٨"],
)
def test_what_is_no_name_is_a_format_error(name):
    with pytest.raises(FormatError):
        parse_format(name)


def test_leading_zeros_mean_the_same_format():
    assert parse_format("e04m3") == parse_format("e4m3")


def test_a_colon_wants_a_rounding():
    with pytest.raises(FormatError, match="unknown rounding ''"):
        parse_precision("dfx8:")
