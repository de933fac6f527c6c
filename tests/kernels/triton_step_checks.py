"""The Triton steps against the reference: the same bits. ``test_triton_step`` runs this file, in
the interpreter (TRITON_INTERPRET=1) and on a GPU where there is one."""

import math
import os
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import limprec as lp
from limprec.errors import KernelError
from limprec.formats import Precision, Rounding, parse_format, parse_precision
from limprec.kernels import Backend
from limprec.kernels.reference import quantize
from limprec.kernels.steps import (
    SECOND_MOMENTS,
    STREAMS_PER_PARAMETER,
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
    states,
    step,
)
from limprec.kernels.steps.memory import write
from limprec.kernels.steps.reference import step as reference_step
from limprec.kernels.steps.rules import SCALARS
from limprec.kernels.triton import steps

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
EXAMPLES = 60 if INTERPRETED else 300

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")

F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16
E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
KEPT = [
    *((F32, "fp32"), (BF16, "bf16"), (F16, "fp16"), (E4M3, "e4m3"), (E5M2, "e5m2")),
    *((F32, "tf32"), (F32, "e4m3"), (BF16, "e5m2"), (F16, "e3m2"), (F32, "e8m3"), (F32, "e2m1")),
    *((F32, "fx8.4"), (F32, "fx16.12"), (BF16, "fx8.6"), (F32, "fx8.6-wrap"), (F32, "ufx8.4")),
    *((F32, "e5m2-nosub"), (F32, "e8m3b130"), (BF16, "e4m3ieee"), (E5M2, "e3m2"), (F32, "fx9.140")),
]
"""Memories of parameters, states and compensations, and formats that they hold."""
FLAGS = {
    Rule.SGD: [Flag.DECAY, Flag.MOMENTUM, Flag.MOMENTUM | Flag.NESTEROV],
    Rule.ADAM: [Flag.DECAY, Flag.DECOUPLED, Flag.AMSGRAD],
    Rule.LION: [Flag.DECOUPLED],
    Rule.RMSPROP: [Flag.DECAY, Flag.CENTERED, Flag.MOMENTUM],
    Rule.ADD: [Flag.DECOUPLED],
    Rule.AVERAGE: [],
}
roundings = st.sampled_from(["nearest", "stochastic", *(str(r) for r in Rounding)])
random_bits = st.sampled_from([1, 8, 15, 16, 16, 17, 24, 32])


@st.composite
def storages(draw: st.DrawFn, blocks: bool, second: bool = False) -> Storage:
    rounding = Rounding(draw(roundings))
    bits = {"random_bits": draw(random_bits)} if rounding is Rounding.STOCHASTIC else {}
    if blocks and draw(st.booleans()):
        name, dtype = draw(st.sampled_from([("mxfp8_e4m3", E4M3), ("mxfp8_e5m2", E5M2)]))
        return Storage(
            Precision(parse_format(name), rounding, **bits),
            dtype,
            above_zero=second or draw(st.booleans()),
        )
    dtype, name = draw(st.sampled_from(KEPT))
    return Storage(Precision(parse_format(name), rounding, **bits), dtype)


@st.composite
def specs(draw: st.DrawFn) -> StepSpec:
    rule = draw(st.sampled_from(Rule))
    flags = draw(st.sampled_from([Flag.NONE, Flag.MAXIMIZE]))
    for flag in FLAGS[rule]:
        flags |= draw(st.sampled_from([Flag.NONE, flag]))
    if Flag.DECOUPLED in flags:
        flags &= ~Flag.DECAY
    kept = tuple(
        draw(storages(blocks=True, second=name in SECOND_MOMENTS)) for name in states(rule, flags)
    )
    strategy = draw(st.sampled_from(WriteBack))
    dtype, name = draw(st.sampled_from(KEPT))
    if strategy is WriteBack.SPLIT:
        dtype, name = BF16, "bf16"
    parameter = Storage(parse_precision(name), dtype)
    carry, strict = None, False
    if strategy is WriteBack.STOCHASTIC:
        bits = draw(random_bits)
        parameter = Storage(Precision(parameter.format, Rounding.STOCHASTIC, bits), dtype)
    if strategy is WriteBack.MASTER:
        carry = Storage(parse_precision("fp32"), F32)
    if strategy is WriteBack.SPLIT:
        carry = Storage(parse_precision("bf16"), torch.int16)
    if strategy in (WriteBack.KAHAN, WriteBack.LAZY):
        carry = draw(storages(blocks=False))
        if draw(st.booleans()):
            bits = draw(st.sampled_from([8, 16]))
            precision = replace(carry.precision, format=parameter.format)
            carry = Storage(precision, ULP_DTYPES[bits], ulp_bits=bits)
        else:
            strict = strategy is WriteBack.KAHAN and draw(st.booleans())
    return StepSpec(rule, flags, kept, parameter, strategy, carry, strict)


