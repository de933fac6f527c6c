"""Which parameters stand still, and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..formats import Format, ScalarFormat
from ..optim import UpdateEvent
from ..optim.base import WriteBackOptimizer

_ASKED, _MOVED, _KEPT, _AT_THE_END = 1, 2, 4, 8


@dataclass(frozen=True)
class FrozenParameter:
    """How many elements of one parameter have not moved since the meter began, by reason.

    The reasons exclude each other, in this order; with ``moved`` they add up to ``elements``.
    """

    name: str
    elements: int
    moved: int
    """Elements that have another value, or had one in between."""
    no_gradient: int
    """No update asked for anything: the gradient was zero, or there was none."""
    saturated: int
    """The parameter is at an end of its format's range, and was pushed beyond."""
    pending: int
    """The updates are under half an ulp, but they collect beside the parameter."""
    too_small: int
    """The updates are under half an ulp and are lost."""

    @property
    def share(self) -> float:
        """Share of the elements that have not moved; 0 for an empty parameter."""
        return 1 - self.moved / self.elements if self.elements else 0.0

    @property
    def reason(self) -> str:
        """The most frequent reason in words, with its remedy; empty where everything moved."""
        counts = {
            "updates under half an ulp are lost: use writeback='kahan'": self.too_small,
            "updates collect in the compensation: wait, or raise the rate": self.pending,
            "saturated: give the format more range": self.saturated,
            "no gradient arrives": self.no_gradient,
        }
        reason, most = max(counts.items(), key=lambda item: item[1])
        return reason if most else ""


def names_of(optimizer: Optimizer, model: nn.Module | None) -> dict[Tensor, str]:
    """Return the parameters of an optimizer with their names, numbers where there are none."""
    names: dict[Tensor, str] = {}
    for group in optimizer.param_groups:
        given = group.get("param_names") or [None] * len(group["params"])
        for p, name in zip(group["params"], given, strict=True):
            names[p] = name or str(len(names))
    if model is not None:
        names |= {p: n for n, p in model.named_parameters() if p in names}
    return names


class StillElements:
    """Notes of each element of one parameter, a byte each, whether it moved or what kept it."""

    def __init__(self, p: Tensor) -> None:
        self._seen = torch.zeros(p.shape, dtype=torch.uint8, device=p.device)

    def note(self, event: UpdateEvent, fmt: Format) -> None:
        """Note one write-back of a parameter that is stored in ``fmt``."""
        before, after = event.before.float(), event.after.float()
        self._mark(event.update != 0, _ASKED)
        self._mark(before != after, _MOVED)
        if event.carry_before is not None and event.carry_after is not None:
            self._mark(event.carry_before.float() != event.carry_after.float(), _KEPT)
        if isinstance(fmt, ScalarFormat):
            high = (after >= fmt.max) & (event.update > 0)
            low = (after <= fmt.min) & (event.update < 0)
            self._mark(high | low, _AT_THE_END)

    def note_moved(self, moved: Tensor) -> None:
        """Note elements that are known to have moved, a mask of the parameter's shape."""
        self._mark(moved, _MOVED)

    def count(self, name: str) -> FrozenParameter:
        """Return how many elements have not moved, by reason."""
        seen = self._seen
        moved = seen & _MOVED > 0
        asked = seen & _ASKED > 0
        at_the_end = ~moved & asked & (seen & _AT_THE_END > 0)
        kept = ~moved & asked & ~at_the_end & (seen & _KEPT > 0)
        rest = ~moved & asked & ~at_the_end & ~kept
        moves, silent, ends, pends, small = (
            int(mask.sum()) for mask in (moved, ~moved & ~asked, at_the_end, kept, rest)
        )
        return FrozenParameter(name, seen.numel(), moves, silent, ends, pends, small)

    def _mark(self, where: Tensor, flag: int) -> None:
        self._seen |= where.to(torch.uint8) * flag


class FrozenMeter:
    """Watches an optimizer and tells which of its parameters have not moved, and why.

    Takes one byte an element. While it watches, steps run in the reference, one parameter at a
    time: the same bits, slower.

    ::

        with FrozenMeter(optimizer, model) as meter:
            train_some_steps()
        print(meter.table())

    Args:
        optimizer: any optimizer of limprec; it is watched until the context or ``close`` ends.
        model: gives the names; without it those of the groups' ``param_names``, else numbers.
    """

    def __init__(self, optimizer: WriteBackOptimizer, model: nn.Module | None = None) -> None:
        self._optimizer = optimizer
        self._names = names_of(optimizer, model)
        self._seen = {p: StillElements(p) for p in self._names}
        self._stop: Callable[[], None] | None = optimizer.observe(self._watch)

    def __enter__(self) -> Self:
        """Watch inside the context."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Stop watching."""
        self.close()

    def close(self) -> None:
        """Stop watching; what was seen stays. Closing twice is harmless."""
        if self._stop is not None:
            self._stop()
            self._stop = None

    def parameters(self) -> list[FrozenParameter]:
        """Return what was seen of each parameter, the stillest first."""
        found = [seen.count(self._names[p]) for p, seen in self._seen.items()]
        return sorted(found, key=lambda one: -one.share)

    def table(self) -> str:
        """Return the parameters that do not move throughout, a line each, the stillest first."""
        still = [one for one in self.parameters() if one.share > 0]
        if not still:
            return "every element of every parameter has moved"
        width = max(len("parameter"), *(len(one.name) for one in still))
        lines = [f"{'parameter':<{width}}  {'elements':>10}  {'still':>7}  most of them because"]
        lines += [
            f"{one.name:<{width}}  {one.elements:>10,}  {one.share:>7.1%}  {one.reason}"
            for one in still
        ]
        return "\n".join(lines)

    def _watch(self, p: Tensor, event: UpdateEvent) -> None:
        self._seen[p].note(event, self._optimizer.formats_of(p)["parameter"])
