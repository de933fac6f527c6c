"""The door to the steps: one call for many parameters, on the fastest backend that takes them."""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import KernelError
from ..dispatch import Backend
from ..native import steps as native
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
    if backend is Backend.NATIVE or (backend is Backend.AUTO and native.can_step(spec, slots)):
        native.step(spec, slots, scalars, keys)
        return
    if backend is Backend.TRITON:
        raise KernelError("triton backend", "no kernel for optimizer steps", "use Backend.AUTO")
    for one, key in zip(slots, keys, strict=True):
        if backend is Backend.AUTO and native.can_step(spec, (one,)):
            native.step(spec, (one,), scalars, (key,))
        else:
            reference.step(spec, one, scalars, key)
