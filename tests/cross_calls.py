"""What ``cross.py`` tries: calls of the native operators for roundings, steps and products."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from limprec.errors import FormatError
from limprec.formats import (
    FloatingPoint,
    Format,
    Precision,
    Rounding,
    ScalarFormat,
    ScaledFormat,
    parse_format,
    parse_precision,
)
from limprec.kernels import check_carrier, round_to, storable
from limprec.kernels.matmul import native as matmul
from limprec.kernels.matmul.adder import parse_adder
from limprec.kernels.matmul.reference import Request
from limprec.kernels.native import Simd, pack, steps
from limprec.kernels.steps import (
    BLOCK_DTYPES,
    ULP_DTYPES,
    Flag,
    Rule,
    Slots,
    StepSpec,
    Storage,
    WriteBack,
    states,
)
from limprec.kernels.steps.rules import SCALARS

SCALAR = [
    *("fp16", "bf16", "tf32", "fp32", "fp32-sat", "e5m2", "e4m3", "e4m3fnuz", "e4m3-ovf", "e2m1"),
    *(
        "e5m2-nosub",
        "e8m7-nosub",
        "e8m3",
        "e3m7",
        "e8m3b130",
        "e7m23",
        "e2m3b-60",
        "fp64",
        "e11m20",
    ),
    *("e11m20", "binary8p3", "binary8p1", "e5m0fn", "e8m0fnuz", "e4m0b8fn"),
    *(
        "fx8.4",
        "ufx8.4",
        "fx8.4-wrap",
        "fx16.12",
        "fx12.-100",
        "fx8.130",
        "fx25.10",
        "fx53.30-wrap",
    ),
]
SCALED = [
    *("dfx2", "dfx8", "dfx16", "dfx40", "dfx8c0", "dfx4c-1", "dfx8b32", "dfx8b7a-2", "dfx30b16"),
    *("mxfp8_e4m3", "mxfp8_e5m2b5a0", "mxfp6_e3m2", "mxfp6_e2m3b16", "mxfp4_e2m1", "mxint8b600"),
    *("nvfp4", "nvfp4b7", "nvfp4a0", "int8", "int8s", "int8m", "int4c0", "int8sc1", "int16mc-1"),
    *("int8b32", "int3mb5a0"),
]
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
CODES = [torch.int8, torch.int16, torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16]
ROUNDINGS = [*Rounding, *(f"stochastic{bits}" for bits in (1, 7, 16, 17))]
STEP_ROUNDINGS = ["nearest", "nearest", "stochastic", "stochastic16", "nearest_away", "toward_zero"]
STEP_FORMATS = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.float8_e4m3fn: "e4m3",
    torch.float8_e5m2: "e5m2",
}
SIMULATED = ["e4m3", "e5m2", "fx8.4", "fx16.12", "bf16", "fp32-sat", "e8m3b130", "e8m7-nosub"]
SUMS = [
    *("e5m10", "bf16", "e4m3", "e3m2", "e8m15", "e9m40", "e5m10-nosub", "e4m3-ovf", "e4m3fnuz"),
    *("fx16.8", "fx16.8-wrap", "ufx12.4", "fx32.16"),
]

Argument = Tensor | int | float | list["Argument"]


class Call(NamedTuple):
    """An operator of the extension and its arguments, and what is tried."""

    operator: str
    arguments: list[Argument]
    what: str


def spread(dtype: torch.dtype, count: int, seed: int = 2, most: int = 20) -> Tensor:
    """Return random numbers over many powers of two."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, generator=generator, dtype=torch.float64)
    return (x * torch.exp2(torch.randint(-most, most, (count,), generator=generator))).to(dtype)


def edges(fmt: Format, dtype: torch.dtype) -> Tensor:
    """Return random bit patterns, and numbers about a format's landmarks with their neighbours."""
    bits = torch.randint(-(2**63), 2**63 - 1, (400,), generator=torch.Generator().manual_seed(1))
    patterns = bits.view(torch.float64 if dtype == torch.float64 else torch.float32)
    limits = torch.finfo(dtype)
    marks = [0.0, torch.inf, torch.nan, limits.tiny, limits.smallest_normal, limits.max]
    near = [torch.tensor(marks, dtype=torch.float64)]
    if isinstance(fmt, ScalarFormat):
        near.append(fmt.smallest * torch.arange(99, dtype=torch.float64) / 8)
        near.append(fmt.max * torch.linspace(0.5, 2.0, 97, dtype=torch.float64))
        if isinstance(fmt, FloatingPoint):
            near.append(fmt.smallest_normal * torch.linspace(0, 2, 65, dtype=torch.float64))
    x = torch.cat(near).to(dtype)
    ends = [torch.tensor(end, dtype=dtype) for end in (torch.inf, -torch.inf)]
    x = torch.cat([x, *(torch.nextafter(x, end) for end in ends)])
    return torch.cat([x, -x, patterns.to(dtype), spread(dtype, 333)])