def values(count: int, seed: int, scale: float, wild: bool) -> Tensor:
    """Return float32 numbers of many sizes, some of them special if ``wild``."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, generator=generator) * scale
    x *= torch.exp2(torch.randint(-12, 4, (count,), generator=generator).float())
    if wild:
        bits = torch.randint(-(2**31), 2**31, (count,), generator=generator).to(torch.int32)
        x = torch.where(torch.rand(count, generator=generator) < 0.3, bits.view(F32), x)
        special = torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan, 1e-45, 3e38, -1e-40])
        chosen = special[torch.randint(8, (count,), generator=generator)]
        x = torch.where(torch.rand(count, generator=generator) < 0.1, chosen, x)
    return x


def make(
    spec: StepSpec, count: int, grad: torch.dtype, seed: int, scale: float, wild: bool
) -> Slots:
    """Return tensors that such a step may find."""
    key = StepKey(seed, 5 * STREAMS_PER_PARAMETER, 1)
    p = torch.zeros(count, dtype=spec.parameter.dtype)
    carry = first_rounding(p, values(count, seed, 1.0, wild), spec, key.at(1))
    if spec.carry is not None and spec.carry.ulp_bits:
        assert carry is not None
        carry.random_(generator=torch.Generator().manual_seed(seed))
    kept, scales = [], []
    for i, storage in enumerate(spec.states):
        x = values(count, seed + i + 1, scale, wild)
        x = x.abs() if storage.above_zero else x
        state = torch.zeros(count, dtype=storage.dtype)
        blocks = torch.zeros(-(-count // 32), dtype=torch.uint8) if storage.in_blocks else None
        write(state, blocks, x, storage, key.at(2 + i))
        kept.append(state)
        scales.append(blocks)
    g = values(count, seed + 9, scale, wild)
    g = (
        quantize(g, parse_format({E4M3: "e4m3", E5M2: "e5m2"}[grad]), Rounding.NEAREST, None)
        if (grad.itemsize == 1)
        else g
    )
    return Slots(p, g.to(grad), carry, tuple(kept), tuple(scales))


def tensors(slots: Slots) -> list[Tensor]:
    every = (slots.p, slots.grad, slots.carry, *slots.states, *slots.scales)
    return [t for t in every if t is not None]


def on_device(slots: Slots) -> Slots:
    def move(t: Tensor | None) -> Tensor | None:
        return None if t is None else t.to(DEVICE, copy=True)

    return Slots(
        slots.p.to(DEVICE, copy=True),
        slots.grad.to(DEVICE, copy=True),
        move(slots.carry),
        tuple(s.to(DEVICE, copy=True) for s in slots.states),
        tuple(move(s) for s in slots.scales),
    )


def assert_same(got: Slots, expected: Slots, what: object) -> None:
    """Same bits; any NaN equals any other."""
    for i, (a, b) in enumerate(zip(tensors(got), tensors(expected), strict=True)):
        a = a.cpu()
        assert a.dtype == b.dtype
        wrong = a.view(-1).view(torch.uint8) != b.view(-1).view(torch.uint8)
        wrong = wrong.view(-1, a.element_size()).any(1)
        if a.dtype.is_floating_point:
            wrong &= ~(a.float().isnan() & b.float().isnan())
        if wrong.any():
            at = int(wrong.nonzero()[0])
            x, y = a.flatten()[at].item(), b.flatten()[at].item()
            pytest.fail(f"{what}: tensor {i}, {x!r} is not {y!r} at {at}; {int(wrong.sum())} wrong")


def check(
    spec: StepSpec, all_slots: Sequence[Slots], scalars: Sequence[float], keys: Sequence[StepKey]
) -> None:
    """Compare with the reference on the CPU."""
    here = [on_device(slots) for slots in all_slots]
    assert steps.can_step(spec, here)
    steps.step(spec, here, scalars, keys)
    for slots, got, key in zip(all_slots, here, keys, strict=True):
        reference_step(spec, slots, scalars, key)
        assert_same(got, slots, (spec, scalars, key))


SOME_SCALARS = [1.0, -1.0, 0.0, 0.9, 0.1, 0.999, 1e-3, -1e-3, 1e-8, -3e-2, 0.5, 1.7, 1e-42]


@pytest.fixture
def narrow_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make programs narrow, so that few elements take many."""
    if INTERPRETED:
        monkeypatch.setattr(steps, "BLOCK", 64)


