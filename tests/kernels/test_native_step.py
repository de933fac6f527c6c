"""The native steps against the reference: the same bits for every rule, memory and write-back."""

import copy
import math
import struct
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from limprec.errors import KernelError
from limprec.formats import Precision, Rounding, parse_format, parse_precision
from limprec.kernels import Backend, native
from limprec.kernels.native import Simd, SlowBackendWarning, steps
from limprec.kernels.steps import (
    BLOCK_DTYPES,
    SECOND_MOMENTS,
    ULP_DTYPES,
    Flag,
    Rule,
    Slots,
    StepKey,
    StepSpec,
    Storage,
    WriteBack,
    exact,
    first_rounding,
    reference,
    states,
    step,
)
from limprec.kernels.steps.memory import write
from limprec.kernels.steps.rules import SCALARS

built = pytest.mark.skipif(native.missing() is not None, reason=f"{native.missing()}")

LEVELS = [Simd(level) for level in range(1, native.best_simd() + 1)]
FORMATS = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.float8_e4m3fn: "e4m3",
    torch.float8_e5m2: "e5m2",
}
DTYPES = list(FORMATS)
SIMULATED = ["e4m3", "e5m2", "fx8.4", "fx16.12", "bf16", "fp32-sat", "e8m3b130", "e4m3-ovf"]
SIMULATED += ["e8m7-nosub", "fx8.4-wrap", "e5m2fnuz", "e3m7"]
ROUNDINGS = ["nearest", "stochastic", "stochastic16", "stochastic8", "stochastic1", "stochastic17"]
ROUNDINGS += ["nearest_away", "toward_zero"]
KINDS = [
    (Rule.SGD, Flag.NONE),
    (Rule.SGD, Flag.MOMENTUM),
    (Rule.SGD, Flag.MOMENTUM | Flag.NESTEROV),
    (Rule.ADAM, Flag.NONE),
    (Rule.ADAM, Flag.AMSGRAD),
    (Rule.LION, Flag.NONE),
    (Rule.RMSPROP, Flag.NONE),
    (Rule.RMSPROP, Flag.CENTERED),
    (Rule.RMSPROP, Flag.MOMENTUM),
    (Rule.RMSPROP, Flag.CENTERED | Flag.MOMENTUM),
    (Rule.ADD, Flag.NONE),
    (Rule.AVERAGE, Flag.NONE),
]
NUMBERS = {
    "step": -0.01,
    "decay": 0.1,
    "momentum": 0.9,
    "gain": 0.3,
    "beta1": 0.9,
    "gain1": 0.1,
    "beta2": 0.99,
    "gain2": 0.01,
    "correction": 1.7,
    "eps": 1e-8,
    "alpha": 0.99,
}
SPECIAL = [0.0, -0.0, math.inf, -math.inf, math.nan, 3e38, -3e38, 1e-40, -1e-45, 448, 465, 65520]
SIZES = [0, 1, 31, 32, 33, 257, 515, 1000, 9001]
OFFSETS = [0, 0, 128, 77, 2**34 - 200, 2**35 - 256]


def own(dtype: torch.dtype, rounding: str = "nearest") -> Storage:
    return Storage(parse_precision(f"{FORMATS[dtype]}:{rounding}"), dtype)


def in_blocks(element: str, rounding: str, *, above_zero: bool) -> Storage:
    precision = parse_precision(f"mxfp8_{element}:{rounding}")
    return Storage(precision, BLOCK_DTYPES[element], above_zero=above_zero)


def in_ulps(parameter: Storage, bits: int, rounding: str) -> Storage:
    how = parse_precision(f"bf16:{rounding}")
    precision = Precision(parameter.format, how.rounding, how.random_bits)
    return Storage(precision, ULP_DTYPES[bits], ulp_bits=bits)


