"""Optimizer steps in C++ on the CPU: the bits of the reference, many parameters in one call."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch

from ...errors import FormatError, KernelError
from ...formats import FixedPoint, FloatingPoint, Format, Microscaling, Precision, Rounding
from ..carrier import check_holds, dtype_format, is_identity
from ..steps.reference import Slots
from ..steps.rules import SCALARS, states
from ..steps.spec import Flag, Rule, StepKey, StepSpec, Storage, WriteBack
from . import REMEDY, missing, warn_once
from .spec import Simd, pack

_MEMORY = {
    torch.float32: 0,
    torch.bfloat16: 1,
    torch.float16: 2,
    torch.float8_e4m3fn: 3,
    torch.float8_e5m2: 4,
    torch.int8: 5,
    torch.int16: 6,
}
"""The numbers of step.h."""
_FLOATS = frozenset(dtype for dtype in _MEMORY if dtype.is_floating_point)
_RULES, _STRATEGIES = tuple(Rule), tuple(WriteBack)
_STEEP = frozenset({Rounding.UP, Rounding.DOWN})
"""Roundings that tell the smallest number from 0, which a count in float32 may become."""


def can_step(spec: StepSpec, slots: Sequence[Slots]) -> bool:
    """Return whether the native kernels take this kind of step and all these tensors.

    Warns once, with ``SlowBackendWarning``, if they would but the extension is missing.
    """
    fits = _request(spec, torch.float32) is not None
    fits = fits and all(slot.p.is_cpu and slot.grad.dtype in _FLOATS for slot in slots)
    if fits and missing() is not None:
        warn_once()
        return False
    return fits


def step(
    spec: StepSpec,
    slots: Sequence[Slots],
    scalars: Sequence[float],
    keys: Sequence[StepKey],
    simd: Simd = Simd.AUTO,
) -> None:
    """Do the step of many parameters, in place, to the bits of ``reference.step``.

    Args:
        spec: what to do.
        slots: CPU tensors, of any layout; those whose layouts differ, or that are not row-major
            and take random bits, are copied there and back.
        scalars: the rule's numbers, rounded to float32.
        keys: where each parameter's random bits are; all of one seed and step.
        simd: the instruction set; all give the same bits.

    Raises:
        KernelError: if the extension is missing, or has no kernel for the step or a tensor.
    """
    if not slots:
        return
    if missing() is not None:
        raise KernelError("native backend", f"the extension is missing ({missing()})", REMEDY)
    if not can_step(spec, slots):
        found = f"{spec.strategy} of {spec.parameter.format} in {slots[0].p.dtype}"
        problem = f"no kernel for this {spec.rule} step, {found} on {slots[0].p.device}"
        raise KernelError("native backend", problem, "use Backend.AUTO")
    chosen: dict[torch.dtype, list[int]] = {}
    for i, slot in enumerate(slots):
        chosen.setdefault(slot.grad.dtype, []).append(i)
    for dtype, places in chosen.items():
        mine = [slots[i] for i in places]
        streams, offsets = [keys[i].stream for i in places], [keys[i].offset for i in places]
        _call(
            "step_",
            [slot.grad for slot in mine],
            [tensor for slot in mine for tensor in _written(slot)],
            _request(spec, dtype),
            scalars,
            simd,
            keys[0].seed,
            keys[0].step,
            streams,
            offsets,
        )
    torch.autograd.graph.increment_version([slot.p for slot in slots])


class Prepared:
    """``step`` with the same tensors again and again, but for the gradients.

    The extension holds the tensors too, and asks them for their memory at every step.

    Args:
        spec: what to do; ``can_step`` of it and the slots.
        slots: the tensors; in a gradient's place stands anything of its shape.
        streams: the first random stream of each parameter.
        offsets: global row-major index of each parameter's first element.
    """

    def __init__(
        self,
        spec: StepSpec,
        slots: Sequence[Slots],
        streams: Sequence[int],
        offsets: Sequence[int],
    ) -> None:
        self._spec, self._places = spec, (list(streams), list(offsets))
        self._params = [slot.p for slot in slots]
        self._tensors = [tensor for slot in slots for tensor in _written(slot)]
        self._lineups: dict[torch.dtype, int] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Leave the extension's numbers out: a copy lines its own tensors up."""
        return {**self.__dict__, "_lineups": {}}

    def takes(self, grads: Sequence[torch.Tensor]) -> bool:
        """Return whether gradients are all of one dtype that there are kernels for."""
        dtype = grads[0].dtype
        return dtype in _FLOATS and all(grad.dtype is dtype for grad in grads)

    def run(
        self, grads: Sequence[torch.Tensor], scalars: Sequence[float], seed: int, number: int
    ) -> None:
        """Do the step, in place; arguments as for ``Batch.run``."""
        dtype = grads[0].dtype
        lineup = self._lineups.get(dtype)
        if lineup is None:
            lineup = _call("line_up", self._tensors, _request(self._spec, dtype), *self._places)
            self._lineups[dtype] = lineup
            weakref.finalize(self, _call, "let_go", lineup).atexit = False
        _call("step_lineup", lineup, grads, scalars, seed, number)
        torch.autograd.graph.increment_version(self._params)


