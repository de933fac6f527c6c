"""The door to the steps: one call for many parameters, on the fastest backend that takes them."""

from __future__ import annotations

from collections.abc import Sequence

from ..dispatch import Backend
from ..native import steps as native
from ..triton import steps as triton
from . import reference
from .reference import Slots
from .spec import StepKey, StepSpec


def step(
    spec: StepSpec,
    slots: Sequence[Slots],
    scalars: Sequence[float],
    keys: Sequence[StepKey],
    *,
    backend: Backend = Backend.AUTO,
) -> None:
    """Do the step of many parameters under one spec, in place; every backend gives the same bits.

    Args:
        spec: what to do.
        slots: the tensors, one entry a parameter.
        scalars: the rule's numbers, see ``rules.SCALARS``.
        keys: where each parameter's random bits are; all of one seed and step.
        backend: who computes.

    Raises:
        KernelError: if the backend that is asked for has no kernel for the step or a tensor.
    """
    if backend is Backend.AUTO:
        backend = _fastest(spec, slots)
        if backend is Backend.REFERENCE and len(slots) > 1:  # a kernel may take some of them
            for one, key in zip(slots, keys, strict=True):
                step(spec, (one,), scalars, (key,))
            return
    if backend is Backend.NATIVE:
        native.step(spec, slots, scalars, keys)
    elif backend is Backend.TRITON:
        triton.step(spec, slots, scalars, keys)
    else:
        for one, key in zip(slots, keys, strict=True):
            reference.step(spec, one, scalars, key)


def _fastest(spec: StepSpec, slots: Sequence[Slots]) -> Backend:
    """Return the fastest backend that takes all these tensors."""
    if native.can_step(spec, slots):
        return Backend.NATIVE
    if all(one.p.is_cuda for one in slots) and triton.can_step(spec, slots):
        return Backend.TRITON
    return Backend.REFERENCE
