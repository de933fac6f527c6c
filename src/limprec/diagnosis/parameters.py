"""Where updates go: what write-back loses of each parameter, and which elements stand still."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..kernels import dtype_format
from ..kernels.steps import computing_dtype, exact
from ..optim import UpdateEvent
from ..optim.base import WriteBackOptimizer
from ..optim.shards import shard_of
from .findings import NO_GRADIENT, NOTHING_ASKED, PENDING, SATURATED, TOO_SMALL, Row
from .frozen import FrozenParameter, StillElements, names_of
from .updates import UpdateTally


class ParameterWatch:
    """Watches the parameters of an optimizer in the sampled steps.

    Args:
        model: gives the names.
        optimizer: of ``lp.optim``: its updates are seen as they are written back; any other:
            parameters are compared across its step.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._names = {
            p: name for p, name in names_of(optimizer, model).items() if p.is_floating_point()
        }
        self._start = {p: shard_of(p).local.detach().clone() for p in self._names}
        self._still = {p: StillElements(shard_of(p).local) for p in self._names}
        self._tallies = {p: UpdateTally() for p in self._names}
        self._before: dict[Tensor, tuple[Tensor, Tensor]] = {}
        self._reached: set[Tensor] = set()

    @property
    def _ours(self) -> WriteBackOptimizer | None:
        return self._optimizer if isinstance(self._optimizer, WriteBackOptimizer) else None

    def look(self, gradient: Callable[[str, Tensor], None]) -> Callable[[], None]:
        """Watch a step, and call ``gradient(name, grad)`` for each; return what stops it."""
        watched: list[Any] = [p for p in self._names if p.requires_grad]
        stops = [p.register_hook(self._gradient_of(p, gradient)).remove for p in watched]
        if self._ours is not None:
            stops.append(self._ours.observe(self._written))

        def stop() -> None:
            for one in stops:
                one()

        return stop

    @torch.no_grad()
    def before_step(self) -> None:
        """Keep what a step of somebody else's optimizer is to be compared with."""
        if self._ours is None:
            self._before = {
                p: (shard_of(p).local.clone(), shard_of(p.grad).local != 0)
                for p in self._names
                if p.grad is not None and p.grad.layout is torch.strided
            }

    @torch.no_grad()
    def after_step(self) -> None:
        """Compare with it."""
        for p, (before, asked) in self._before.items():
            event = UpdateEvent(asked, before, shard_of(p).local, None, None)
            self._tallies[p].count(event)
            self._still[p].note(event, dtype_format(p.dtype, "diagnose"))
        self._before = {}

    def close(self) -> None:
        """Compare the parameters with what they were, and let go of that."""
        self._compare_with_start()
        self._start = {}

    def rows(self, shadow: Callable[[str], Mapping[str, float]] | None) -> list[Row]:
        """Return a row for each parameter that had a step, and one for its gradient.

        Args:
            shadow: gives the comparison of a parameter's gradient with float32.
        """
        self._compare_with_start()
        rows = []
        for p, name in self._names.items():
            still = self._still[p].count(name)
            reason = _reason(still, p in self._reached)
            measures = self._tallies[p].measures() | {"still": still.share}
            fmt, how = self._kept(p)
            if p.requires_grad and still.elements:
                rows.append(Row(name, "update", fmt, how, reason, measures))
            if shadow is not None and (compared := shadow(name)):
                rows.append(Row(name, "gradient", _dtype_name(p), measures=compared))
        return rows

    def notes(self) -> list[str]:
        """Return what could not be told."""
        if self._ours is not None:
            return []
        name = type(self._optimizer).__name__
        return [
            f"{name} is no optimizer of lp.optim: how far its updates were to go is not known. Its"
            " updates count as lost where a gradient was not 0 and the parameter stayed, whatever"
            " it may keep beside."
        ]

    def _kept(self, p: Tensor) -> tuple[str, str]:
        """Return the format of a parameter, and its write-back."""
        if self._ours is None:
            return _dtype_name(p), "the optimizer's own step"
        group = self._ours._group_of(p)
        return str(self._ours.formats_of(p)["parameter"]), str(group["writeback"])

    def _gradient_of(self, p: Any, gradient: Callable[[str, Tensor], None]) -> Callable[..., None]:
        def tell(grad: Tensor) -> None:
            self._reached.add(p)
            gradient(self._names[p], grad)

        return tell

    def _written(self, p: Tensor, event: UpdateEvent) -> None:
        ours = self._ours
        if ours is None or p not in self._names:  # added while watching
            return
        spec = ours._spec(p, ours._group_of(p))
        dtype = computing_dtype(p)
        after = exact(event.after, event.carry_after, spec, dtype)
        came = after - exact(event.before, event.carry_before, spec, dtype)
        self._tallies[p].count(event)
        self._tallies[p].move(event.update, came)
        self._still[p].note(event, ours.formats_of(p)["parameter"])

    @torch.no_grad()
    def _compare_with_start(self) -> None:
        for p, start in self._start.items():
            self._still[p].note_moved(shard_of(p).local != start)


def _reason(still: FrozenParameter, reached: bool) -> str:
    """Return the most frequent reason why elements stand still; empty where all moved."""
    counts = {
        TOO_SMALL: still.too_small,
        SATURATED: still.saturated,
        PENDING: still.pending,
        NOTHING_ASKED if reached else NO_GRADIENT: still.no_gradient,
    }
    reason, most = max(counts.items(), key=lambda item: item[1])
    return reason if most else ""


def _dtype_name(p: Tensor) -> str:
    return str(dtype_format(p.dtype, "diagnose"))
