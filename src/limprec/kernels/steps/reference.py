"""The semantics of a step, in plain PyTorch: rule, states, write-back, one parameter at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .memory import read, write
from .rules import advance
from .spec import FIRST_STATE, PARAMETER, StepKey, StepSpec, carry_key
from .writeback import wide, write_back


class Slots(NamedTuple):
    """The tensors of one parameter's step; all but the gradient are written in place."""

    p: Tensor
    """The parameter: float64, float32, bfloat16, float16, float8_e4m3fn or float8_e5m2."""
    grad: Tensor
    """Of the shape of ``p``, of any floating dtype; not sparse."""
    carry: Tensor | None = None
    """What the write-back keeps beside ``p``, in its storage."""
    states: tuple[Tensor, ...] = ()
    """The rule's states, each in its storage, of the shape of ``p``."""
    scales: tuple[Tensor | None, ...] = ()
    """The e8m0 bytes of the states in blocks, None for the others; empty if no state is."""


def computing_dtype(p: Tensor) -> torch.dtype:
    """Return the dtype of the arithmetic: float64 for float64 parameters, else float32."""
    return torch.float64 if p.dtype == torch.float64 else torch.float32


@torch.no_grad()
def step(spec: StepSpec, slots: Slots, scalars: Sequence[float], key: StepKey) -> Tensor:
    """Do one parameter's step and return the update that was asked for, in the computing dtype.

    Args:
        spec: what to do.
        slots: the tensors.
        scalars: the rule's numbers, see ``rules.SCALARS``.
        key: where the random bits are.

    A NaN or infinite gradient propagates. Empty tensors are left alone.
    """
    dtype = computing_dtype(slots.p)
    scales = slots.scales or (None,) * len(slots.states)
    kept = [
        read(state, scale, storage, dtype)
        for state, scale, storage in zip(slots.states, scales, spec.states, strict=True)
    ]
    w = wide(slots.p, slots.carry, spec, dtype)
    update, new = advance(spec.rule, spec.flags, scalars, slots.grad.to(dtype), w, kept)
    for place, (state, scale, value, storage) in enumerate(
        zip(slots.states, scales, new, spec.states, strict=True), FIRST_STATE
    ):
        write(state, scale, value, storage, key.at(place) if storage.is_random else None)
    write_back(
        slots.p,
        update,
        slots.carry,
        spec,
        key.at(PARAMETER) if spec.parameter.is_random else None,
        carry_key(spec, key),
    )
    return update
