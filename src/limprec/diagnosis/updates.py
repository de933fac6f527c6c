"""Counting updates that leave no trace in what an optimizer stores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor

from ..optim import UpdateEvent
from ..optim.base import WriteBackOptimizer


def count_lost(event: UpdateEvent) -> Tensor:
    """Return int64 (lost, non-zero): updates that left no trace in what is stored, and all."""
    moving = event.update != 0
    same = event.after == event.before
    if event.carry_before is not None and event.carry_after is not None:
        same &= event.carry_after == event.carry_before
    return torch.stack([(moving & same).sum(), moving.sum()])


class UpdateTally:
    """One parameter's updates in sampled steps: how many got lost, and how much of the movement.

    Unlike ``UpdateMeter`` it looks at single steps, far apart: the movement of a step is that of
    all that is stored, the parameter and what its write-back keeps beside it.
    """

    def __init__(self) -> None:
        self._counts: Tensor | None = None
        self._ways: Tensor | None = None

    def count(self, event: UpdateEvent) -> None:
        """Count the updates of one step."""
        found = count_lost(event)
        self._counts = found if self._counts is None else self._counts + found

    def move(self, update: Tensor, came: Tensor) -> None:
        """Add what one step asked for, and how far what is stored came; both finite or ignored."""
        u, d = update.double(), came.double()
        usable = u.isfinite() & d.isfinite()
        u, d = torch.where(usable, u, 0.0), torch.where(usable, d, 0.0)
        found = torch.stack([(u * d).sum(), (u * u).sum()])
        self._ways = found if self._ways is None else self._ways + found

    def measures(self) -> dict[str, float]:
        """Return the measures by name; one that has no meaning here is left out.

        ``updates_lost`` is the share of the non-zero updates that left no trace; ``movement_lost``
        is 1 - sum <u, d> / sum <u, u>, u the updates of a step and d how far what is stored came.
        """
        lost, nonzero = (0, 0) if self._counts is None else self._counts.tolist()
        arrived, asked = (0.0, 0.0) if self._ways is None else self._ways.tolist()
        found = {"updates_lost": lost / nonzero} if nonzero else {}
        return found | ({"movement_lost": 1 - arrived / asked} if asked else {})


class UpdateMeter:
    """Counts non-zero updates, and those after which nothing stored had changed.

    An update is lost if the parameter and what is kept beside it (compensation, full-precision
    copy) are bit for bit what they were. Under stochastic rounding such an update is not lost on
    average, and a compensation rounded to nearest loses many tiny ones that together weigh
    little: ``movement`` tells how much of the whole way got lost.

    Args:
        optimizer: any optimizer of limprec; it is watched until the context or ``close`` ends.
        movement: also sum every update in float64 and compare with how far the parameters came;
            takes 16 bytes a parameter.
    """

    def __init__(self, optimizer: WriteBackOptimizer, *, movement: bool = False) -> None:
        self._movement = movement
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._places = {p: place for place, p in enumerate(parameters)}
        self._counts = [torch.zeros(2, dtype=torch.int64, device=p.device) for p in parameters]
        kept = parameters if movement else []
        self._ways = [torch.zeros(2, *p.shape, dtype=torch.float64, device=p.device) for p in kept]
        self._stop: Callable[[], None] | None = optimizer.observe(self._count)

    def __enter__(self) -> Self:
        """Count inside the context."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Stop counting."""
        self.close()

    def close(self) -> None:
        """Stop counting; the counts stay. Closing twice is harmless."""
        if self._stop is not None:
            self._stop()
            self._stop = None

    @property
    def lost(self) -> int:
        """Updates that left no trace."""
        return sum(int(count[0]) for count in self._counts)

    @property
    def nonzero(self) -> int:
        """Updates that were not zero."""
        return sum(int(count[1]) for count in self._counts)

    @property
    def share(self) -> float | None:
        """Share of the non-zero updates that left no trace; None where there were none."""
        return self.lost / self.nonzero if self.nonzero else None

    @property
    def movement_lost(self) -> float | None:
        """Share of the asked-for movement that never arrived, over all parameters.

        With U the exact sum of all updates and D how far the parameters came, 1 - <U, D> / <U, U>:
        0 if everything arrived, 1 if nothing did, below 0 if the parameters overshot. None without
        ``movement`` or where no update asked for anything.
        """
        asked = sum(float((way[0] * way[0]).sum()) for way in self._ways)
        arrived = sum(float((way[0] * way[1]).sum()) for way in self._ways)
        return 1 - arrived / asked if asked else None

    def state_dict(self) -> dict[str, Any]:
        """Return the counts and sums, for a checkpoint."""
        return {"counts": self._counts, "ways": self._ways}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from saved counts of an optimizer with the same parameters."""
        for mine, saved in zip(
            (*self._counts, *self._ways), (*state["counts"], *state["ways"]), strict=True
        ):
            mine.copy_(saved)

    def _count(self, p: Tensor, event: UpdateEvent) -> None:
        place = self._places[p]
        self._counts[place] += count_lost(event)
        if self._movement:
            moved = event.after.double() - event.before.double()
            self._ways[place] += torch.stack([event.update.double(), moved])