@pytest.mark.usefixtures("narrow_programs")
@settings(max_examples=EXAMPLES, deadline=None)
@given(
    spec=specs(),
    sizes=st.lists(st.integers(0, 150), min_size=1, max_size=2),
    grad=st.sampled_from([F32, BF16, F16, E4M3, E5M2]),
    seed=st.integers(0, 2**63 - 1),
    small=st.integers(0, 2**20),
    number=st.integers(1, 2**32 - 1),
    stream=st.integers(0, 2**29 - 4),
    offset=st.sampled_from([0, 8, 2**35 - 64, 0, 3, 2**34 - 11]),
    scale=st.sampled_from([1.0, 1e-3, 1e-20, 1e15]),
    wild=st.booleans(),
    data=st.data(),
)
def test_any_step(
    spec: StepSpec,
    sizes: list[int],
    grad: torch.dtype,
    seed: int,
    small: int,
    number: int,
    stream: int,
    offset: int,
    scale: float,
    wild: bool,
    data: st.DataObject,
) -> None:
    scalars = [data.draw(st.sampled_from(SOME_SCALARS)) for _ in SCALARS[spec.rule]]
    slots = [make(spec, n, grad, small + i, scale, wild) for i, n in enumerate(sizes)]
    keys = [StepKey(seed, (stream + i) * 8, number, offset * i) for i in range(len(sizes), 0, -1)]
    check(spec, slots, scalars, keys)


@pytest.mark.parametrize("name", ["e4m3", "e5m2", "fx8.4", "e4m3-nosub"])
@pytest.mark.parametrize("strategy", [WriteBack.KAHAN, WriteBack.LAZY])
def test_parameters_that_turn_over_at_half_an_ulp(strategy: WriteBack, name: str) -> None:
    """Every parameter, its compensation at the last codes, moved by about a unit of them."""
    p = torch.tensor(parse_format(name).values()).repeat(5)  # type: ignore[attr-defined]
    for bits, dtype in ULP_DTYPES.items():
        carry = Storage(parse_precision(f"{name}:stochastic16"), dtype, ulp_bits=bits)
        parameter = Storage(parse_precision(name), F32)
        spec = StepSpec(Rule.ADD, Flag.NONE, (), parameter, strategy, carry)
        half = 2 ** (bits - 1)
        code = torch.full(p.shape, half - 1, dtype=dtype)
        code[1::3], code[2::3] = half - 2, -half
        unit = exact(p, torch.ones_like(code), spec, F32) - p
        generator = torch.Generator().manual_seed(bits)
        update = unit * (3 * torch.rand(p.shape, generator=generator) - 0.75)
        slots, before = Slots(p.clone(), update, code), p.clone()
        check(spec, [slots], (1.0, 0.0), [StepKey(3, 8, 5)])
        assert (slots.p > before).any()


PLAIN = Storage(parse_precision("bf16"), BF16)
SOFT = Storage(parse_precision("bf16:stochastic16"), BF16)
ADAMW = StepSpec(Rule.ADAM, Flag.DECOUPLED, (SOFT, SOFT), PLAIN, WriteBack.KAHAN, SOFT)
IN_BLOCKS = replace(
    ADAMW,
    states=(
        Storage(parse_precision("mxfp8_e4m3:stochastic16"), E4M3),
        Storage(parse_precision("mxfp8_e5m2:stochastic"), E5M2, above_zero=True),
    ),
    carry=Storage(parse_precision("bf16:stochastic16"), torch.int8, ulp_bits=8),
)
NUMBERS = (-1e-3, -1e-5, 0.9, 0.1, 0.999, 1e-3, 1.02, 1e-8)


@pytest.mark.parametrize("spec", [ADAMW, IN_BLOCKS], ids=["states", "blocks"])
@pytest.mark.parametrize("offset", [0, 4097])
def test_a_model_in_one_launch(spec: StepSpec, offset: int) -> None:
    """Whole blocks and rests of them, tensors of all alignments, in programs of their real size."""
    sizes = [2049, 1, 1024, 0, 37, 1000]
    slots = [make(spec, n, BF16, i, 0.1, wild=False) for i, n in enumerate(sizes)]
    grad = torch.zeros(1001, dtype=BF16)[1:]  # at no multiple of 16 bytes
    slots[-1] = slots[-1]._replace(grad=grad.copy_(slots[-1].grad))
    keys = [StepKey(2**40 + 1, 2**31 + 8 * i, 3, offset * i) for i in range(len(sizes))]
    for number in (1, 2):  # the second finds its table
        check(spec, slots, NUMBERS, [key._replace(step=number) for key in keys])
    check(spec, slots[:1], NUMBERS, keys[1:2])
    steps.step(spec, [], NUMBERS, [])


