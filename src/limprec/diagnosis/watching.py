"""Watching a training: which steps are looked at, and who looks at what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..errors import DiagnosisError
from ..plan import Accumulator, parse_accumulator
from .accumulators import SEED
from .layers import LayerWatch
from .parameters import ParameterWatch
from .report import Report, rows_of
from .scale import ScaleWatch
from .shadow import Shadow

EVERY = 50


def diagnose(
    model: nn.Module,
    optimizer: Optimizer,
    *,
    every: int = EVERY,
    shadow: bool = False,
    accumulator: str | None = None,
    chunk: int | None = None,
    kahan: bool = False,
    scaler: Any = None,
) -> Diagnosis:
    """Watch a training and tell where updates and gradients get lost, and what to change.

    ::

        with lp.diagnose(model, optimizer) as d:
            train_one_epoch()
        print(d.table())

    A step begins with a forward pass of ``model`` in training mode and ends with
    ``optimizer.step``. Each ``every``-th one is looked at, the first included; in between nothing
    is done. The bits of the training stay what they are. Takes a copy of the parameters and a byte
    for each element.

    Args:
        model: the model that is trained, converted or not; call the model itself, not its parts.
        optimizer: of ``lp.optim``, or any of PyTorch's kind, of which less can be told.
        every: look at one step in so many, 1 or more.
        shadow: also run the batch of these steps in float32 and compare gradients, see ``Shadow``.
        accumulator: judge sums in this accumulator on sampled dot products, in the words of a plan
            (``e5m10``, ``e5m7 chunk=64``), whatever the layers themselves add in; None for that of
            each layer's plan, where it has one.
        chunk: terms in a partial sum of that accumulator, see ``lp.matmul``.
        kahan: whether that accumulator compensates its sums.
        scaler: the ``torch.amp.GradScaler`` of the training, if there is one.

    Returns:
        The diagnosis, which watches until its context or ``close`` ends.

    Raises:
        DiagnosisError: for a model or optimizer that is none, parameters that are not the model's,
            a number out of range, or ``chunk`` or ``kahan`` without ``accumulator``.
        FormatError: for an accumulator's unknown format.
        PlanError: for an accumulator that cannot be read.
        KernelError: for one that cannot be simulated.
    """
    return Diagnosis(
        model,
        optimizer,
        every=every,
        shadow=shadow,
        accumulator=_accumulator(accumulator, chunk, kahan),
        scaler=scaler,
    )


class Diagnosis:
    """A training that is watched; made by ``diagnose``.

    Args:
        model: see ``diagnose``, as all others.
        optimizer: watched too.
        every: one step in so many is looked at.
        shadow: whether to compare with float32.
        accumulator: what to judge on sampled dot products; None for that of the plan.
        scaler: a gradient scaler, or None.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        every: int = EVERY,
        shadow: bool = False,
        accumulator: Accumulator | None = None,
        scaler: Any = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise DiagnosisError(
                "diagnose", f"{type(model).__name__} is no model", "give a torch.nn.Module"
            )
        if not isinstance(optimizer, Optimizer):
            raise DiagnosisError(
                "diagnose",
                f"{type(optimizer).__name__} is no optimizer",
                "give one of lp.optim or torch.optim",
            )
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise DiagnosisError("diagnose", f"every is {every!r}", "give an integer of 1 or more")
        mine = set(model.parameters())
        if not any(p in mine for group in optimizer.param_groups for p in group["params"]):
            raise DiagnosisError(
                "diagnose",
                "the optimizer holds no parameter of the model",
                "make it from model.parameters()",
            )
        self._optimizer, self._every = optimizer, every
        self._steps = self._sampled = 0
        self._looking = self._aside = False
        self._shadow = Shadow(model) if shadow else None
        self._layers = LayerWatch(model, accumulator)
        self._parameters = ParameterWatch(model, optimizer)
        self._scale = ScaleWatch(scaler)
        self._model = model
        self._passing: list[Any] = []
        self._hooks = [
            model.register_forward_pre_hook(self._forward_begins, with_kwargs=True),
            model.register_forward_hook(self._forward_ends),
            optimizer.register_step_pre_hook(self._step_begins),
            optimizer.register_step_post_hook(self._step_ends),
        ]

    def __enter__(self) -> Self:
        """Watch inside the context."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Stop watching."""
        self.close()

    def close(self) -> None:
        """Stop watching; what was seen stays. Closing twice is harmless."""
        self._look_away()
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self._parameters.close()

    def report(self) -> Report:
        """Return what was found so far.

        Raises:
            DiagnosisError: if no step was taken yet.
        """
        if not self._sampled:
            raise DiagnosisError(
                "diagnose",
                "no step was taken yet",
                "call model(...) in training mode and optimizer.step() while it watches",
            )
        extra = self._shadow.measures if self._shadow else None
        rows = [
            *self._scale.rows(self._sampled),
            *self._layers.rows(),
            *self._parameters.rows(extra),
        ]
        return Report(
            steps=self._steps,
            sampled=self._sampled,
            every=self._every,
            optimizer=type(self._optimizer).__name__,
            rows=rows_of(rows),
            notes=(*self._layers.notes(), *self._parameters.notes()),
        )

    def table(self, limit: int | None = 24) -> str:
        """Return the faults in words and a table, worst first; see ``Report.table``."""
        return self.report().table(limit)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return self.report().as_dict()

    def to_json(self) -> str:
        """Return the report as JSON text."""
        return self.report().to_json()

    def save(self, path: str | Path) -> None:
        """Write the report as JSON, which ``Report.load`` and ``limprec diagnose --load`` read."""
        self.report().save(path)

    # When to look

    def _forward_begins(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        if self._aside or not module.training or not torch.is_grad_enabled():
            return
        if self._looking and self._scale.skipped():  # the scaler never called step
            self._end()
        if self._steps % self._every == 0:
            self._look()
            if self._shadow is not None:
                self._shadow.called(args, kwargs)

    def _forward_ends(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._looking and not self._aside and self._shadow is not None and module.training:
            self._shadow.returned(output)

    def _step_begins(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self._steps % self._every == 0:
            self._look()  # also where the forward pass was not the model's own
            if self._shadow is not None:
                self._aside = True
                try:
                    self._shadow.compare()
                finally:
                    self._aside = False
            self._parameters.before_step()

    def _step_ends(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self._looking:
            self._parameters.after_step()
        self._end()

    def _look(self) -> None:
        """Begin to look at a step; nothing if that is done already."""
        if self._looking:
            return
        self._looking = True
        self._scale.look()
        gradient = None if self._shadow is None else self._shadow.gradient
        self._passing = [
            self._layers.look(lambda: self._aside),
            self._parameters.look(lambda name, grad: self._gradient(name, grad, gradient)),
        ]

    def _gradient(
        self, name: str, grad: Tensor, also: Callable[[str, Tensor], None] | None
    ) -> None:
        if self._aside:
            return
        self._layers.gradient(name, grad)
        if also is not None:
            also(name, grad)

    def _look_away(self) -> None:
        for stop in self._passing:
            stop()
        self._passing = []
        self._looking = False

    def _end(self) -> None:
        self._sampled += self._looking
        self._steps += 1
        self._look_away()


def _accumulator(fmt: str | None, chunk: int | None, kahan: bool) -> Accumulator | None:
    if fmt is None:
        if chunk is not None or kahan:
            given = "kahan" if kahan else f"chunk={chunk}"
            raise DiagnosisError(
                "diagnose", f"{given} without an accumulator", "name one, e.g. accumulator='e5m10'"
            )
        return None
    accumulator = parse_accumulator(fmt)
    if chunk is not None:
        accumulator = replace(accumulator, chunk=chunk)
    accumulator = replace(accumulator, kahan=accumulator.kahan or kahan)
    accumulator.multiply(torch.ones(1, 1), torch.ones(1, 1), SEED)  # what is wrong shows here
    return accumulator
