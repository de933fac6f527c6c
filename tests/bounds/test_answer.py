"""The guideline against its definition: the oracle rounds, and says what survives."""

from __future__ import annotations

import json
import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limprec.bounds import SHARE, Guideline, guideline
from limprec.errors import FormatError, GuidelineError
from limprec.formats import (
    DynamicFixedPoint,
    FixedPoint,
    FloatingPoint,
    Format,
    Rounding,
    parse_format,
)
from limprec.formats.oracle import round_exact

JUST_UNDER_ONE = math.nextafter(1.0, 0.0)
DIRECTED = (Rounding.TOWARD_ZERO, Rounding.DOWN)
DETERMINISTIC = (Rounding.NEAREST, Rounding.NEAREST_AWAY, *DIRECTED)


def survives(x: float, fmt: Format, rounding: Rounding, amax: float | None = None) -> bool:
    return round_exact(x, fmt, rounding, amax=amax) != 0


@pytest.mark.parametrize(
    ("classes", "least", "advised"),
    [(10, 4, 5), (100, 7, 8), (1000, 10, 11), (10000, 14, 15), (50257, 16, 17), (1024, 11, 11)],
)
def test_published_values(classes, least, advised):
    answer = guideline(classes)
    assert (answer.least, answer.advised) == (least, advised)
    assert (answer.num_classes, answer.family, answer.rounding) == (classes, "fixed", "nearest")


def test_every_number_of_classes_against_the_definition():
    for classes in range(2, 5001):
        answer, error = guideline(classes), 1 / classes
        for rounding, bits in (
            (Rounding.NEAREST, answer.least),
            (Rounding.TOWARD_ZERO, answer.advised),
        ):
            assert survives(error, DynamicFixedPoint(bits), rounding, JUST_UNDER_ONE), classes
            if bits > 2 and (rounding is Rounding.NEAREST or classes > 16):
                narrower = DynamicFixedPoint(bits - 1)
                assert not survives(error, narrower, rounding, JUST_UNDER_ONE), classes


@given(
    classes=st.integers(2, 10**6),
    batch=st.integers(1, 5000),
    scale=st.integers(-20, 20).map(lambda k: 2.0**k),
    smoothing=st.sampled_from([0.0, 0.25, 0.5]),
    rounding=st.sampled_from(DETERMINISTIC),
)
def test_mean_loss_scale_and_smoothing_against_the_definition(
    classes, batch, scale, smoothing, rounding
):
    answer = guideline(
        classes,
        batch=batch,
        reduction="mean",
        loss_scale=scale,
        label_smoothing=smoothing,
        rounding=rounding,
    )
    error = scale * (1 - smoothing) / (classes * batch)
    amax = math.nextafter(scale / batch, 0.0)
    assert answer.error == error
    assert survives(error, DynamicFixedPoint(answer.least), rounding, amax)
    if answer.least > 2:
        assert not survives(error, DynamicFixedPoint(answer.least - 1), rounding, amax)
    assert survives(error, DynamicFixedPoint(answer.advised), Rounding.TOWARD_ZERO, amax)


@given(
    classes=st.integers(2, 10**5),
    exponent=st.integers(0, 12),
    rounding=st.sampled_from(DETERMINISTIC),
)
def test_a_fixed_scale_against_the_definition(classes, exponent, rounding):
    answer = guideline(classes, scale_exponent=exponent, rounding=rounding)

    def fixed(bits: int) -> FixedPoint:
        return FixedPoint(bits, bits - 1 - exponent)

    assert survives(1 / classes, fixed(answer.least), rounding)
    if answer.least > 2:
        assert not survives(1 / classes, fixed(answer.least - 1), rounding)


def test_batch_of_the_mean():
    assert guideline(1000, batch=64, reduction="mean").least == 10
    assert guideline(1000, batch=100, reduction="mean").least == 11
    assert guideline(1000, batch=100, reduction="sum").least == 10
    assert guideline(1000, batch=64, reduction="mean", amax=1.0).least == 11


