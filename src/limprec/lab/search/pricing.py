"""What a plan costs, without training it."""

from __future__ import annotations

import warnings

import torch

from ...costs import cost
from ...errors import GuidelineWarning
from ..data import DataSet
from ..models import Task, build_model
from .settings import SearchSettings
from .space import Levels, Space


class Pricing:
    """The objective of a search as a function of the plan; each plan is priced once.

    Args:
        settings: the search.
        data: its data set.
        space: its plans.
    """

    def __init__(self, settings: SearchSettings, data: DataSet, space: Space) -> None:
        self._settings, self._data, self._space = settings, data, space
        run = settings.run
        task = Task(data.kind, tuple(data.input_shape), data.num_classes)
        self._model = build_model(run.model, task, run.seed)
        moving = run.optimizer == "sgd" and run.momentum
        self._optimizer = "sgd-momentum" if moving else run.optimizer
        self._known: dict[Levels, float] = {}

    def __call__(self, levels: Levels) -> float:
        """Return the joules of a step, or the bytes of training, see ``lp.cost``.

        Raises:
            CostError: if the plan or the model cannot be priced.
        """
        if levels not in self._known:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", GuidelineWarning)  # the training says it once
                found = cost(
                    self._model,
                    self._space.plan(levels),
                    self._data.input_shape,
                    self._settings.run.batch_size,
                    technology=self._settings.technology,
                    optimizer=self._optimizer,
                    writeback=self._settings.run.writeback,
                    dtype=torch.long if self._data.kind == "text" else None,
                    against=(),
                )
            energy = self._settings.objective == "energy"
            self._known[levels] = found.energy if energy else found.total_memory
        return self._known[levels]
