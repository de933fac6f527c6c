"""The door to the steps: one call for many parameters, on the fastest backend that takes them."""

from __future__ import annotations

from collections.abc import Sequence

from ..dispatch import Backend
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
    """
    for one, key in zip(slots, keys, strict=True):
        reference.step(spec, one, scalars, key)