def test_gradients_of_several_dtypes() -> None:
    slots = [make(ADAMW, 40, dtype, i, 0.1, wild=False) for i, dtype in enumerate([BF16, F32, F16])]
    check(ADAMW, slots, NUMBERS, [StepKey(1, 8 * i, 1) for i in range(3)])


def test_autograd_is_informed() -> None:
    slots = on_device(make(ADAMW, 10, BF16, 0, 0.1, wild=False))
    p = slots.p.requires_grad_()
    loss = (p * p).sum()
    with torch.no_grad():
        steps.step(ADAMW, [slots], NUMBERS, [StepKey(0, 0, 1)])
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_the_door() -> None:
    here = [on_device(make(ADAMW, 50, BF16, i, 0.1, wild=False)) for i in range(2)]
    there = [on_device(slots) for slots in here]
    keys = [StepKey(3, 8 * i, 1) for i in range(2)]
    step(ADAMW, here, NUMBERS, keys, backend=Backend.TRITON)
    step(ADAMW, there, NUMBERS, keys, backend=Backend.AUTO)
    for one, other in zip(here, there, strict=True):
        assert_same(one, Slots(*(_cpu(part) for part in other)), "AUTO")


def _cpu(part: object) -> object:
    if isinstance(part, tuple):
        return tuple(_cpu(one) for one in part)
    return part.cpu() if isinstance(part, Tensor) else part


def test_refusals() -> None:
    slots = on_device(make(ADAMW, 64, BF16, 0, 0.1, wild=False))
    keys = [StepKey(0, 0, 1)]
    square = Slots(*(t.view(8, 8).T for t in (slots.p, slots.grad)), slots.carry, slots.states)
    dynamic = replace(ADAMW, parameter=Storage(parse_precision("dfx8"), F32))
    for spec, one in (
        (ADAMW, slots._replace(p=slots.p.double())),
        (ADAMW, slots._replace(grad=slots.grad.double())),
        (ADAMW, square),
        (dynamic, slots),
        (replace(ADAMW, carry=Storage(parse_precision("dfx8"), F32)), slots),
        (replace(ADAMW, states=(SOFT, Storage(parse_precision("mxfp4_e2m1"), F32))), slots),
    ):
        assert not steps.can_step(spec, [one])
        with pytest.raises(KernelError, match=r"no kernel for this adam step, kahan of .*AUTO"):
            steps.step(spec, [one], NUMBERS, keys)


@pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")
def test_nothing_is_compiled_anew() -> None:
    from limprec.kernels.triton.step_kernel import step_many, step_one

    def compiled() -> int:
        caches = [kernel.device_caches[0][0] for kernel in (step_many, step_one)]
        return sum(len(cache) for cache in caches)

    slots = [on_device(make(ADAMW, 4096, BF16, i, 0.1, wild=False)) for i in range(3)]
    for step_number in range(1, 6):
        keys = [StepKey(step_number * 2**30, 8 * i, step_number) for i in range(3)]
        numbers = [x * step_number for x in NUMBERS]
        steps.step(ADAMW, slots, numbers, keys)
        steps.step(ADAMW, slots[:1], numbers, keys[:1])
        if step_number == 1:
            before = compiled()
    assert compiled() == before


@pytest.mark.skipif(INTERPRETED, reason="optimizers interpret nothing")
@pytest.mark.parametrize("name", ["SGD", "AdamW", "Lion", "RMSprop"])
def test_an_optimizer_on_the_gpu(name: str) -> None:
    """The same bits as on the CPU, whatever steps there."""
    results = []
    for device in ("cpu", DEVICE):
        generator = torch.Generator().manual_seed(0)
        start = [torch.randn(n, generator=generator) for n in (3000, 17)]
        params = [torch.nn.Parameter(p.bfloat16().to(device)) for p in start]
        options = {"momentum": 0.9} if name == "SGD" else {}
        optimizer = getattr(lp.optim, name)(params, 1e-3, weight_decay=0.01, **options)
        for _ in range(3):
            for p in params:
                p.grad = torch.randn(p.shape, generator=generator).bfloat16().to(device)
            optimizer.step()
        results.append([p.detach().cpu() for p in params])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