def values(count: int, seed: int) -> Tensor:
    """Random numbers over many binades, with some special ones among them."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, generator=generator)
    x *= torch.exp2(torch.randint(-30, 5, (count,), generator=generator).float())
    if count:
        places = torch.randint(0, count, (min(count // 4, len(SPECIAL)),), generator=generator)
        x[places] = torch.tensor(SPECIAL[: len(places)])
    return x


def numbers(rule: Rule) -> list[float]:
    return [NUMBERS[name] for name in SCALARS[rule]]


def make(spec: StepSpec, p: Tensor, grad: Tensor, key: StepKey) -> Slots:
    """Give a parameter everything that its steps keep, as if there had been steps before."""
    p = p.clone()
    carry = first_rounding(p, p.float(), spec, key.at(1))
    kept: list[Tensor] = []
    scales: list[Tensor | None] = []
    for place, (name, storage) in enumerate(
        zip(states(spec.rule, spec.flags), spec.states, strict=True)
    ):
        value = values(p.numel(), 100 + place).view(p.shape).nan_to_num(0.5, 2.0, -2.0) * 0.1
        kept.append(torch.zeros_like(p, dtype=storage.dtype))
        blocks = torch.zeros(-(-p.numel() // 32), dtype=torch.uint8)
        scales.append(blocks if storage.in_blocks else None)
        value = value.abs() if name in SECOND_MOMENTS else value
        write(kept[-1], scales[-1], value, storage, key.at(2 + place))
    return Slots(p, grad, carry, tuple(kept), tuple(scales))


def clone(slots: Slots) -> Slots:
    def fresh(x: Tensor | None) -> Tensor | None:
        return None if x is None else x.clone()

    p, grad, carry, kept, scales = slots
    own_states = tuple(state.clone() for state in kept)
    return Slots(p.clone(), grad, fresh(carry), own_states, tuple(map(fresh, scales)))


def written(slots: Slots) -> list[tuple[str, Tensor]]:
    named = [("p", slots.p), ("carry", slots.carry)]
    named += [(f"state {i}", x) for i, x in enumerate(slots.states)]
    named += [(f"scale {i}", x) for i, x in enumerate(slots.scales)]
    return [(name, x) for name, x in named if x is not None]


def assert_same(got: Slots, expected: Slots, before: Slots, what: object) -> None:
    """Same bits; any NaN equals any other."""
    for (name, a), (_, b) in zip(written(got), written(expected), strict=True):
        x, y = a.double(), b.double()
        same = (x == y) & (x.signbit() == y.signbit()) | (x.isnan() & y.isnan())
        if not same.all():
            i = int((~same).flatten().nonzero()[0])
            p, g, x, y = (t.flatten()[i].item() for t in (before.p.float(), before.grad, x, y))
            wrong = int((~same).sum())
            pytest.fail(f"{what}: {name} {x!r}, not {y!r}, at {i}, p {p}, g {g}; {wrong} wrong")


def check(
    spec: StepSpec,
    p: Tensor,
    grad: Tensor,
    key: StepKey,
    levels: list[Simd] = LEVELS,
    count: int = 2,
) -> None:
    """Do a few steps by the reference and by every level."""
    before = make(spec, p, grad, key)
    keys = [key._replace(step=key.step + i) for i in range(count)]
    expected = clone(before)
    for now in keys:
        reference.step(spec, expected, numbers(spec.rule), now)
    for level in levels:
        got = clone(before)
        for now in keys:
            steps.step(spec, [got], numbers(spec.rule), [now], level)
        assert_same(got, expected, before, (level.name, spec))


@st.composite
def specs(draw: st.DrawFn) -> tuple[StepSpec, torch.dtype]:
    """Return any spec that the native steps take, and the dtype of the gradient."""

    def one_of(choices: list) -> object:
        return draw(st.sampled_from(choices))

    rounding = st.sampled_from(ROUNDINGS)
    rule, flags = one_of(KINDS)
    if "decay" in SCALARS[rule]:
        flags |= one_of([Flag.NONE, Flag.DECAY, Flag.DECOUPLED])
    flags |= one_of([Flag.NONE, Flag.MAXIMIZE])
    kept = []
    for name in states(rule, flags):
        if draw(st.integers(0, 3)) == 0:
            element = one_of(["e4m3", "e5m2"])
            kept.append(in_blocks(element, draw(rounding), above_zero=name in SECOND_MOMENTS))
        else:
            kept.append(own(one_of(DTYPES), draw(rounding)))
    strategy = one_of(list(WriteBack))
    dtype = torch.bfloat16 if strategy is WriteBack.SPLIT else one_of(DTYPES)
    fmt = FORMATS[dtype]
    if dtype == torch.float32 and draw(st.booleans()):
        fmt = one_of(SIMULATED)
    how = draw(rounding) if strategy is WriteBack.STOCHASTIC else "nearest"
    parameter = Storage(parse_precision(f"{fmt}:{how}"), dtype)
    carry, strict = None, False
    if strategy in (WriteBack.KAHAN, WriteBack.LAZY):
        bits = one_of([0, 0, 8, 16])
        if bits:
            carry = in_ulps(parameter, bits, draw(rounding))
        else:
            carry, strict = own(one_of(DTYPES), draw(rounding)), draw(st.booleans())
    elif strategy is WriteBack.MASTER:
        carry = own(torch.float32)
    elif strategy is WriteBack.SPLIT:
        carry = Storage(Precision(parse_format("bf16")), torch.int16)
    spec = StepSpec(rule, flags, tuple(kept), parameter, strategy, carry, strict)
    return spec, one_of(DTYPES)


@built
@settings(max_examples=150)
@given(
    specs(),
    st.sampled_from(SIZES),
    st.sampled_from(OFFSETS),
    st.integers(0, 2**32 - 1),
)
def test_the_bits_of_the_reference(
    chosen: tuple[StepSpec, torch.dtype], size: int, offset: int, seed: int
) -> None:
    spec, grad = chosen
    p, g = values(size, seed).to(spec.parameter.dtype), values(size, seed + 1).to(grad)
    check(spec, p, g, StepKey(seed, 2**31 + 8, 5, offset))


def usual(
    strategy: WriteBack,
    rule: Rule = Rule.SGD,
    flags: Flag = Flag.MOMENTUM,
    dtype: torch.dtype = torch.bfloat16,
    state: str = "stochastic16",
    carry: str = "nearest",
) -> StepSpec:
    """Return a spec as the optimizers make it by default: one dtype throughout."""
    beside = {
        WriteBack.KAHAN: own(dtype, carry),
        WriteBack.LAZY: own(dtype, carry),
        WriteBack.MASTER: own(torch.float32),
        WriteBack.SPLIT: Storage(Precision(parse_format("bf16")), torch.int16),
    }.get(strategy)
    how = "stochastic16" if strategy is WriteBack.STOCHASTIC else "nearest"
    kept = tuple(own(dtype, state) for _ in states(rule, flags))
    return StepSpec(rule, flags, kept, own(dtype, how), strategy, beside)


@built
@pytest.mark.parametrize("offset", [0, 256, 96, 2**35 - 512])
@pytest.mark.parametrize("rounding", ["nearest", "stochastic16"])
@pytest.mark.parametrize("strategy", list(WriteBack))
@pytest.mark.parametrize(
    ("rule", "flags"),
    [
        (Rule.SGD, Flag.DECAY),
        (Rule.SGD, Flag.MOMENTUM | Flag.NESTEROV | Flag.MAXIMIZE),
        (Rule.ADAM, Flag.DECOUPLED),
        (Rule.LION, Flag.DECOUPLED),
        (Rule.RMSPROP, Flag.NONE),
    ],
)
def test_pure_bfloat16(
    rule: Rule, flags: Flag, strategy: WriteBack, rounding: str, offset: int
) -> None:
    """The steps that run in one pass, with a rest that fills no whole group."""
    spec = usual(strategy, rule, flags, state=rounding, carry=rounding)
    p, g = values(1100, 1).bfloat16(), values(1100, 2).bfloat16()
    check(spec, p, g, StepKey(3, 2**31 + 8, 5, offset), count=1)


@built
@pytest.mark.parametrize(("rule", "flags"), KINDS)
def test_pure_float32(rule: Rule, flags: Flag) -> None:
    spec = usual(WriteBack.NEAREST, rule, flags, torch.float32, state="nearest")
    check(spec, values(1100, 1), values(1100, 2), StepKey(0, 0, 0), count=1)


@built
def test_every_bfloat16_parameter_and_carry_in_ulps() -> None:
    p = torch.arange(-(2**15), 2**15).to(torch.int16).view(torch.bfloat16)
    g = values(p.numel(), 3).bfloat16()
    for bits in ULP_DTYPES:
        spec = usual(WriteBack.KAHAN, Rule.ADD, Flag.NONE)
        spec = replace(spec, carry=in_ulps(spec.parameter, bits, "stochastic16"))
        check(spec, p, g, StepKey(1, 0, 1), LEVELS[-1:], count=1)


@built
@pytest.mark.parametrize("fmt", ["bf16", "e4m3", "e5m2", "fx8.4", "e8m7-nosub", "e4m3-nosub"])
@pytest.mark.parametrize("strategy", [WriteBack.KAHAN, WriteBack.LAZY])
def test_parameters_that_turn_over_at_half_an_ulp(strategy: WriteBack, fmt: str) -> None:
    """Every parameter, its compensation at the last codes, moved by about a unit of them."""
    all_values = parse_format(fmt).values()  # type: ignore[attr-defined]
    p = torch.tensor(all_values).repeat(5)
    for bits in ULP_DTYPES:
        parameter = Storage(parse_precision(fmt), torch.float32)
        spec = StepSpec(Rule.ADD, Flag.NONE, (), parameter, strategy, None)
        spec = replace(spec, carry=in_ulps(parameter, bits, "stochastic16"))
        half = 2 ** (bits - 1)
        code = torch.full(p.shape, half - 1, dtype=ULP_DTYPES[bits])
        code[1::3], code[2::3] = half - 2, -half
        one = torch.ones_like(code)
        unit = exact(p, one, spec, torch.float32) - p
        generator = torch.Generator().manual_seed(bits)
        before = Slots(p, unit * (3 * torch.rand(p.shape, generator=generator) - 0.75), code)
        key = StepKey(3, 2**31 + 8, 5)
        expected = clone(before)
        reference.step(spec, expected, [1.0, 0.0], key)
        turned = expected.p > p
        assert turned.any()
        for level in LEVELS:
            got = clone(before)
            steps.step(spec, [got], [1.0, 0.0], [key], level)
            assert_same(got, expected, before, (level.name, spec))


@built
@pytest.mark.parametrize("rounding", ["nearest", "stochastic16"])
@pytest.mark.parametrize("strategy", [s for s in WriteBack if s is not WriteBack.MASTER])
def test_every_bfloat16_is_kept_or_rounded(strategy: WriteBack, rounding: str) -> None:
    """NaNs of every pattern stay NaN, in whatever tensor they come; a rate that is one too."""
    patterns = torch.arange(-(2**15), 2**15).to(torch.int16)
    generator = torch.Generator().manual_seed(1)

    def shuffled() -> Tensor:
        return patterns[torch.randperm(len(patterns), generator=generator)].view(torch.bfloat16)

    for rule, flags in ((Rule.SGD, Flag.MOMENTUM), (Rule.ADAM, Flag.DECOUPLED)):
        spec = usual(strategy, rule, flags, state=rounding, carry=rounding)
        beside = None if spec.carry is None else shuffled().view(spec.carry.dtype)
        before = Slots(shuffled(), shuffled(), beside, tuple(shuffled() for _ in spec.states))
        strange = struct.unpack("d", b"\xff" * 7 + b"\x7f")[0]  # a NaN of ones
        for step_size in (-0.01, strange):
            scalars = [step_size, *numbers(rule)[1:]]
            expected, key = clone(before), StepKey(3, 2**31 + 8, 5)
            reference.step(spec, expected, scalars, key)
            for level in LEVELS:
                got = clone(before)
                steps.step(spec, [got], scalars, [key], level)
                assert_same(got, expected, before, (level.name, spec))


def many(spec: StepSpec, sizes: list[int]) -> tuple[list[Slots], list[StepKey]]:
    keys = [StepKey(7, 8 * i, 3) for i in range(len(sizes))]
    return [
        make(spec, values(n, n).bfloat16(), values(n, n + 1).bfloat16(), key)
        for n, key in zip(sizes, keys, strict=True)
    ], keys


@built
@pytest.mark.parametrize("rule", [Rule.SGD, Rule.RMSPROP])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_many_parameters_on_any_number_of_threads(rule: Rule, threads: int) -> None:
    spec = usual(WriteBack.KAHAN, rule)
    slots, keys = many(spec, [5, 0, 40000, 1, 8192, 20000, 333])
    expected, got = [*map(clone, slots)], [*map(clone, slots)]
    for one, key in zip(expected, keys, strict=True):
        steps.step(spec, [one], numbers(rule), [key])
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        steps.step(spec, got, numbers(rule), keys)
    finally:
        torch.set_num_threads(before)
    for a, b, c in zip(got, expected, slots, strict=True):
        assert_same(a, b, c, threads)


def prepare(spec: StepSpec, slots: list[Slots], keys: list[StepKey]) -> steps.Prepared:
    return steps.Prepared(spec, slots, [k.stream for k in keys], [k.offset for k in keys])


@built
def test_prepared_steps_are_the_same() -> None:
    """Gradients may change their dtype on the way, and memory its place."""
    spec = usual(WriteBack.KAHAN)
    slots, keys = many(spec, [50, 3000, 7])
    expected, got = [*map(clone, slots)], [*map(clone, slots)]
    prepared = prepare(spec, got, keys)
    for dtype in (torch.bfloat16, torch.float32, torch.bfloat16):
        grads = [slot.grad.to(dtype) for slot in slots]
        for one, key, grad in zip(expected, keys, grads, strict=True):
            steps.step(spec, [one._replace(grad=grad)], numbers(Rule.SGD), [key])
        got[0].p.data = got[0].p.clone()
        prepared.run(grads, numbers(Rule.SGD), keys[0].seed, keys[0].step)
    for a, b, c in zip(got, expected, slots, strict=True):
        assert_same(a, b, c, "prepared")


@built
def test_a_copy_of_what_is_prepared_steps_its_own_tensors() -> None:
    spec = usual(WriteBack.KAHAN)
    slots, keys = many(spec, [50])
    prepared, grads = prepare(spec, slots, keys), [slots[0].grad]
    prepared.run(grads, numbers(Rule.SGD), 0, 1)
    before = clone(slots[0])
    copied, own = copy.deepcopy((prepared, slots))
    copied.run(grads, numbers(Rule.SGD), 0, 2)
    assert_same(slots[0], before, before, "the original")
    prepared.run(grads, numbers(Rule.SGD), 0, 2)
    assert_same(own[0], slots[0], before, "the copy")


@built
def test_what_is_prepared_is_let_go() -> None:
    spec = usual(WriteBack.KAHAN)
    slots, keys = many(spec, [50])
    prepared = prepare(spec, slots, keys)
    prepared.run([slots[0].grad], numbers(Rule.SGD), 0, 1)
    (lineup,) = prepared._lineups.values()
    del prepared
    with pytest.raises(KernelError, match="a lineup that was let go"):
        steps._call("step_lineup", lineup, [slots[0].grad], numbers(Rule.SGD), 0, 1)


@built
@pytest.mark.parametrize("rule", [Rule.SGD, Rule.RMSPROP])
@pytest.mark.parametrize("cut", [64, 256, 1000, 1])
def test_shards_equal_the_whole(rule: Rule, cut: int) -> None:
    spec = usual(WriteBack.KAHAN, rule, carry="stochastic")
    key = StepKey(7, 8, 3)
    whole = make(spec, values(1500, 1).bfloat16(), values(1500, 2).bfloat16(), key)
    parts = [
        Slots(*(x[piece] for x in whole[:3]), tuple(x[piece] for x in whole.states), ())
        for piece in (slice(0, cut), slice(cut, None))
    ]
    parts, before = [*map(clone, parts)], clone(whole)
    steps.step(spec, [whole], numbers(rule), [key])
    steps.step(spec, parts, numbers(rule), [key, key._replace(offset=cut)])
    for (name, x), (_, a), (_, b) in zip(written(whole), *map(written, parts), strict=True):
        y = torch.cat([a, b])
        assert torch.equal(x.nan_to_num(), y.nan_to_num()), name
    assert not torch.equal(before.p.nan_to_num(), whole.p.nan_to_num())


@built
@pytest.mark.parametrize("rounding", ["nearest", "stochastic16"])
@pytest.mark.parametrize("layout", ["channels last", "columns", "gradient", "gaps", "expanded"])
def test_any_layout(layout: str, rounding: str) -> None:
    spec = usual(WriteBack.KAHAN, state=rounding, carry=rounding)
    p, g = (values(24 * 7 * 5, seed).bfloat16().view(4, 6, 7, 5) for seed in (1, 2))
    key = StepKey(3, 8, 2)
    if layout == "channels last":
        p, g = (x.contiguous(memory_format=torch.channels_last) for x in (p, g))
    elif layout == "columns":
        p, g = p.transpose(0, 3), g.transpose(0, 3)
    elif layout == "gradient":
        g = g.contiguous(memory_format=torch.channels_last)
    elif layout == "expanded":
        g = g[:1, :1].expand(p.shape)
    expected, got = (make(spec, p, g, key) for _ in range(2))
    if layout == "gaps":
        got = got._replace(p=torch.stack([got.p, got.p], dim=-1)[..., 0])
    assert (got.p.stride() == p.stride()) == (layout != "gaps")
    before = clone(expected)
    reference.step(spec, expected, numbers(Rule.SGD), key)
    steps.step(spec, [got], numbers(Rule.SGD), [key])
    assert_same(got, expected, before, layout)


@built
def test_the_door_takes_what_the_kernels_do_not() -> None:
    """Groups may mix: each parameter goes where it can, with the bits of the reference."""
    spec = replace(usual(WriteBack.KAHAN), carry=in_ulps(own(torch.bfloat16), 8, "up"))
    key = StepKey(1, 8, 2)
    before = make(spec, values(100, 1).bfloat16(), values(100, 2).bfloat16(), key)
    got, expected = clone(before), clone(before)
    assert not steps.can_step(spec, [got])
    with pytest.raises(KernelError, match=r"no kernel for this sgd step, kahan of bf16"):
        step(spec, [got], numbers(Rule.SGD), [key], backend=Backend.NATIVE)
    step(spec, [got], numbers(Rule.SGD), [key])
    reference.step(spec, expected, numbers(Rule.SGD), key)
    assert_same(got, expected, before, "door")

    spec = usual(WriteBack.KAHAN)
    before = make(spec, before.p, before.grad, key)
    mixed = [before, before._replace(grad=before.grad.double())]
    got_both, expected_both = [*map(clone, mixed)], [*map(clone, mixed)]
    step(spec, got_both, numbers(Rule.SGD), [key, key])
    for a, b in zip(got_both, expected_both, strict=True):
        reference.step(spec, b, numbers(Rule.SGD), key)
        assert_same(a, b, before, "mixed")


def refused() -> dict[str, StepSpec]:
    spec = usual(WriteBack.KAHAN, dtype=torch.float32)
    wide = Storage(parse_precision("fp64"), torch.float64)
    scaled = Storage(parse_precision("dfx8"), torch.float32)
    blocks = Storage(parse_precision("mxfp8_e4m3:up"), torch.float8_e4m3fn)
    return {
        "float64": replace(spec, parameter=wide),
        "scales of whole tensors": replace(spec, parameter=scaled),
        "in a state": replace(spec, states=(scaled,)),
        "blocks upwards": replace(spec, states=(blocks,)),
        "a state too few": replace(spec, states=()),
        "no carry": replace(spec, carry=None),
        "a format that the memory cannot hold": replace(
            spec, states=(Storage(parse_precision("fp32"), torch.bfloat16),)
        ),
    }


@built
@pytest.mark.parametrize("name", refused())
def test_what_is_left_to_the_reference(name: str) -> None:
    p = torch.zeros(4)
    assert not steps.can_step(refused()[name], [Slots(p, p, p, (p,))])


@built
def test_a_wrong_tensor_changes_nothing() -> None:
    spec = usual(WriteBack.KAHAN)
    slots, keys = many(spec, [100, 50])
    before = [*map(clone, slots)]
    slots[1] = slots[1]._replace(carry=slots[1].carry.float())
    with pytest.raises(KernelError, match="a tensor of another dtype or size than the spec says"):
        steps.step(spec, slots, numbers(Rule.SGD), keys)
    assert_same(slots[0], before[0], before[0], "untouched")


@built
def test_autograd_sees_the_parameter_change() -> None:
    spec = usual(WriteBack.NEAREST, Rule.ADD, Flag.NONE)
    p = torch.ones(8, dtype=torch.bfloat16)
    version = p._version
    steps.step(spec, [Slots(p, p.clone())], numbers(Rule.ADD), [StepKey(0, 0, 0)])
    assert p._version > version


def test_without_the_extension_the_reference_steps_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(native, "_MISSING", "not built")
    monkeypatch.setattr(native, "_warned", False)
    spec = usual(WriteBack.NEAREST, Rule.ADD, Flag.NONE)
    p = torch.ones(8, dtype=torch.bfloat16)
    slots, key = Slots(p, torch.ones_like(p)), StepKey(0, 0, 0)
    with pytest.warns(SlowBackendWarning, match="the reference computes"):
        step(spec, [slots], (-0.5, 0.0), [key])
    step(spec, [slots], (-0.5, 0.0), [key])
    assert torch.equal(p, torch.zeros_like(p))
    with pytest.raises(KernelError, match="the extension is missing"):
        step(spec, [slots], (-0.5, 0.0), [key], backend=Backend.NATIVE)


def test_rounding_is_not_confused_with_its_name() -> None:
    """The roundings that these tests name are what they say."""
    assert {parse_precision(f"bf16:{r}").rounding for r in ROUNDINGS} == {
        Rounding.NEAREST,
        Rounding.STOCHASTIC,
        Rounding.NEAREST_AWAY,
        Rounding.TOWARD_ZERO,
    }