def fits(fmt: Format, dtype: torch.dtype) -> bool:
    """Return whether a dtype carries a format."""
    try:
        check_carrier(fmt, dtype, "cross")
    except FormatError:
        return False
    return True


def rounding_call(operator: str, tensors: list[Argument], precision: Precision, odd: int) -> Call:
    """Return a call of ``round_*``, with a key where it takes one."""
    what = f"{operator} {precision} {getattr(tensors[0], 'dtype', '')}"
    if precision.rounding is not Rounding.STOCHASTIC:
        return Call(operator, [*tensors, pack(precision)], what)
    offsets = (0, 77, 2**35 - 1001, 2**34 - 500)  # two of them cross a period of the generator
    key: list[Argument] = [-12345 - odd, 2**32 - 7 + odd % 7, odd, offsets[odd % 4]]
    return Call(f"{operator}.keyed", [*tensors, pack(precision), *key], what)


def roundings() -> Iterator[Call]:
    """Every kind of format, in every carrier and rounding."""
    for name, dtype in product([*SCALAR, *SCALED], DTYPES):
        fmt = parse_format(name)
        if not fits(fmt, dtype):
            continue
        x = edges(fmt, dtype)
        if isinstance(fmt, ScaledFormat):
            odd = torch.where(x.isfinite(), x, 1.0)[: 3 * 7 * 31].view(3, 7, 31)
            calm = spread(dtype, 5 * 7 * 31, seed=4).view(5, 7, 31)
            x = torch.cat([calm, calm * 2.0**-120, odd, odd * 2.0**-90])
            x[0, 0, :3] = torch.tensor([torch.inf, torch.nan, 0.0])
            x[1] = 0
        for i, rounding in enumerate(ROUNDINGS):
            precision = parse_precision(f"{name}:{rounding}")
            yield rounding_call("round_to", [x], precision, i)
            if isinstance(fmt, ScaledFormat):
                for finite in (calm, x[2:].contiguous()):
                    yield rounding_call("round_to_", [finite], precision, i + 1)
                if getattr(fmt, "zero", "none") == "none":
                    for amax in (3.5, 0.0, 1e-40, torch.inf):
                        within: list[Argument] = [calm, torch.zeros_like(calm), amax]
                        yield rounding_call("round_within", within, precision, i)


def layouts() -> Iterator[Call]:
    """Memory that is not row-major, overlaps or begins at odd places."""
    names = ("e5m2", "fx8.4", "dfx8", "mxfp8_e4m3", "dfx8c1", "e4m3b130")
    for name, rounding, dtype in product(names, ("nearest", "stochastic16"), DTYPES):
        precision = parse_precision(f"{name}:{rounding}")
        if not fits(precision.format, dtype):
            continue
        base = spread(dtype, 4 * 5 * 300)
        x = base.view(4, 5, 300)
        views = [x.transpose(0, 2), x[:, ::2, 3:-2], x[1:, :, ::3], x[:, :1].expand(4, 5, 300)]
        views += [base.unfold(0, 35, 2)[:6].view(6, 5, 7), base[1:106].view(3, 5, 7), x[:, :0]]
        for i, view in enumerate(views):
            yield rounding_call("round_to", [view], precision, i)
            out = torch.zeros(view.shape[::-1], dtype=dtype).permute(2, 1, 0)
            yield rounding_call("round_to_out", [view, out], precision, i)
        shifted: list[Argument] = [base[:1500].view(3, 5, 100), base[3:1503].view(3, 5, 100)]
        yield rounding_call("round_to_out", shifted, precision, 3)
        yield rounding_call("round_to_", [x[:, 1:4]], precision, 1)