def test_an_error_of_exactly_one_costs_one_bit():
    for classes in (10, 1000, 1024):
        plain, reached = guideline(classes), guideline(classes, amax=1.0)
        assert (reached.least, reached.advised) == (plain.least + 1, plain.advised + 1)
        assert survives(1 / classes, DynamicFixedPoint(reached.least), Rounding.NEAREST, 1.0)
        assert not survives(1 / classes, DynamicFixedPoint(plain.least), Rounding.NEAREST, 1.0)


def test_label_smoothing_costs_what_it_takes_from_the_error():
    assert guideline(1000, label_smoothing=0.1).least == 11  # 0.0009 < 2^-10 < 0.001
    assert guideline(1000, label_smoothing=0.01).least == 10


def test_balance_takes_five_bits_where_codes_clip():
    for classes in range(3, 17):
        answer = guideline(classes)
        assert answer.advised == 5
        lost = 1 - round_exact(JUST_UNDER_ONE, DynamicFixedPoint(5), amax=JUST_UNDER_ONE)
        assert lost == SHARE
    assert guideline(2).advised == 2  # the two errors are clipped alike
    assert guideline(8, amax=1.0).advised == 5  # here for the whole step: nothing is clipped
    assert guideline(4, scale_exponent=0).advised == 3  # two's complement reaches -1
    assert "5 bits clip no more than 1/16" in guideline(4).reason


def test_sampled_softmax_counts_candidates():
    assert guideline(10**6, sampled=999).least == guideline(1000).least
    assert "999" not in guideline(10**6, sampled=999).reason
    assert guideline(10**6, sampled=999).accumulator == guideline(1000).accumulator
    assert guideline(10**6, sampled=999).num_classes == 10**6


def test_few_random_bits_are_a_bias():
    """A chance cut to r bits deletes what is below LSB 2^-r."""
    for random_bits in (1, 2, 4, 8):
        answer = guideline(1000, rounding="stochastic", random_bits=random_bits)
        for bits, share in ((answer.least, 1), (answer.advised, 1 / 16)):
            step = 2.0 ** -(bits - 1)
            cut = step * math.floor(1e-3 / step * 2**random_bits) / 2**random_bits
            assert 1e-3 - cut <= share * 1e-3 + 1e-12
    assert guideline(1000, rounding="stochastic", random_bits=1).advised == 14
    assert guideline(1000, rounding="stochastic", random_bits=16).advised == 6


def test_a_language_model_in_fp8_wants_a_loss_scale():
    options = {"batch": 2**19, "reduction": "mean", "family": "float", "mantissa_bits": 2}
    answer = guideline(50257, **options)
    assert answer.least > 5
    assert "A loss scale larger by 2^2 to 2^50 would do with 6 bits." in answer.reason
    for exponent, least in ((1, 7), (2, 6), (50, 6)):
        assert guideline(50257, loss_scale=2.0**exponent, **options).least == least


def test_rounding_up_grows_the_error_by_less_than_two():
    for classes in range(2, 400):
        bits = guideline(classes, rounding="up").least
        grown = round_exact(1 / classes, DynamicFixedPoint(bits), Rounding.UP, amax=JUST_UNDER_ONE)
        assert 1 / classes <= grown < 2 / classes


def stochastic_error(classes: int, fmt: Format, amax: float | None) -> tuple[Fraction, Fraction]:
    """Return bias of a wrong class and mean squared error of one sample, by the oracle."""

    def moments(x: float) -> tuple[Fraction, Fraction]:
        low, high = (
            Fraction(round_exact(x, fmt, Rounding.STOCHASTIC, random=word, amax=amax))
            for word in (0, 2**32 - 1)
        )
        exact = Fraction(x)
        if low == high:
            return low - exact, (low - exact) ** 2
        chance = (exact - low) / (high - low)
        mean = low + chance * (high - low)
        return mean - exact, (1 - chance) * (low - exact) ** 2 + chance * (high - exact) ** 2

    bias, wrong = moments(1 / classes)
    _, right = moments(1 / classes - 1)
    return bias, (classes - 1) * wrong + right


