"""What a parameter's step needs beside its gradient, lined up once and used again."""

from __future__ import annotations

from operator import is_
from typing import Any, NamedTuple

from torch import Tensor

from ..kernels.steps import Flag, StepSpec, carry_name, states
from .kept import SCALE
from .shards import Shard, shard_of


class Line(NamedTuple):
    """One parameter's tensors for a step, as they lie here."""

    spec: StepSpec
    shard: Shard
    carry: Tensor | None
    states: tuple[Tensor, ...]
    scales: tuple[Tensor | None, ...]
    stream: int
    names: tuple[str, ...]
    """Of the entries of the parameter's state that were lined up."""
    entries: tuple[Tensor, ...]

    def holds(self, flags: Flag, strict: bool, state: dict[str, Any]) -> bool:
        """Return whether the options are the same, and the state still holds the same tensors."""
        spec = self.spec
        return (
            spec.flags == flags
            and spec.strict == strict
            and all(map(is_, map(state.get, self.names), self.entries))
        )


def line_up(spec: StepSpec, shard: Shard, state: dict[str, Any], stream: int) -> Line:
    """Collect the tensors of one parameter's state."""
    kept = states(spec.rule, spec.flags)
    scaled = [name + SCALE for name in kept if name + SCALE in state]
    carry = carry_name(spec.strategy)
    names = (*kept, *scaled, *(() if carry is None else (carry,)))
    return Line(
        spec,
        shard,
        None if carry is None else shard_of(state[carry]).local,
        tuple(shard_of(state[name]).local for name in kept),
        tuple(state.get(name + SCALE) for name in kept) if scaled else (),
        stream,
        names,
        tuple(state[name] for name in names),
    )
