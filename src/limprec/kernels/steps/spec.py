"""What an optimizer step does, as frozen values: rule, storages and write-back.

Backends compile or pick a kernel from these; everything that changes from step to step (rates,
counters, tensors) is an argument beside them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag, StrEnum
from functools import cached_property
from typing import NamedTuple

import torch

from ...formats import Format, Microscaling, Precision, Rounding
from ..random import OPTIMIZER_STREAM, Key


class WriteBack(StrEnum):
    """How an update is added; p is the parameter, u the update, Q the parameter's format."""

    NEAREST = "nearest"
    """p = Q(p + u): an update under half an ulp of p is lost."""
    STOCHASTIC = "stochastic"
    """p = Q(p + u) rounded stochastically: right on average, noisy."""
    KAHAN = "kahan"
    """What Q takes from p + u is kept in a compensation c and added to the next update."""
    LAZY = "lazy"
    """Updates collect in a buffer until they move p; then the buffer is cleared."""
    MASTER = "master"
    """u is added to a full-precision copy, of which p is the rounded image."""
    SPLIT = "split"
    """p is the upper half of a float32 whose lower 16 bits lie beside it: exact, in 4 bytes."""


class Rule(StrEnum):
    """How an update follows from the gradient; the formulas are in ``rules``."""

    SGD = "sgd"
    ADAM = "adam"
    LION = "lion"
    RMSPROP = "rmsprop"
    ADD = "add"
    """The gradient is the update already."""
    AVERAGE = "average"
    """The gradient is a value that the parameter moves towards."""


class Flag(IntFlag):
    """What a rule includes."""

    NONE = 0
    MAXIMIZE = 1
    DECAY = 2
    """Weight decay enters the gradient."""
    DECOUPLED = 4
    """Weight decay enters the update (Loshchilov & Hutter, arXiv 1711.05101)."""
    MOMENTUM = 8
    NESTEROV = 16
    AMSGRAD = 32
    CENTERED = 64


ULP_DTYPES = {8: torch.int8, 16: torch.int16}
"""Dtype of a compensation that counts units of ulp(p) / 2^bits."""
BLOCK_DTYPES = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}
"""Elements that block-scaled states keep in their real bits."""


@dataclass(frozen=True)
class Storage:
    """How one tensor is kept between steps.

    Args:
        precision: its format, and how values are rounded to it.
        dtype: of its memory, which holds every value of the format (of the element, for blocks).
        ulp_bits: 0, or 8 or 16 for a compensation that counts units of ulp(p) / 2^ulp_bits; the
            precision's format is the parameter's then, and only its rounding matters.
        above_zero: what is positive stays so (blocks only): a second moment that became 0 would
            make its next update infinite.
    """

    precision: Precision
    dtype: torch.dtype
    ulp_bits: int = 0
    above_zero: bool = False

    @cached_property
    def in_blocks(self) -> bool:
        """Whether memory holds elements, with the scales of flat blocks in a tensor beside it."""
        fmt = self.precision.format
        return isinstance(fmt, Microscaling) and self.dtype in BLOCK_DTYPES.values()

    @property
    def format(self) -> Format:
        """The format."""
        return self.precision.format

    @property
    def is_random(self) -> bool:
        """Whether storing takes random bits."""
        return self.precision.rounding is Rounding.STOCHASTIC


@dataclass(frozen=True)
class StepSpec:
    """One kind of step.

    Args:
        rule: how the update follows from the gradient.
        flags: what the rule includes.
        states: how the rule's states are kept, in the order of ``rules.states``.
        parameter: how the parameter is kept; stochastic for that write-back alone.
        strategy: how the update is added.
        carry: how what the strategy keeps beside the parameter is kept, None for nothing.
        strict: round u + c to the compensation's format first, as hardware with one word length
            does (Kahan).
    """

    rule: Rule
    flags: Flag
    states: tuple[Storage, ...]
    parameter: Storage
    strategy: WriteBack
    carry: Storage | None = None
    strict: bool = False

    def __hash__(self) -> int:
        """Hash once: a step looks its spec up."""
        return self._hash

    @cached_property
    def _hash(self) -> int:
        kept = (self.states, self.parameter, self.carry, self.strict)
        return hash((self.rule, self.flags, self.strategy, *kept))


STREAMS_PER_PARAMETER = 8
"""Streams of random words that one parameter may use."""
PARAMETER, CARRY, FIRST_STATE = 0, 1, 2
"""Places of a parameter's tensors among its streams."""


class StepKey(NamedTuple):
    """Where the random bits of one parameter's step are."""

    seed: int
    """The optimizer's, 0 to 2^63 - 1."""
    stream: int
    """The parameter's first stream; each tensor kept takes its place's."""
    step: int
    """The group's number of steps."""
    offset: int = 0
    """Global row-major index of the first element, if the parameter is a shard."""

    def at(self, place: int) -> Key:
        """Return the random key of one of the parameter's tensors."""
        return Key(self.seed, self.stream + place, self.step, self.offset)


def first_stream(index: int) -> int:
    """Return the first random stream of the parameter of that number in its optimizer."""
    return OPTIMIZER_STREAM + index * STREAMS_PER_PARAMETER


def carry_key(spec: StepSpec, key: StepKey) -> Key | None:
    """Return the random key of what a write-back keeps, None where storing it takes none."""
    return key.at(CARRY) if spec.carry is not None and spec.carry.is_random else None
