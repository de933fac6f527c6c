"""What the step of each parameter needs beside its gradient, lined up once and used again.

A step of many small parameters is as long as what Python does for each of them: here that is a few
lookups to see that nothing was exchanged since the last step.
"""

from __future__ import annotations

from operator import is_
from typing import Any, NamedTuple

from torch import Tensor

from ..kernels.steps import Batch, Flag, Slots, StepKey, StepSpec, carry_name, states
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
            spec.flags is flags
            and spec.strict == strict
            and all(map(is_, map(state.get, self.names), self.entries))
        )

    def slots(self, grad: Tensor, carry: Tensor | None) -> Slots:
        """Return the tensors of a step."""
        return Slots(self.shard.local, grad, carry, self.states, self.scales)


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


class Row:
    """One parameter of a group: itself, its number; from its first step on its state and line."""

    __slots__ = ("index", "line", "p", "state")

    def __init__(self, p: Tensor, index: int) -> None:
        self.p, self.index = p, index
        self.state: dict[str, Any] = {}
        self.line: Line | None = None

    @property
    def lined(self) -> Line:
        """The line, which a step has lined up."""
        assert self.line is not None
        return self.line

    def key(self, seed: int, number: int) -> StepKey:
        """Return where the random bits of a step are."""
        return StepKey(seed, self.lined.stream, number, self.lined.shard.offset)


class Lot:
    """Rows that step together, in batches of one spec and one number of steps."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows
        self.batches: list[tuple[Batch, list[int]]] = []
        found: dict[tuple[StepSpec, int], list[int]] = {}
        for place, row in enumerate(rows):
            found.setdefault((row.lined.spec, row.state["step"]), []).append(place)
        for (spec, _), places in found.items():
            lines = [rows[place].lined for place in places]
            # No gradient is kept from step to step: the parameter stands in its place.
            slots = [line.slots(line.shard.local, line.carry) for line in lines]
            streams = [line.stream for line in lines]
            batch = Batch(spec, slots, streams, [line.shard.offset for line in lines])
            self.batches.append((batch, places))

    def is_of(self, rows: list[Row]) -> bool:
        """Return whether the lot is of just these rows."""
        return len(rows) == len(self.rows) and all(map(is_, rows, self.rows))
