"""Formats with shared scales: the reference against the oracle, and the oracle against others."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import limprec as lp
from limprec.errors import FormatError, KernelError
from limprec.formats import MX_ELEMENTS, NAMED_FORMATS, Rounding, ScaledFormat, parse_format
from limprec.formats.oracle_arrays import round_array_exact
from limprec.kernels import Backend, Key, random_words, reference

REFERENCE = Backend.REFERENCE
SCALED = [
    *("dfx8", "dfx8c0", "dfx6c-1", "dfx4c1", "dfx8b4", "dfx4b3a0", "dfx16b5a-2"),
    *(f"{name}b4" for name in MX_ELEMENTS),
    *("mxfp8_e4m3", "mxint8b3a0", "mxfp4_e2m1b2a1"),
    *("nvfp4", "nvfp4b4", "nvfp4b3a0"),
    *("de4m3", "de5m2"),
    *("int8", "int8s", "int8m", "int4c0", "int4sc1", "int4mc-1", "int8b4", "int3sb3a0", "int16"),
]

exponents = st.sampled_from([-149, -140, -128, -120, -20, 0, 3, 100, 110])


@st.composite
def tensors(draw, least: int = 2) -> torch.Tensor:
    """Draw float32 tensors whose elements are near each other, far apart, zero or repeated."""
    shape = draw(st.lists(st.integers(1, 7), min_size=least, max_size=3))
    count = math.prod(shape)
    near = draw(exponents)
    exponent = st.one_of(st.just(near), st.integers(near - 12, near + 12))
    element = st.one_of(
        st.just(0.0),
        st.just(-0.0),
        st.builds(lambda m, e: math.ldexp(m, e), st.integers(-(2**24), 2**24), exponent),
        st.builds(lambda m, e: math.ldexp(m, e), st.integers(-20, 20), exponent),
    )
    values = draw(st.lists(element, min_size=count, max_size=count))
    x = torch.tensor(values, dtype=torch.float64).to(torch.float32).view(shape)
    return torch.where(x.isfinite(), x, 1.0)


def bits(x: torch.Tensor) -> list[int]:
    return torch.where(x.isnan(), torch.nan, x).view(torch.int32).flatten().tolist()


def judge(x: torch.Tensor, name: str, rounding: Rounding, seed: int = 0) -> torch.Tensor:
    """Check the reference against the oracle, and return what it made of ``x``."""
    words = random_words(Key(seed), x.numel()).tolist()
    expected = round_array_exact(
        x.flatten().tolist(), tuple(x.shape), parse_format(name), rounding, words
    )
    y = lp.quantize(x, name, rounding, seed=seed, backend=REFERENCE)
    assert bits(y) == bits(torch.tensor(expected, dtype=torch.float32)), (x, y, expected)
    return y


@pytest.mark.parametrize("name", SCALED)
@pytest.mark.parametrize("rounding", list(Rounding))
@settings(max_examples=25, deadline=None)
@given(x=tensors(), seed=st.integers(0, 2**64 - 1))
def test_the_reference_equals_the_oracle(name, rounding, x, seed):
    judge(x, name, rounding, seed)


@pytest.mark.parametrize("name", [n for n in SCALED if n.startswith(("dfx", "mx"))])
@pytest.mark.parametrize("rounding", [r for r in Rounding if r is not Rounding.STOCHASTIC])
@settings(max_examples=15, deadline=None)
@given(x=tensors())
def test_powers_of_two_as_scales_are_idempotent(name, rounding, x):
    y = lp.quantize(x, name, rounding, backend=REFERENCE)
    assert bits(lp.quantize(y, name, rounding, backend=REFERENCE)) == bits(y)


@pytest.mark.parametrize("name", [*SCALED, "dfx8b1"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_bad_element_takes_its_group_and_no_other(name, bad):
    fmt = parse_format(name)
    assert isinstance(fmt, ScaledFormat)
    x = torch.arange(1.0, 61.0).view(6, 10)
    x[2, 3] = bad
    y = judge(x, name, Rounding.NEAREST)
    whole = fmt.per_tensor or name.startswith("nvfp4")
    assert y[2, 3].isnan()
    assert bool(y.isnan().all()) == whole
    if not whole and fmt.block is None:
        row = y.movedim(fmt.axis, 0)[2 if fmt.axis == 0 else 3]
        assert row.isnan().all()
        assert y.isnan().sum() == row.numel()


@pytest.mark.parametrize("name", SCALED)
def test_empty_tensors_and_tensors_without_axes(name):
    for shape in [(0, 3), (3, 0), (0,) * 2]:
        y = lp.quantize(torch.empty(shape), name, "stochastic", seed=0, backend=REFERENCE)
        assert y.shape == shape
    fmt = parse_format(name)
    assert isinstance(fmt, ScaledFormat)
    scalar = torch.tensor(1.25)
    if fmt.axis is None or (fmt.block is not None and fmt.axis in (0, -1)):
        assert judge(scalar, name, Rounding.NEAREST).shape == ()


@pytest.mark.parametrize("name", ["dfx8c2", "dfx8c-3", "dfx8b4a2", "mxint8a2", "int8c5"])
def test_an_axis_that_is_not_there(name):
    with pytest.raises(KernelError, match=rf"{name} needs axis .*shape \(2, 3\); choose an axis"):
        lp.quantize(torch.ones(2, 3), name, backend=REFERENCE)


def test_channels_and_blocks_by_hand():
    x = torch.tensor([[1.0, 0.3, 0.01], [8.0, 0.3, 0.01]])
    # 4 bits: LSB 2^-2 under amax in [1, 2), 2 under amax in [8, 16)
    assert lp.quantize(x, "dfx4c0", backend=REFERENCE).tolist() == [[1.0, 0.25, 0.0], [8.0, 0, 0]]
    assert lp.quantize(x, "dfx4b2", backend=REFERENCE).tolist() == [
        [1.0, 0.25, 0.009765625],
        [8.0, 0.0, 0.009765625],
    ]
    assert torch.equal(
        lp.quantize(x, "dfx4c1", backend=REFERENCE),
        lp.quantize(x.t(), "dfx4c0", backend=REFERENCE).t(),
    )


def test_blocks_end_with_the_row():
    x = torch.tensor([[64.0, 1.0, 1.0], [1.0, 1.0, 1.0]])
    y = lp.quantize(x, "dfx2b2", backend=REFERENCE)  # one bit of magnitude
    assert y.tolist() == [[64.0, 0.0, 1.0], [1.0, 1.0, 1.0]]


def test_mx_scales_stop_at_the_ends_of_e8m0():
    tiny = torch.tensor([2.0**-140, 2.0**-149])
    assert lp.quantize(tiny, "mxfp4_e2m1", backend=REFERENCE).tolist() == [0.0, 0.0]
    huge = torch.tensor([2.0**200, 1.0], dtype=torch.float64)
    assert lp.quantize(huge, "mxfp4_e2m1", backend=REFERENCE).tolist() == [6 * 2.0**127, 0.0]


def test_nvfp4_by_hand():
    x = torch.zeros(2, 16)
    x[0, :3] = torch.tensor([2688.0, 448.0, -300.0])
    x[1, :3] = torch.tensor([6.0, 1.0, -0.2])
    y = lp.quantize(x, "nvfp4", backend=REFERENCE)  # tensor scale 1, block scales 448 and 1
    assert y[0, :3].tolist() == [2688.0, 448.0, -224.0]
    assert y[1, :3].tolist() == [6.0, 1.0, -0.0]
    assert y[1, 2].signbit()


def test_affine_by_hand():
    x = torch.tensor([-1.0, 0.0, 0.6, 2.0])
    # scale 3/15, zero point -8 + 5 = -3: codes -8, -3, 0, 7
    step = torch.tensor(3.0) / 15
    expected = (torch.tensor([-8.0, -3, 0, 7]) + 3) * step
    assert torch.equal(lp.quantize(x, "int4", backend=REFERENCE), expected)
    x = torch.tensor([-3.5, 0.0, 2.2, 7.0])  # -3.5 is a tie, to the even code
    assert lp.quantize(x, "int4s", backend=REFERENCE).tolist() == [-4.0, 0.0, 2.0, 7.0]
    x = torch.tensor([5.0, 5.0 + 15 / 16, 5.3, 5.6])  # steps of a sixteenth from 5
    y = lp.quantize(x, "int4m", backend=REFERENCE)
    assert y.tolist() == [5.0, 5.9375, 5.3125, 5.625]


@given(x=tensors())
@settings(deadline=None)
def test_affine_with_an_integer_zero_point_keeps_zero(x):
    x = x.clamp(-(2.0**126), 2.0**126)  # hi - lo must not overflow
    y = lp.quantize(x, "int8", backend=REFERENCE)
    assert (y[x == 0] == 0).all()


def test_a_range_beyond_float32_has_no_scale():
    x = torch.tensor([[-3e38, 3e38, 1.0], [1.0, 2.0, 3.0]])
    y = judge(x, "int8c0", Rounding.NEAREST)
    assert y.isnan().tolist() == [[True] * 3, [False] * 3]
    assert lp.quantize(torch.tensor([3.4e38, -1e30]), "int8", backend=REFERENCE).isfinite().all()


@pytest.mark.parametrize("zero", ["int8m", "int8"])
def test_a_constant_tensor_keeps_its_value_from_minimum_to_maximum(zero):
    x = torch.full((3, 5), 0.7)
    y = lp.quantize(x, zero, backend=REFERENCE)
    assert torch.equal(y, x) or zero == "int8"
    assert torch.allclose(y, x, rtol=2e-7)


@pytest.mark.parametrize("name", ["dfx8", "dfx8c0", "dfx8b4", "mxfp8_e4m3", "int8s", "nvfp4"])
def test_a_given_amax_sets_the_scale_and_the_rest_saturates(name):
    fmt = parse_format(name)
    x = torch.tensor([[0.5, -1.0, 3.0, math.inf], [0.1, 100.0, -math.inf, 0.0]])
    y = reference.quantize(x, fmt, Rounding.NEAREST, None, amax=1.0)
    limit = {"dfx8": 127 / 64, "mxfp8_e4m3": 448 / 256, "int8s": 1.0, "nvfp4": 1.0}
    top = torch.tensor(limit.get(name, 127 / 64))
    beyond = x.abs() >= 2
    assert torch.equal(y[beyond], torch.copysign(top, x[beyond]))
    assert not y.isnan().any()
    same = reference.quantize(x[:, :2].clamp(-1, 1), fmt, Rounding.NEAREST, None, amax=1.0)
    if not name.startswith("nvfp4"):  # its block scales follow the elements
        assert torch.equal(same[0], y[0, :2])
    zeros = reference.quantize(torch.tensor([[1.0, 0.0]]), fmt, Rounding.NEAREST, None, amax=0.0)
    assert (zeros.abs() < 2.0**-100).all()


@given(x=tensors(), seed=st.integers(0, 2**32))
@settings(deadline=None, max_examples=30)
@pytest.mark.parametrize("name", ["dfx8", "dfx8c0", "dfx8b4", "mxfp6_e3m2b4", "int8sc1", "nvfp4b4"])
def test_the_amax_at_hand_given_changes_nothing(name, x, seed):
    fmt = parse_format(name)
    assert isinstance(fmt, ScaledFormat)
    top = x.abs().amax() if name.startswith("nvfp4") else reference.amax(x, fmt)
    y = reference.quantize(x, fmt, Rounding.STOCHASTIC, Key(seed), amax=top)
    assert bits(y) == bits(reference.quantize(x, fmt, Rounding.STOCHASTIC, Key(seed)))


def test_an_amax_that_does_not_fit():
    x = torch.ones(2, 3)
    for name, message in [
        ("dfx8c0", r"amax has shape \(3,\), the groups of dfx8c0 have \(2,\); give one number"),
        ("nvfp4", r"amax has shape \(3,\), the groups of nvfp4 have \(\)"),
        (
            "int8",
            "int8 takes its scale from minimum and maximum, not amax; use the symmetric int8s",
        ),
        ("e4m3", "amax with e4m3, which has no scale; leave amax out"),
    ]:
        with pytest.raises(KernelError, match=message):
            reference.quantize(x, parse_format(name), Rounding.NEAREST, None, amax=torch.ones(3))


@pytest.mark.parametrize("name", ["dfx8b4", "mxfp8_e5m2", "mxint8b4", "mxfp4_e2m1"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_carriers_agree(name, dtype):
    x = torch.randn(5, 40, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16).to(dtype)
    y = lp.quantize(x, name, backend=REFERENCE)
    assert y.dtype == dtype
    assert torch.equal(y.double(), lp.quantize(x.double(), name, backend=REFERENCE))


@pytest.mark.parametrize("name", ["nvfp4", "int8", "int8s", "posit16"])
def test_narrow_carriers_are_refused(name):
    with pytest.raises(FormatError, match=r"significant bits.*use a float32 carrier"):
        lp.quantize(torch.ones(3, dtype=torch.bfloat16), name, backend=REFERENCE)


def test_every_scaled_format_with_a_name_is_judged():
    named = {str(f) for f in NAMED_FORMATS.values() if isinstance(f, ScaledFormat)}
    judged = {name.removesuffix("b4") for name in SCALED}
    assert named - {"int4"} <= judged
