"""The guarantees of the write-backs, as properties over formats and update sizes."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from limprec.formats import (
    DynamicFixedPoint,
    FloatingPoint,
    Precision,
    Rounding,
    parse_precision,
)
from limprec.formats.fixed import FixedPoint
from limprec.kernels import Key
from limprec.kernels.reference import quantize
from limprec.kernels.steps import (
    ULP_DTYPES,
    Flag,
    Rule,
    StepSpec,
    Storage,
    WriteBack,
    exact,
    first_rounding,
)
from limprec.kernels.steps.writeback import join_halves, write_back


def spec_of(
    p0: Tensor, fmt: str, strategy: WriteBack, compensation: str | None, *, strict: bool = False
) -> StepSpec:
    rounding = Rounding.STOCHASTIC if strategy is WriteBack.STOCHASTIC else Rounding.NEAREST
    parameter = Storage(Precision(parse_precision(fmt).format, rounding), p0.dtype)
    carry = None
    if strategy in (WriteBack.KAHAN, WriteBack.LAZY):
        carry = Storage(parse_precision(compensation or fmt), p0.dtype)
    if strategy is WriteBack.MASTER:
        carry = Storage(parse_precision("fp64"), p0.dtype)
    return StepSpec(Rule.ADD, Flag.NONE, (), parameter, strategy, carry, strict)


def run(
    p0: Tensor,
    updates: Tensor,
    fmt: str,
    strategy: WriteBack,
    compensation: str | None = None,
    *,
    strict: bool = False,
    seed: int = 0,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Write updates (steps, n) back one by one; return p, carry and the largest |carry| seen."""
    spec = spec_of(p0, fmt, strategy, compensation, strict=strict)
    p = p0.clone()
    carry = first_rounding(p, p0, spec, Key(seed, 1))
    most = torch.zeros_like(p0) if carry is None else carry.abs()
    for step, update in enumerate(updates, 1):
        write_back(p, update, carry, spec, Key(seed, 0, step), Key(seed, 1, step))
        if carry is not None:
            most = torch.maximum(most, carry.abs())
    return p, carry, most


def ulp(precision: Precision, largest: Tensor) -> Tensor:
    """The distance between neighbours of a format at the largest magnitude it had to hold."""
    fmt = precision.format
    exponent = torch.frexp(largest).exponent.double()
    if isinstance(fmt, FloatingPoint):
        return 2.0 ** (exponent - 1).clamp(min=fmt.min_exponent) * fmt.epsilon
    if isinstance(fmt, DynamicFixedPoint):
        return 2.0 ** (exponent.max() - fmt.bits + 1) * torch.ones_like(largest)
    assert isinstance(fmt, FixedPoint)
    return torch.full_like(largest, fmt.lsb)