def storage() -> Iterator[Call]:
    """Rounding straight to codes and back, masks of ReLU."""
    names = ("dfx8", "dfx3", "dfx12", "fx8.4", "ufx7.2", "fx16.-3", "e4m3", "e2m1", "e5m2", "bf16")
    for name, dtype in product(names, DTYPES[:3]):
        fmt = parse_format(name)
        kept = storable(fmt)
        assert kept is not None
        if not fits(fmt, dtype):
            continue
        x = edges(fmt, dtype)
        if fmt.bits <= 16 and not isinstance(fmt, FloatingPoint):
            x = torch.where(x.isnan() if isinstance(fmt, ScalarFormat) else ~x.isfinite(), 1.0, x)
        calm = spread(dtype, 5 * 7 * 31, seed=4).view(5, 7, 31)
        for i, rounding in enumerate(ROUNDINGS):
            precision = parse_precision(f"{name}:{rounding}")
            for view in (x, calm * 2.0**-90, calm.transpose(0, 2), calm[:, ::2], calm[:0]):
                codes = torch.zeros(view.shape, dtype=kept)
                tensors: list[Argument] = [view, codes, torch.zeros(())]
                yield rounding_call("round_to_codes", tensors, precision, i)
    for dtype, kept in product(DTYPES[:3], CODES):
        words = torch.randint(0, 256, (999,), generator=torch.Generator().manual_seed(3))
        codes = (words - 128 if kept == torch.int8 else words).to(torch.int16)
        codes = codes.to(torch.uint8).view(kept) if kept.itemsize == 1 else codes.to(kept)
        for factor in (1.0, 0.125):
            out = torch.zeros(999, dtype=dtype)
            what = f"widen {kept} to {dtype}"
            yield Call("widen_codes", [codes, torch.tensor(factor), out, 0], what)
    for dtype, ceiling in product(DTYPES[:3], (torch.nan, 6.0)):
        x = edges(parse_format("e4m3"), dtype)
        for count in (len(x), 0, 5, 64, 100):
            view, y = x[:count], torch.zeros(count, dtype=dtype)
            mask = torch.zeros((count + 7) // 8, dtype=torch.uint8)
            yield Call("relu_with_mask", [view, y, mask, ceiling, 0], f"relu {dtype}")
            some = torch.arange(1, len(mask) + 1).to(torch.uint8) * 37
            yield Call("masked", [view, some, torch.zeros_like(y), 0], f"masked {dtype}")


def optimizer_steps(count: int) -> Iterator[Call]:
    """Random kinds of steps, the plain ones in one dtype often among them."""
    dice = random.Random(5)
    for number in range(count):
        spec, grad = random_spec(dice)
        sizes = dice.sample([1, 31, 32, 33, 257, 515, 1100], 2)
        slots = [slots_of(spec, size, grad, number) for size in sizes]
        if not steps.can_step(spec, slots):
            continue
        written: list[Argument] = [x for slot in slots for x in steps._written(slot)]
        request = [int(n) for n in steps._request(spec, grad) or ()]
        numbers: list[Argument] = [dice.uniform(0.01, 1.0) for _ in SCALARS[spec.rule]]
        streams: list[Argument] = [8, 2**31 + 8]
        offsets: list[Argument] = [dice.choice([0, 128, 77, 2**34 - 200, 2**35 - 256]), 0]
        arguments = [[slot.grad for slot in slots], written, request, numbers, 0, -9, number]
        yield Call("step_", [*arguments, streams, offsets], f"step {spec}, grad {grad}")


def random_spec(dice: random.Random) -> tuple[StepSpec, torch.dtype]:
    """Return a kind of step and the dtype of its gradients."""
    plain = dice.choice([None, None, torch.bfloat16, torch.float32])  # all of one dtype
    dtypes = list(STEP_FORMATS) if plain is None else [plain]

    def own(dtype: torch.dtype, fmt: str | None = None) -> Storage:
        name = fmt or STEP_FORMATS[dtype]
        return Storage(parse_precision(f"{name}:{dice.choice(STEP_ROUNDINGS)}"), dtype)

    rule, flags = dice.choice(list(Rule)), Flag.NONE
    choices = {
        Rule.SGD: [Flag.NONE, Flag.MOMENTUM, Flag.MOMENTUM | Flag.NESTEROV],
        Rule.ADAM: [Flag.NONE, Flag.AMSGRAD],
        Rule.RMSPROP: [Flag.NONE, Flag.CENTERED, Flag.MOMENTUM, Flag.CENTERED | Flag.MOMENTUM],
    }
    flags |= dice.choice(choices.get(rule, [Flag.NONE])) | dice.choice([Flag.NONE, Flag.MAXIMIZE])
    if "decay" in SCALARS[rule]:
        flags |= dice.choice([Flag.NONE, Flag.DECAY, Flag.DECOUPLED])
    kept = []
    for _ in states(rule, flags):
        kept.append(own(dice.choice(dtypes)))
        if plain is None and dice.random() < 0.3:
            element, dtype = dice.choice(list(BLOCK_DTYPES.items()))
            how = parse_precision(f"mxfp8_{element}:{dice.choice(STEP_ROUNDINGS)}")
            kept[-1] = Storage(how, dtype, above_zero=dice.random() < 0.5)
    strategy = dice.choice(list(WriteBack))
    if strategy is WriteBack.SPLIT:
        dtypes = [torch.bfloat16]
    parameter = own(dice.choice(dtypes))
    if plain is None and parameter.dtype == torch.float32:
        parameter = own(torch.float32, dice.choice(SIMULATED))
    if strategy is not WriteBack.STOCHASTIC:
        parameter = Storage(Precision(parameter.format), parameter.dtype)
    carry, strict = None, False
    if strategy in (WriteBack.KAHAN, WriteBack.LAZY):
        carry, strict = own(dice.choice(dtypes)), dice.random() < 0.3
        if plain is not torch.float32 and dice.random() < 0.4:
            bits, how = dice.choice(list(ULP_DTYPES)), carry.precision
            how = Precision(parameter.format, how.rounding, how.random_bits)
            carry, strict = Storage(how, ULP_DTYPES[bits], ulp_bits=bits), False
    elif strategy is WriteBack.MASTER:
        carry = Storage(Precision(parse_format("fp32")), torch.float32)
    elif strategy is WriteBack.SPLIT:
        carry = Storage(Precision(parse_format("bf16")), torch.int16)
    spec = StepSpec(rule, flags, tuple(kept), parameter, strategy, carry, strict)
    return spec, dice.choice(list(STEP_FORMATS) if plain is None else [plain])


def slots_of(spec: StepSpec, size: int, grad: torch.dtype, seed: int) -> Slots:
    """Return a parameter and all that is kept beside it, in the middle of a training."""
    generator = torch.Generator().manual_seed(seed)

    def values(dtype: torch.dtype, place: int) -> Tensor:
        if not dtype.is_floating_point:
            limits = torch.iinfo(dtype)
            return torch.randint(limits.min, limits.max + 1, (size,), generator=generator).to(dtype)
        return spread(torch.float32, size, seed=seed + place, most=6).to(dtype)

    g = values(torch.float32, 1)
    special = torch.tensor([0.0, -0.0, torch.inf, torch.nan, 3e38, 1e-40, -1e-45, 465.0])
    if size > 40:
        g[size // 2 :][: len(special)] = special
    p = round_to(values(torch.float32, 2), Precision(spec.parameter.format), None)
    kept = [values(state.dtype, 3 + i) for i, state in enumerate(spec.states)]
    kept = [x if i == 0 else x.float().abs().to(x.dtype) for i, x in enumerate(kept)]
    blocks = [torch.randint(100, 140, (-(-size // 32),), generator=generator) for _ in kept]
    scales = [
        scale.to(torch.uint8) if state.in_blocks else None
        for scale, state in zip(blocks, spec.states, strict=True)
    ]
    carry = None if spec.carry is None else values(spec.carry.dtype, 9)
    if carry is not None and carry.is_floating_point():
        carry = (carry.float() * 2.0**-9).to(carry.dtype)
    return Slots(p.to(spec.parameter.dtype), g.to(grad), carry, tuple(kept), tuple(scales))


def products() -> Iterator[Call]:
    """Sums in every format, adder and rounding."""
    ways = [("sequential", None), ("kahan", None), ("sequential", 5), ("kahan", 6), ("tree", None)]
    ways += [("tree", 7), ("aligned:4:2", None), ("aligned:3:0", 8)]
    number = 0
    for name, rounding, (adder, chunk) in product(SUMS, Rounding, ways):
        number += 1
        fmt, into = parse_format(name), (None, "e4m3", "fx16.8", "e8m15")[number % 4]
        exact = isinstance(fmt, FloatingPoint)
        if adder.startswith("aligned") and not exact:
            continue
        if rounding is Rounding.STOCHASTIC and exact and fmt.mantissa_bits > 19:
            continue
        dtype = torch.float64 if number % 3 == 0 or not fits(fmt, torch.float32) else torch.float32
        a, b = spread(dtype, 3 * 5 * 19, number, 6), spread(dtype, 3 * 19 * 37, number + 1, 6)
        if number % 5 == 0:
            b[7:10] = torch.tensor([torch.inf, torch.nan, 0.0])
        kahan = adder == "kahan"
        request = Request(
            *(fmt, None if into is None else parse_format(into), chunk, kahan, rounding, 2**64 - 5),
            parse_adder("sequential" if kahan else adder),
        )
        shapes = [a.float().to(dtype).view(3, 5, 19), b.float().to(dtype).view(3, 19, 37)]
        out = torch.zeros(3, 5, 37, dtype=dtype)
        numbers = matmul._pack(request, Simd.AUTO)
        yield Call("matmul_at_precision", [*shapes, out, *numbers], f"matmul {request} {dtype}")


def calls() -> Iterator[Call]:
    """Return everything that is tried."""
    yield from roundings()
    yield from layouts()
    yield from storage()
    yield from optimizer_steps(600)
    yield from products()