def _written(slot: Slots) -> list[torch.Tensor]:
    """Return the tensors of a parameter that a step writes, in the extension's order."""
    p, _, carry, kept, scales = slot
    return [tensor for tensor in (p, carry, *kept, *scales) if tensor is not None]


def _call(operator: str, *arguments: object) -> Any:
    try:
        return getattr(torch.ops.limprec, operator).default(*arguments)
    except (NotImplementedError, RuntimeError) as error:
        problem = str(error).splitlines()[0].rpartition("limprec: ")[2]
        raise KernelError("native backend", problem, "give what the spec says") from error


@lru_cache(maxsize=1024)
def _request(spec: StepSpec, grad: torch.dtype) -> tuple[int, ...] | None:
    """Return a step as the numbers that ``step.cpp`` takes in this order, None without a kernel."""
    strategy, carry = spec.strategy, spec.carry
    if len(spec.states) != len(states(spec.rule, spec.flags)):
        return None
    if "decay" not in SCALARS[spec.rule] and spec.flags & (Flag.DECAY | Flag.DECOUPLED):
        return None
    rounds_carry = strategy in (WriteBack.KAHAN, WriteBack.LAZY)
    parameter = spec.parameter
    if strategy not in (WriteBack.NEAREST, WriteBack.STOCHASTIC):
        parameter = Storage(Precision(parameter.format), parameter.dtype)
        if carry is None:
            return None
    elif carry is not None:
        return None
    kept = [_storage(parameter)]
    if carry is not None:
        counts = strategy is WriteBack.SPLIT and carry.dtype == torch.int16
        whole = strategy is WriteBack.MASTER and carry.dtype == torch.float32
        if rounds_carry and not carry.in_blocks:
            kept.append(_storage(carry))
        elif counts or whole:
            kept.append((pack(Precision(_FX16)), _MEMORY[carry.dtype], 1, 1, 0, 0, 0))
        else:
            return None
    kept.extend(map(_storage, spec.states))
    strict = -1
    if spec.strict and rounds_carry:
        assert carry is not None
        if not _is_scalar(carry.format, torch.float32):
            return None
        strict = pack(Precision(carry.format))
    if parameter.in_blocks or any(numbers is None for numbers in kept):
        return None
    return (
        _RULES.index(spec.rule),
        int(spec.flags),
        _STRATEGIES.index(strategy),
        _MEMORY[grad],
        len(spec.states),
        int(carry is not None),
        strict,
        *(number for numbers in kept for number in numbers or ()),
    )


def _storage(storage: Storage) -> tuple[int, ...] | None:
    """Return the numbers of one ``Storage`` of step.h, None where there is no kernel."""
    precision, fmt, dtype = storage.precision, storage.format, storage.dtype
    ulps, blocks, own, exact = storage.ulp_bits, storage.in_blocks, False, False
    if ulps or blocks:
        if precision.rounding in _STEEP:
            return None
        if ulps:
            if not _is_scalar(fmt, torch.float32):
                return None
            fmt = FixedPoint(ulps + 1, 0)  # half an ulp upwards is one code more than kept
        else:
            assert isinstance(fmt, Microscaling)
            if fmt.block != 32 or fmt.axis != -1:
                return None
            fmt = fmt.element
        precision = Precision(fmt, precision.rounding, precision.random_bits)
    elif dtype not in _FLOATS or not _is_scalar(fmt, dtype):
        return None
    else:
        own = fmt == dtype_format(dtype, "step")
        exact = is_identity(fmt, torch.float32)
    return pack(precision), _MEMORY[dtype], own, exact, ulps, blocks, storage.above_zero


def _is_scalar(fmt: Format, dtype: torch.dtype) -> bool:
    """Return whether a format has no scales, and a dtype as well as float32 holds its values."""
    if not isinstance(fmt, FloatingPoint | FixedPoint):
        return False
    try:
        check_holds(fmt, dtype, "step")
        check_holds(fmt, torch.float32, "step")
    except FormatError:
        return False
    return True


_FX16 = FixedPoint(16, 0)