@pytest.mark.parametrize("classes", [2, 3, 10, 63, 64, 65, 1000, 1024, 50257])
def test_stochastic_noise_is_within_its_bound(classes):
    answer = guideline(classes, rounding="stochastic")
    power = Fraction(classes - 1, classes)
    for bits, share in ((answer.least, 1), (answer.advised, SHARE)):
        bias, error = stochastic_error(classes, DynamicFixedPoint(bits), JUST_UNDER_ONE)
        assert bias == 0
        assert error <= share * power
    assert answer.least <= answer.advised <= guideline(10**6).advised


def test_stochastic_needs_hardly_more_bits_for_more_classes():
    advised = [guideline(10**k, rounding="stochastic").advised for k in range(1, 10)]
    assert advised[0] == 5
    assert set(advised[1:]) == {6}
    # Under a mean over 100 samples amax may sit just above half of its binade: up to a bit more.
    assert guideline(1000, rounding="stochastic", batch=100, reduction="mean").advised in (6, 7)


@given(
    classes=st.integers(2, 10**7),
    batch=st.sampled_from([1, 7, 64, 256]),
    scale=st.sampled_from([1.0, 128.0, 1024.0]),
    rounding=st.sampled_from([Rounding.NEAREST, Rounding.NEAREST_AWAY, Rounding.TOWARD_ZERO]),
    mantissa=st.one_of(st.none(), st.integers(1, 10)),
)
def test_floats_against_the_definition(classes, batch, scale, rounding, mantissa):
    answer = guideline(
        classes,
        family="float",
        batch=batch,
        reduction="mean",
        loss_scale=scale,
        rounding=rounding,
        mantissa_bits=mantissa,
    )
    error, peak = scale / (classes * batch), scale / batch

    def enough(exponent_bits: int) -> bool:
        fmt = FloatingPoint(exponent_bits, mantissa or 3, subnormals=mantissa is not None)
        return 2.0**fmt.max_exponent >= peak and survives(error, fmt, rounding)

    assert enough(answer.least)
    assert answer.least == 2 or not enough(answer.least - 1)
    advised = FloatingPoint(answer.advised, 3)
    assert error >= advised.smallest_normal
    assert advised.max >= peak
    assert (
        answer.advised == answer.least
        or error < FloatingPoint(answer.advised - 1, 3).smallest_normal
    )


def test_floats_by_hand():
    # 1/1000 > 2^-10, half of e4m3's 2^-9; 2^-14 is the smallest normal value of 5 exponent bits.
    assert guideline(1000, family="float", mantissa_bits=3).least == 4
    assert guideline(1100, family="float", mantissa_bits=3).least == 5
    assert guideline(1000, family="float").advised == 5
    scaled = guideline(1000, family="float", loss_scale=1024.0, mantissa_bits=2)
    assert (scaled.least, scaled.advised) == (5, 5)
    assert "up to 1024, needs 5 bits" in scaled.reason
    stochastic = guideline(1000, family="float", rounding="stochastic")
    assert stochastic.least <= stochastic.advised == 4


def test_the_answer_is_a_plain_frozen_value():
    answer = guideline(1000)
    assert json.loads(json.dumps(answer.as_dict()))["least"] == 10
    assert answer.as_dict()["unit"] == "bits"
    assert guideline(1000, family="float").unit == "exponent bits"
    with pytest.raises(AttributeError):
        answer.least = 3  # type: ignore[misc]
    assert isinstance(answer, Guideline)


@pytest.mark.parametrize(
    "options",
    [
        *({"rounding": rounding} for rounding in Rounding),
        {"label_smoothing": 0.1, "batch": 64, "reduction": "mean", "loss_scale": 3.0},
        *({"family": "float", "rounding": rounding} for rounding in Rounding),
        {"family": "float", "mantissa_bits": 3},
        *({"family": "mx", "rounding": rounding} for rounding in Rounding),
    ],
    ids=str,
)
@pytest.mark.parametrize("classes", [2, 3, 4, 1000, 10**9])
def test_the_reason_is_english_and_names_the_numbers(classes, options):
    answer = guideline(classes, **options)
    assert f"1/{classes}" in answer.reason
    assert f"{answer.least} bit" in answer.reason
    for reason in (answer.reason, answer.logits.reason, answer.accumulator.reason):
        assert reason.endswith(".")
        assert "  " not in reason
        assert "Fraction" not in reason
    assert answer.formats is None or all(map(parse_format, answer.formats))
    assert str(classes) in answer.logits.reason
    assert str(classes) in answer.accumulator.reason


