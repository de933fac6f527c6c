"""Counting updates that leave no trace in what an optimizer stores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor

from ..optim import UpdateEvent
from ..optim.base import WriteBackOptimizer


class UpdateMeter:
    """Counts non-zero updates, and those after which nothing stored had changed.

    An update is lost if the parameter and what is kept beside it (compensation, full-precision
    copy) are bit for bit what they were. Under stochastic rounding such an update is not lost on
    average; the share is reported all the same, since it tells how coarse the steps are, and
    ``drift`` tells the two apart.

    Args:
        optimizer: any optimizer of limprec; it is watched until the context or ``close`` ends.
        drift: also sum every update in float64 and compare with how far the parameters came;
            takes 16 bytes a parameter.
    """

    def __init__(self, optimizer: WriteBackOptimizer, *, drift: bool = False) -> None:
        self._drift = drift
        self._lost: dict[Tensor, Tensor] = {}
        self._nonzero: dict[Tensor, Tensor] = {}
        self._moved: dict[Tensor, Tensor] = {}
        self._sum: dict[Tensor, Tensor] = {}
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
        return sum(int(n) for n in self._lost.values())

    @property
    def nonzero(self) -> int:
        """Updates that were not zero."""
        return sum(int(n) for n in self._nonzero.values())

    @property
    def share(self) -> float:
        """Share of the non-zero updates that left no trace; 0 where there were none."""
        return self.lost / self.nonzero if self.nonzero else 0.0

    @property
    def missing(self) -> float:
        """Share of the asked-for movement that never arrived, over all parameters.

        With U the exact sum of all updates and D how far the parameters came, 1 - <U, D> / <U, U>:
        0 if everything arrived, 1 if nothing did; stochastic rounding gives about 0 on average.
        NaN without ``drift`` or before any update.
        """
        asked = arrived = 0.0
        for p, total in self._sum.items():
            asked += float((total * total).sum())
            arrived += float((total * self._moved[p]).sum())
        return 1 - arrived / asked if asked else float("nan")

    def _count(self, p: Tensor, event: UpdateEvent) -> None:
        moving = event.update != 0
        same = event.after == event.before
        if event.carry_before is not None and event.carry_after is not None:
            same &= event.carry_after == event.carry_before
        zero = torch.zeros((), dtype=torch.int64, device=p.device)
        self._lost[p] = self._lost.get(p, zero) + (moving & same).sum()
        self._nonzero[p] = self._nonzero.get(p, zero) + moving.sum()
        if self._drift:
            update, moved = event.update.double(), event.after.double() - event.before.double()
            self._sum[p] = self._sum[p] + update if p in self._sum else update.clone()
            self._moved[p] = self._moved[p] + moved if p in self._moved else moved