FORMATS = ["bf16", "fp16", "e5m2", "e4m3", "e8m3", "fx8.6", "fx16.12", "dfx8", "dfx6", "dfx12"]


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("fmt", FORMATS)
@settings(max_examples=15, deadline=None)
@given(
    size=st.floats(-14, -3),
    steps=st.integers(1, 25),
    seed=st.integers(0, 2**32 - 1),
)
def test_kahan_is_off_by_at_most_its_compensations_rounding(
    fmt: str, rounding: str, size: float, steps: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    p0 = torch.rand(16, generator=generator, dtype=torch.float64) - 0.5
    updates = 2.0**size * torch.randn(steps, 16, generator=generator, dtype=torch.float64)
    updates = updates.clamp(-0.25 / steps, 0.25 / steps)  # stay inside every range: no saturation
    p, c, most = run(p0, updates, fmt, WriteBack.KAHAN, f"{fmt}:{rounding}", seed=seed)
    assert c is not None
    off = (p + c - p0 - updates.sum(0)).abs()
    precision = parse_precision(fmt)
    # Half an ulp a rounding, one more rounding at the start; a whole ulp where it is stochastic;
    # twice that in dynamic fixed point, which lacks the code of half an ulp of p.
    ulps = (1 if rounding == "stochastic" else 0.5) * (
        1 + isinstance(precision.format, DynamicFixedPoint)
    )
    bound = (steps + 1) * ulps * ulp(precision, most)
    assert (off <= bound * (1 + 1e-9)).all(), (off / bound).max()


@pytest.mark.parametrize(
    ("u", "strategy", "compensation", "strict", "sum_"),
    [
        (1e-4, "kahan", "bf16", False, 0.1028),
        (1e-5, "kahan", "bf16", False, 0.1114),
        (5e-6, "kahan", "bf16", False, 0.0020),
        (1e-5, "kahan", "bf16", True, 0.0039),
        (1e-5, "nearest", "bf16", False, 0.0),
    ],
)
def test_bf16_from_one_to_one_point_one(
    u: float, strategy: str, compensation: str, strict: bool, sum_: float
) -> None:
    """DESIGN's numbers: drift at 1e-5, a stall under half an ulp of the compensation."""
    steps = round(0.1 / u)
    p0 = torch.ones(1)
    updates = torch.full((1, 1), u).expand(steps, 1)
    p, c, _ = run(p0, updates, "bf16", WriteBack(strategy), compensation, strict=strict)
    total = p.double() - 1 + (0 if c is None else c.double())
    assert float(total) == pytest.approx(sum_, abs=5e-5)


@pytest.mark.parametrize("u", [1e-4, 1e-5, 5e-6])
def test_a_stochastic_compensation_does_not_drift(u: float) -> None:
    steps = round(0.1 / u)
    updates = torch.full((1, 64), u).expand(steps, 64)
    p, c, _ = run(torch.ones(64), updates, "bf16", WriteBack.KAHAN, "bf16:stochastic")
    assert c is not None
    total = (p.double() - 1 + c.double()).mean()
    assert float(total) == pytest.approx(0.1, abs=2e-4)


@pytest.mark.parametrize("fmt", ["bf16", "fp16", "e8m3"])
def test_the_threshold_of_a_nearest_compensation(fmt: str) -> None:
    """From p = 1, updates under half an ulp of the largest c stall, larger ones arrive.

    c stays under half an ulp of p, 2^-(m+1); just below it half an ulp of c is 2^-(2m+3): for
    bf16 (m = 7) updates under 2^-17 stall.
    """
    m = parse_precision(fmt).format.mantissa_bits  # type: ignore[attr-defined]
    threshold = 2.0 ** -(2 * m + 3)
    for factor, arrives in ((0.9, False), (1.1, True)):
        steps = math.ceil(4 * 2.0**-m / (factor * threshold))  # four ulps of p in all
        updates = torch.full((1, 1), factor * threshold, dtype=torch.float64).expand(steps, 1)
        p, c, _ = run(torch.ones(1, dtype=torch.float64), updates, fmt, WriteBack.KAHAN)
        assert c is not None
        assert (float(p) > 1) == arrives
        assert (float(p + c - 1) > 0.8 * float(updates.sum())) == arrives


@pytest.mark.parametrize("fmt", ["e4m3", "fx8.6", "fx8.6-wrap", "fp16", "e5m2"])
def test_a_saturated_parameter_does_not_wind_up(fmt: str) -> None:
    top = parse_precision(fmt).format.max  # type: ignore[attr-defined]
    p0 = torch.tensor([top], dtype=torch.float64)
    push = torch.full((20, 1), top / 8, dtype=torch.float64)
    p, c, _ = run(p0, push, fmt, WriteBack.KAHAN)
    assert c is not None
    assert float(c) == 0.0
    if fmt in ("e4m3", "fx8.6", "e5m2"):  # saturating: it sits at the top, and comes back at once
        assert float(p) == top
        p, _, _ = run(p, -push[:2], fmt, WriteBack.KAHAN)
        assert float(p) < top


@pytest.mark.parametrize("strategy", [s for s in WriteBack if s is not WriteBack.SPLIT])
def test_nan_propagates(strategy: WriteBack) -> None:
    updates = torch.tensor([[0.1, math.nan]])
    p, _, _ = run(torch.ones(2), updates, "bf16", strategy)
    assert p.isnan().tolist() == [False, True]


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_master_is_the_rounded_image_of_the_exact_sum(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    p0 = torch.randn(8, generator=generator, dtype=torch.float64)
    updates = 1e-3 * torch.randn(20, 8, generator=generator, dtype=torch.float64)
    p, w, _ = run(p0, updates, "bf16", WriteBack.MASTER)
    assert w is not None
    assert torch.allclose(w, p0 + updates.sum(0), rtol=0, atol=1e-14)
    assert torch.equal(p.to(torch.bfloat16).double(), p)
    assert torch.equal(p, w.float().to(torch.bfloat16).double())


def test_stochastic_is_right_on_average_and_nearest_is_not() -> None:
    updates = torch.full((400, 4096), 2.0**-12)  # an eighth of half an ulp of 1 in bf16
    p, _, _ = run(torch.ones(4096), updates, "bf16", WriteBack.STOCHASTIC)
    expected = 400 * 2.0**-12
    assert float((p - 1).mean()) == pytest.approx(expected, rel=0.03)
    p, _, _ = run(torch.ones(4096), updates, "bf16", WriteBack.NEAREST)
    assert float((p - 1).abs().max()) == 0.0


def test_a_stochastic_compensation_is_less_noisy_than_a_stochastic_parameter() -> None:
    """2^8 times in the standard deviation for bf16: the ulp of c is that much finer."""
    updates = torch.full((256, 4096), 2.0**-13)
    p, _, _ = run(torch.ones(4096), updates, "bf16", WriteBack.STOCHASTIC)
    q, c, _ = run(torch.ones(4096), updates, "bf16", WriteBack.KAHAN, "bf16:stochastic")
    assert c is not None
    noise = float((q.double() + c.double()).std())
    assert noise < float(p.double().std()) / 100


@given(seed=st.integers(0, 2**32 - 1), size=st.floats(-40, 40))
@settings(max_examples=30, deadline=None)
def test_split_is_float32_training_in_bfloat16_and_16_bits(seed: int, size: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    whole = 2.0**size * torch.randn(64, generator=generator)
    updates = 2.0 ** (size - 9) * torch.randn(20, 64, generator=generator)
    parameter = Storage(parse_precision("bf16"), torch.bfloat16)
    carry = Storage(parse_precision("bf16"), torch.int16)
    spec = StepSpec(Rule.ADD, Flag.NONE, (), parameter, WriteBack.SPLIT, carry)
    p = torch.empty(64, dtype=torch.bfloat16)
    low = first_rounding(p, whole, spec, None)
    assert low is not None
    for update in updates:
        write_back(p, update, low, spec, None, None)
        whole = whole + update
        assert torch.equal(join_halves(p, low), whole)
        away = (p.float() - whole).abs()
        assert (away <= torch.maximum(p.float().abs(), whole.abs()) * 2.0**-8).all()


def test_split_keeps_specials() -> None:
    parameter = Storage(parse_precision("bf16"), torch.bfloat16)
    carry = Storage(parse_precision("bf16"), torch.int16)
    spec = StepSpec(Rule.ADD, Flag.NONE, (), parameter, WriteBack.SPLIT, carry)
    top = torch.finfo(torch.float32).max
    values = torch.tensor([math.inf, -math.inf, math.nan, -0.0, top, -top, 1e-45])
    p = torch.empty(7, dtype=torch.bfloat16)
    low = first_rounding(p, values, spec, None)
    assert low is not None
    assert torch.equal(join_halves(p, low).nan_to_num(7.0), values.nan_to_num(7.0))
    assert p.isnan().tolist() == [False, False, True, False, False, False, False]
    assert join_halves(p, low)[3].signbit()


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("fmt", ["bf16", "e4m3", "e5m2", "fx8.4"])
@settings(max_examples=15, deadline=None)
@given(size=st.floats(-14, -4), seed=st.integers(0, 2**32 - 1), stochastic=st.booleans())
def test_a_compensation_in_ulps_is_off_by_a_unit_a_step_at_most(
    fmt: str, bits: int, size: float, seed: int, stochastic: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    p = torch.rand(32, generator=generator, dtype=torch.float64) + 0.5
    updates = 2.0**size * torch.randn(20, 32, generator=generator, dtype=torch.float64)
    rounding = ":stochastic16" if stochastic else ""
    spec = StepSpec(
        Rule.ADD,
        Flag.NONE,
        (),
        Storage(parse_precision(fmt), torch.float64),
        WriteBack.KAHAN,
        Storage(parse_precision(fmt + rounding), ULP_DTYPES[bits], ulp_bits=bits),
    )
    total = p + updates.sum(0)
    code = first_rounding(p, p.clone(), spec, Key(seed, 1))
    assert code is not None
    assert code.dtype == ULP_DTYPES[bits]
    for step, update in enumerate(updates, 1):
        write_back(p, update, code, spec, None, Key(seed, 1, step))
    off = (exact(p, code, spec, torch.float64) - total).abs()
    precision = parse_precision(fmt)
    unit = ulp(precision, torch.full((32,), 2.0, dtype=torch.float64)) / 2**bits
    assert (off <= (len(updates) + 1) * unit).all(), (off / unit).max()


def ulps_spec(fmt: str, bits: int, strategy: WriteBack, rounding: str = "nearest") -> StepSpec:
    return StepSpec(
        Rule.ADD,
        Flag.NONE,
        (),
        Storage(parse_precision(fmt), torch.float64),
        strategy,
        Storage(parse_precision(f"{fmt}:{rounding}"), ULP_DTYPES[bits], ulp_bits=bits),
    )


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("fmt", ["e4m3", "e5m2", "e4m3fnuz", "fx8.4", "ufx8.4", "e3m2"])
def test_half_an_ulp_upwards_turns_any_parameter_over(fmt: str, bits: int) -> None:
    """One unit more than the last code: nothing of the sum is lost, whatever stands beside p."""
    p = torch.tensor(parse_precision(fmt).format.values()[:-1], dtype=torch.float64)  # type: ignore[attr-defined]
    spec = ulps_spec(fmt, bits, WriteBack.KAHAN)
    code = torch.full(p.shape, 2 ** (bits - 1) - 1, dtype=ULP_DTYPES[bits])
    unit = exact(p, torch.ones_like(code), spec, torch.float64) - p
    wanted = exact(p, code, spec, torch.float64) + unit
    write_back(p, unit, code, spec, None, None)
    assert torch.equal(exact(p, code, spec, torch.float64), wanted)
    assert (p.diff() >= 0).all()
    again = p.clone()
    write_back(p, torch.zeros_like(p), code, spec, None, None)
    assert torch.equal(p, again)


def test_half_an_ulp_at_the_ends_of_a_format() -> None:
    """Beside the gap of a format without subnormals, and under its largest value, codes clip."""
    fmt = parse_precision("e4m3-nosub").format
    p = torch.tensor([0.0, -0.0, -fmt.smallest, fmt.max], dtype=torch.float64)  # type: ignore[attr-defined]
    spec = ulps_spec("e4m3-nosub", 8, WriteBack.KAHAN)
    code = torch.tensor([127, 127, 127, 0], dtype=torch.int8)
    unit = exact(p, torch.ones_like(code), spec, torch.float64) - p
    before = p.clone()
    write_back(p, unit, code, spec, None, None)
    assert torch.equal(p, before)
    assert code.tolist() == [127, 127, 127, 0]


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("fmt", "compensation", "start", "ulp_of_p"),
    [
        ("bf16", "ulp8", 1.5, 2.0**-7),
        ("bf16", "dfx8", 1.5, 2.0**-7),
        ("e4m3", "ulp8", 1.5, 2.0**-3),
        ("fx8.6", "ulp8", 1.5, 2.0**-6),
        ("dfx8", "dfx8", 1.5, 2.0**-6),
        ("dfx4", "dfx4", 1.0, 2.0**-2),
        ("dfx6b32", "dfx6b32", 1.5, 2.0**-4),
        ("mxint8", "mxint8", 1.5, 2.0**-6),
        ("mxfp8_e4m3", "mxfp8_e4m3", 1.5, 2.0**-3),
    ],
)
def test_updates_under_a_unit_of_the_compensation_arrive(
    fmt: str, compensation: str, start: float, ulp_of_p: float, sign: int
) -> None:
    """No wall: a stochastic compensation lets the sum go on wherever it stands, both ways."""
    p0 = torch.full((256,), start, dtype=torch.float64)
    p0[::32] = 1.9  # keeps the scales
    if compensation == "ulp8":
        spec = ulps_spec(fmt, 8, WriteBack.KAHAN, "stochastic16")
    else:
        spec = spec_of(p0, fmt, WriteBack.KAHAN, f"{compensation}:stochastic16")
    p = p0.clone()
    carry = first_rounding(p, p0, spec, Key(0, 1))
    assert carry is not None
    before = exact(p, carry, spec, torch.float64)
    update = torch.where(p0 == start, sign * ulp_of_p / 512, 0.0)
    for step in range(1024):
        write_back(p, update, carry, spec, None, Key(0, 1, step))
    way = (exact(p, carry, spec, torch.float64) - before)[p0 == start].mean() / ulp_of_p
    assert float(way) == pytest.approx(2 * sign, abs=0.1)


@pytest.mark.parametrize("fmt", ["dfx4", "dfx8", "dfx8b32", "dfx8c0", "mxint8", "mxfp8_e5m2"])
def test_a_compensation_under_a_scale_is_not_clipped(fmt: str) -> None:
    """What lies between the last code and the power of two above it rounds to that, not back."""
    value = torch.rand(64, dtype=torch.float64)
    value[::8] = 1 - 2.0**-10
    spec = spec_of(value, "fx8.-8", WriteBack.KAHAN, fmt)
    p = torch.empty_like(value)
    carry = first_rounding(p, value, spec, None)
    assert carry is not None
    assert not p.any()
    assert (carry[::8] == 1).all()
    plain = quantize(carry, parse_precision(fmt).format, Rounding.NEAREST, None)
    assert torch.equal(plain, carry)  # the values are the format's all the same


def test_lazy_in_ulps_turns_over_at_half_an_ulp_and_forgets() -> None:
    """The tie at an even parameter is half an ulp too, which the buffer could not hold."""
    p = torch.ones(1, dtype=torch.float64)
    spec = ulps_spec("bf16", 8, WriteBack.LAZY)
    code = torch.zeros(1, dtype=torch.int8)
    moves = []
    for step in range(1, 25):
        write_back(p, torch.full_like(p, 2.0**-11), code, spec, None, None)
        if float(p) != 1 + len(moves) * 2.0**-7:
            moves.append(step)
            assert int(code) == 0
    assert moves == [8, 16, 24]


def test_a_compensation_in_ulps_has_no_threshold_near_zero() -> None:
    """e4m3 starts at 2^-9: there a compensation in e4m3 is blind, one in ulps is not."""
    u, steps = 2.0**-16, 1024
    found = {}
    for name in ("e4m3", "ulp8"):
        storage = Storage(parse_precision("e4m3"), torch.float32)
        if name == "ulp8":
            storage = Storage(parse_precision("e4m3"), torch.int8, ulp_bits=8)
        parameter = Storage(parse_precision("e4m3"), torch.float32)
        spec = StepSpec(Rule.ADD, Flag.NONE, (), parameter, WriteBack.KAHAN, storage)
        p = torch.zeros(1)
        carry = first_rounding(p, torch.zeros(1), spec, None)
        for _ in range(steps):
            write_back(p, torch.full((1,), u), carry, spec, None, None)
        found[name] = float(p)
    assert found == {"e4m3": 0.0, "ulp8": u * steps}


def test_lazy_collects_until_the_parameter_moves_and_then_forgets() -> None:
    """From 1 in bf16 an ulp is 2^-7: the buffer empties when it passes half of it."""
    updates = torch.full((40, 1), 2.0**-11)
    spec = spec_of(torch.ones(1), "bf16", WriteBack.LAZY, "fp32")
    p, pending = torch.ones(1), torch.zeros(1)
    moves = []
    for step, update in enumerate(updates, 1):
        before = float(p)
        write_back(p, update, pending, spec, None, None)
        if float(p) != before:
            moves.append(step)
            assert float(pending) == 0
            assert float(p) == before + 2.0**-7
    # 8 updates are half an ulp, a tie to even; an odd neighbour below makes the tie go up.
    assert moves == [9, 17, 26, 34]
    p, pending, _ = run(torch.full((1,), 448.0), torch.full((20, 1), 8.0), "e4m3", WriteBack.LAZY)
    assert pending is not None
    assert float(pending) == 0  # at the end of the range nothing winds up


def test_roundings_by_name() -> None:
    assert parse_precision("bf16:stochastic").rounding is Rounding.STOCHASTIC
