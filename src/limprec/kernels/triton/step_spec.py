"""What the step kernels need to know of a step: constants that each of them is compiled for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import torch

from ...formats import FixedPoint, FloatingPoint, Microscaling
from ..carrier import is_identity
from ..steps.memory import FINEST_UNIT
from ..steps.rules import states
from ..steps.spec import Flag, Rule, StepSpec, Storage, WriteBack
from .spec import Kind, Mode, Spec, magnitude_of, make_spec, text_of

FLOATS = {
    torch.float32: "float32",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
    torch.float8_e4m3fn: "e4m3",
    torch.float8_e5m2: "e5m2",
}
"""Memory that holds values."""
COUNTS = {torch.int8: "int8", torch.int16: "int16"}
"""Memory that holds counts of a fraction of an ulp, or the lower halves of float32."""
BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32}
"""As what the kernels read and write memory, by the bytes of an element."""
BLOCK_ELEMENTS = 32
"""Elements under one scale."""


@dataclass(frozen=True)
class Ulps:
    """Where the unit of a compensation in ulps lies. Exponents, and a magnitude as float32 bits.

    Args:
        bits: the unit is the parameter's ulp over 2^bits.
        fixed: whether the ulp is ``below`` everywhere.
        below: exponent of the ulp under ``normal``.
        normal: the smallest number whose ulp follows its exponent.
        mantissa: by how much the exponent is larger than the ulp's.
        finest: no unit has a lower exponent.
    """

    bits: int
    fixed: bool
    below: int
    normal: int
    mantissa: int
    finest: int = FINEST_UNIT


@dataclass(frozen=True)
class Memory:
    """One tensor's memory.

    Args:
        kind: a name of ``FLOATS`` or ``COUNTS``.
        precision: how values are rounded; None where float32 holds them as they are.
        ulps: for a compensation in ulps.
        above_zero: whether what is positive stays so (blocks).
    """

    kind: str
    precision: Spec | None = None
    ulps: Ulps | None = None
    above_zero: bool = False

    @property
    def blocks(self) -> bool:
        """Whether flat blocks of elements share scales."""
        return self.precision is not None and self.precision.kind is Kind.MX_FLOATING

    @property
    def is_random(self) -> bool:
        """Whether storing takes random bits."""
        return self.precision is not None and self.precision.mode is Mode.STOCHASTIC

    @property
    def random_bits(self) -> int:
        """How many an element takes."""
        return self.precision.random_bits if self.precision is not None else 0

    @property
    def nearest(self) -> Memory:
        """The same memory, rounded to nearest."""
        if self.precision is None:
            return self
        return replace(self, precision=replace(self.precision, mode=Mode.NEAREST))


@dataclass(frozen=True)
class Constants:
    """What one kernel does. Device code reads it attribute by attribute.

    Args:
        rule: name of the rule.
        flags: those of ``Flag``.
        strategy: name of the write-back.
        strict: of Kahan.
        grad: memory of the gradient.
        p: memory of the parameter, with its rounding.
        nearest: the same, rounded to nearest.
        low: float32 bits of the smallest value of the parameter's format.
        high: of the largest.
        carry: memory of what lies beside the parameter.
        carry_nearest: the same, rounded to nearest.
        states: memories of the states.
    """

    rule: str
    flags: int
    strategy: str
    strict: bool
    grad: Memory
    p: Memory
    nearest: Memory
    low: int
    high: int
    carry: Memory | None
    carry_nearest: Memory | None
    states: tuple[Memory, ...]

    @property
    def count(self) -> int:
        """How many states there are."""
        return len(self.states)

    @property
    def maximize(self) -> bool:
        """Whether the gradient is negated."""
        return bool(self.flags & Flag.MAXIMIZE)

    @property
    def decay(self) -> bool:
        """Whether weight decay enters the gradient."""
        return bool(self.flags & Flag.DECAY)

    @property
    def decoupled(self) -> bool:
        """Whether weight decay enters the update."""
        return bool(self.flags & Flag.DECOUPLED)

    @property
    def momentum(self) -> bool:
        """Whether there is a momentum buffer."""
        return bool(self.flags & Flag.MOMENTUM)

    @property
    def nesterov(self) -> bool:
        """Whether it looks ahead."""
        return bool(self.flags & Flag.NESTEROV)

    @property
    def amsgrad(self) -> bool:
        """Whether the largest second moment is kept."""
        return bool(self.flags & Flag.AMSGRAD)

    @property
    def centered(self) -> bool:
        """Whether the mean is taken from the second moment."""
        return bool(self.flags & Flag.CENTERED)


@lru_cache(maxsize=1024)
def constants_of(spec: StepSpec, grad: torch.dtype) -> Constants | None:
    """Return what the kernel of a step is compiled for, None where there is no kernel.

    Args:
        spec: the step.
        grad: dtype of the gradients.
    """
    if grad not in FLOATS or spec.rule not in Rule:
        return None
    p = _memory(spec.parameter)
    kept = [_memory(storage) for storage in spec.states]
    half = spec.strategy is WriteBack.SPLIT
    carry = Memory("int16") if half else _memory(spec.carry) if spec.carry is not None else None
    missing = carry is None and spec.carry is not None
    if p is None or missing or p.blocks or (carry is not None and carry.blocks):
        return None
    if len(kept) != len(states(spec.rule, spec.flags)) or any(one is None for one in kept):
        return None
    fmt = spec.parameter.format
    assert isinstance(fmt, FloatingPoint | FixedPoint)
    low, high = (magnitude_of(x) - (2**31 if x < 0 else 0) for x in (fmt.min, fmt.max))
    return Constants(
        str(spec.rule),
        int(spec.flags),
        str(spec.strategy),
        spec.strict,
        Memory(FLOATS[grad]),
        p,
        p.nearest,
        low,
        high,
        carry,
        carry.nearest if carry is not None else None,
        tuple(one for one in kept if one is not None),
    )


def _memory(storage: Storage) -> Memory | None:
    fmt = storage.format
    if storage.in_blocks:
        assert isinstance(fmt, Microscaling)
        if fmt.block != BLOCK_ELEMENTS or fmt.axis != -1:
            return None
    elif not isinstance(fmt, FloatingPoint | FixedPoint):
        return None
    spec = make_spec(text_of(storage.precision))
    if storage.ulp_bits:
        assert isinstance(fmt, FloatingPoint | FixedPoint)
        return Memory(COUNTS[storage.dtype], spec, _ulps(fmt, storage.ulp_bits))
    if storage.dtype not in FLOATS:
        return None
    exact = is_identity(fmt, torch.float32)
    return Memory(FLOATS[storage.dtype], None if exact else spec, above_zero=storage.above_zero)


def _ulps(fmt: FloatingPoint | FixedPoint, bits: int) -> Ulps:
    if isinstance(fmt, FixedPoint):
        return Ulps(bits, True, -fmt.fraction_bits, 0, 0)
    below = fmt.min_exponent - fmt.mantissa_bits * fmt.subnormals
    normal = magnitude_of(fmt.smallest_normal)
    return Ulps(bits, False, below, normal, fmt.mantissa_bits)