def test_an_integer_of_another_kind_will_do():
    numpy = pytest.importorskip("numpy")
    assert guideline(numpy.int64(1000)) == guideline(1000)
    assert type(guideline(numpy.int64(1000)).num_classes) is int


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ((1, {}), "num_classes is 1"),
        ((0, {}), "num_classes is 0"),
        ((-5, {}), "num_classes is -5"),
        ((10.0, {}), "num_classes is 10.0"),
        (("10", {}), "num_classes is '10'"),
        ((True, {}), "num_classes is True"),
        ((None, {}), "num_classes is None"),
        ((2**53 + 1, {}), "num_classes is 9007199254740993"),
        ((10, {"family": "int"}), "unknown family 'int'"),
        ((10, {"family": "mx", "block": 0}), "block is 0"),
        ((10, {"family": "mx", "mantissa_bits": 3}), "mantissa_bits with family 'mx'"),
        ((10, {"family": "mx", "loss_scale": 1e-40}), "leave 2^-127 to 2^127"),
        ((10, {"block": 32}), "block with family 'fixed'"),
        ((10, {"sampled": 10}), "sampled is 10"),
        ((10, {"sampled": 0}), "sampled is 0"),
        ((10, {"class_counts": [1, 2]}), "num_classes is 10, class_counts has 2"),
        ((2, {"class_counts": [3, 4], "sampled": 1}), "sampled with class_counts"),
        ((None, {"class_counts": [3, 0]}), "class_counts has 1 classes that occur"),
        ((None, {"class_counts": []}), "class_counts has 0 classes"),
        ((None, {"class_counts": [3, -1]}), "a class count is -1"),
        ((None, {"class_counts": [3, 1.5]}), "a class count is 1.5"),
        ((10, {"random_bits": 8}), "random_bits with rounding nearest"),
        ((10, {"random_bits": 33, "rounding": "stochastic"}), "random_bits is 33"),
        ((10, {"reduction": "none"}), "unknown reduction 'none'"),
        ((10, {"batch": 0}), "batch is 0"),
        ((10, {"loss_scale": 0.0}), "loss_scale is 0.0"),
        ((10, {"loss_scale": math.inf}), "loss_scale is inf"),
        ((10, {"loss_scale": math.nan}), "loss_scale is nan"),
        ((10, {"label_smoothing": 1.0}), "label_smoothing is 1.0"),
        ((10, {"label_smoothing": -0.1}), "label_smoothing is -0.1"),
        ((10, {"amax": 1.5}), "amax is 1.5"),
        ((10, {"amax": 0.01}), "amax is 0.01"),
        ((10, {"scale_exponent": -1}), "the scale 2^-1 clips errors of up to 1"),
        ((10, {"scale_exponent": 0, "amax": 1.0}), "the scale 2^0 clips"),
        ((10, {"mantissa_bits": 3}), "mantissa_bits with family 'fixed'"),
        ((10, {"family": "float", "scale_exponent": 0}), "scale_exponent with family 'float'"),
        ((10, {"family": "float", "amax": 1.0}), "amax with family 'float'"),
        ((10, {"family": "float", "mantissa_bits": 0}), "mantissa_bits is 0"),
        ((10, {"family": "float", "loss_scale": 1e308}), "fit in no format"),
    ],
)
def test_bad_questions(arguments, value):
    classes, options = arguments
    with pytest.raises(GuidelineError) as caught:
        guideline(classes, **options)
    assert value in caught.value.problem
    assert caught.value.operation == "guideline"
    assert caught.value.remedy


def test_an_unknown_rounding():
    with pytest.raises(FormatError, match="unknown rounding 'foo'; use one of nearest"):
        guideline(10, rounding="foo")
