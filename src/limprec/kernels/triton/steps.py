"""Optimizer steps in Triton on the GPU: the bits of ``steps.reference``, many tensors a launch."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from contextlib import nullcontext
from ctypes import c_float, c_int32
from typing import Any

import torch
from torch import Tensor

from ...errors import KernelError
from ..steps.reference import Slots
from ..steps.spec import StepKey, StepSpec
from . import REMEDY, loaded, missing, warn_once
from .step_spec import BITS, Constants, constants_of

BLOCK = 1024
"""Elements of one program, a multiple of 32: 8 to a thread of 4 warps."""
OPTIONS = {"num_warps": 4, "enable_fp_fusion": False}
"""What the kernels are compiled with: a product and a sum contracted into one rounding would be
other bits."""

NUMBERS = 8
"""Most numbers of a rule."""
TABLES_KEPT = 8
"""Tables that stay on the device for the next step, each of a few kilobytes."""

Table = tuple[Tensor, Tensor]
_tables: OrderedDict[tuple[Any, ...], Table] = OrderedDict()


def can_step(spec: StepSpec, slots: Sequence[Slots]) -> bool:
    """Return whether the Triton kernels take this kind of step and all these tensors.

    CPU tensors only in the interpreter. Warns once, with ``SlowBackendWarning``, if a GPU's tensors
    would fit but Triton is missing.
    """
    if not all(_fits(spec, one) for one in slots):
        return False
    interpreted, problem = loaded()
    on_gpu = [one.p.is_cuda for one in slots]
    if problem is not None:
        if any(on_gpu):
            warn_once(problem)
        return False
    return interpreted or all(on_gpu)


def step(
    spec: StepSpec, slots: Sequence[Slots], scalars: Sequence[float], keys: Sequence[StepKey]
) -> None:
    """Do the step of many parameters under one spec, in place: one launch for all that fit one.

    Those on one device with gradients of one dtype share a launch.

    Args:
        spec: what to do.
        slots: the tensors; contiguous, all of a parameter on one device.
        scalars: the rule's numbers, rounded to float32 here.
        keys: where each parameter's random bits are; all of one seed and step.

    Raises:
        KernelError: if Triton is missing, or there is no kernel for the step or its tensors.
    """
    if missing() is not None:
        raise KernelError("triton backend", f"Triton is missing ({missing()})", REMEDY)
    if not can_step(spec, slots):
        found = f"{spec.strategy} of {spec.parameter.format} in {slots[0].p.dtype}"
        problem = f"no kernel for this {spec.rule} step, {found} on {slots[0].p.device}"
        raise KernelError("triton backend", problem, "use Backend.AUTO")
    launches: dict[tuple[torch.device, torch.dtype], list[tuple[Slots, StepKey]]]
    launches = defaultdict(list)
    for one, key in zip(slots, keys, strict=True):
        if one.p.numel():
            launches[one.p.device, one.grad.dtype].append((one, key))
    for (device, grad), group in launches.items():
        constants = constants_of(spec, grad)
        assert constants is not None
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            _launch(constants, group, scalars)
        for one, _ in group:
            torch.autograd.graph.increment_version([one.p.detach(), *_kept(one)])


def _fits(spec: StepSpec, slots: Slots) -> bool:
    """Return whether a kernel takes these tensors, wherever they are."""
    p = slots.p
    if p.dtype == torch.float64 or constants_of(spec, slots.grad.dtype) is None:
        return False
    every = (p, slots.grad, *_kept(slots))
    return all(tensor.device == p.device and tensor.is_contiguous() for tensor in every)


def _kept(slots: Slots) -> list[Tensor]:
    """Return what is written beside the parameter."""
    kept = (slots.carry, *slots.states, *slots.scales)
    return [tensor for tensor in kept if tensor is not None]


def _launch(
    constants: Constants, group: list[tuple[Slots, StepKey]], scalars: Sequence[float]
) -> None:
    from .step_kernel import step_many, step_one

    key = group[0][1]
    numbers = (*scalars, *(0.0 for _ in range(NUMBERS - len(scalars))))
    seed = (c_int32(key.seed).value, c_int32(key.seed >> 32).value)
    changing = (*seed, key.step, *(_bits(x) for x in numbers))
    shifted = any(k.offset % 8 for _, k in group)
    constant = {"C": constants, "SHIFTED": shifted, "BLOCK": BLOCK}
    if len(group) == 1:
        ((slots, key),) = group
        programs = -(-slots.p.numel() // BLOCK)
        tensors = [t.view(BITS[t.element_size()]) for t in _columns(slots)]
        step_one[(programs,)](
            *tensors, slots.p.numel(), key.stream, key.offset, *changing, **constant, **OPTIONS
        )
        return
    table, owners = _table(group)
    step_many[(owners.numel(),)](table, owners, *changing, **constant, **OPTIONS)


def _columns(slots: Slots) -> list[Tensor]:
    """Return the nine tensors of a parameter; itself in place of those that it has not."""
    p = slots.p.detach()
    rest = 3 - len(slots.states)
    scales = slots.scales or (None,) * len(slots.states)
    nine = (p, slots.grad, slots.carry, *slots.states, *[None] * rest, *scales, *[None] * rest)
    return [p if tensor is None else tensor for tensor in nine]


def _table(group: list[tuple[Slots, StepKey]]) -> Table:
    """Return the table of ``step_many`` and the owner of each program, on the device.

    Addresses mostly stay from step to step, and so does the table then.
    """
    device, rows, first = group[0][0].p.device, [], 0
    programs = []
    for slots, key in group:
        addresses = [tensor.data_ptr() for tensor in _columns(slots)]
        straight = not any(address % 16 for address in addresses)
        count = slots.p.numel()
        rows += [*addresses, count, first, key.stream, key.offset, int(straight), 0, 0]
        programs.append(-(-count // BLOCK))
        first += programs[-1]
    name = (device, *rows)
    found = _tables.pop(name, None)
    if found is None:
        pin = device.type == "cuda"
        table = torch.tensor(rows, dtype=torch.int64, pin_memory=pin)
        owners = torch.arange(len(group), dtype=torch.int32)
        owners = owners.repeat_interleave(torch.tensor(programs))
        owners = owners.pin_memory() if pin else owners
        found = table.to(device, non_blocking=True), owners.to(device, non_blocking=True)
    _tables[name] = found  # the latest comes last
    while len(_tables) > TABLES_KEPT:
        _tables.popitem(last=False)
    return found


def _bits(x: float) -> int:
    """Return the bits of a float32, as the signed integer that every launch takes alike."""
    return c_int32.from_buffer(c_float(x)).value
