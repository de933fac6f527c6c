"""What an optimizer keeps for one parameter: how, and the tensors when they are first needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..errors import OptimizerError
from ..kernels.steps import Flag, Rule, StepSpec, Storage, WriteBack, carry_name, states
from .shards import shard_of
from .storage import carry_storage, parameter_storage

SCALE = "_scale"
"""Ends the name of the tensor with the scales of a state in blocks."""
BLOCK = 32
"""Elements of a state's block."""


@dataclass(eq=False)
class Kept:
    """How everything of one parameter is kept; the same for every step."""

    parameter: Storage
    carry: Storage | None
    states: dict[str, Storage]
    strategy: WriteBack
    _specs: dict[tuple[Flag, bool], StepSpec] = field(default_factory=dict)

    def beside(self) -> dict[str, Storage]:
        """Return the storages of what lies beside the parameter, by the names in its state."""
        name = carry_name(self.strategy)
        carry = {} if name is None or self.carry is None else {name: self.carry}
        return carry | self.states

    def fits(self, rule: Rule, flags: Flag) -> bool:
        """Return whether the states of a rule are among those kept."""
        return self.states.keys() >= set(states(rule, flags))

    def spec(self, rule: Rule, flags: Flag, strict: bool) -> StepSpec:
        """Return what a step does."""
        spec = self._specs.get((flags, strict))
        if spec is None:
            kept = tuple(self.states[name] for name in states(rule, flags))
            spec = StepSpec(rule, flags, kept, self.parameter, self.strategy, self.carry, strict)
            # One object for equal specs: batches of parameters are looked up by it.
            spec = self._specs[flags, strict] = _ONE.setdefault(spec, spec)
        return spec


_ONE: dict[StepSpec, StepSpec] = {}


def keep(
    optimizer: str,
    p: Tensor,
    group: dict[str, Any],
    states_of: Callable[[Tensor, dict[str, Any]], dict[str, Storage]],
) -> Kept:
    """Return how a parameter, its states and what the write-back keeps are kept.

    Raises:
        OptimizerError: for a parameter that is no floating-point tensor, a write-back that it
            cannot have, or a ``state_format`` of no state.
        FormatError: for a format that no dtype here can hold.
    """
    if p.is_complex() or not p.is_floating_point():
        raise OptimizerError(
            optimizer, f"a parameter of {p.dtype}", "give floating-point parameters"
        )
    kept, given = states_of(p, group), group["state_format"]
    unknown = set(given) - set(kept) if isinstance(given, Mapping) else ()
    if unknown:
        raise OptimizerError(
            "state_format",
            f"no state {', '.join(sorted(unknown))}",
            f"{optimizer} keeps {', '.join(kept) or 'none'}",
        )
    strategy = WriteBack(group["writeback"])
    return Kept(parameter_storage(p, group), carry_storage(p, group), kept, strategy)


def make_states(
    p: Tensor,
    state: dict[str, Any],
    kept: dict[str, Storage],
    shape_of: Callable[[Tensor, str], torch.Size],
) -> None:
    """Make the states that are not there yet, zero everywhere."""
    for name, storage in kept.items():
        if name in state:
            continue
        if storage.in_blocks:
            local = shard_of(p).local
            blocks = -(-local.numel() // BLOCK)
            state[name] = torch.zeros(local.shape, dtype=storage.dtype, device=local.device)
            state[name + SCALE] = torch.zeros(blocks, dtype=torch.uint8, device=local.device)
        elif (shape := shape_of(p, name)) == p.shape:
            state[name] = torch.zeros_like(p, dtype=storage.dtype, requires_grad=False)
        else:
            state[name] = torch.zeros(shape, dtype=storage.dtype, device=p.device)
