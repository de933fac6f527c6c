"""Moving the forward bits of a converted model along a schedule, as training goes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from ..errors import LimprecError
from ..nn import set_bits
from .cyclic import Cyclic


class BitScheduler:
    """Gives a converted model the forward bits of each training step.

    Used as PyTorch's schedulers of learning rates are::

        model = lp.convert(model, lp.Plan.load("cpt"))
        bits = lp.schedule.BitScheduler(model, lp.schedule.Cyclic(3, 8), steps=64_000)
        for x, y in batches:
            ...
            optimizer.step()
            bits.step()

    Weights and activations in dynamic fixed point or affine integers change; errors, gradients
    and what the plan leaves in fp32 do not, and parameters stay as the optimizer stores them.
    Under ``torch.compile`` each number of bits is compiled once.

    Args:
        model: what ``lp.convert`` returned.
        schedule: bits by step.
        steps: of the whole training.

    Raises:
        ConversionError: if the model is not converted, has no such layer, or cannot compute in the
            schedule's most bits.
        LimprecError: if the schedule does not fit the steps.
    """

    def __init__(self, model: nn.Module, schedule: Cyclic, steps: int) -> None:
        self.model, self.schedule, self.steps = model, schedule, steps
        schedule.bits(0, steps)
        set_bits(model, schedule.high)
        self.last = 0
        """The step that the model is at."""
        self.at(0)

    @property
    def bits(self) -> int:
        """Forward bits of the step that the model is at."""
        return self.schedule.bits(min(self.last, self.steps - 1), self.steps)

    def step(self) -> None:
        """Go on to the next step; after the last the bits stay."""
        self.at(self.last + 1)

    def at(self, step: int) -> None:
        """Go to a step, counted from 0.

        Raises:
            LimprecError: for a negative one.
        """
        if step < 0:
            raise LimprecError("BitScheduler", f"step {step}", "count from 0")
        self.last = step
        set_bits(self.model, self.bits)

    @contextmanager
    def widest(self) -> Iterator[None]:
        """Within it the model runs in the schedule's most bits, as for an evaluation."""
        set_bits(self.model, self.schedule.high)
        try:
            yield
        finally:
            set_bits(self.model, self.bits)

    def state_dict(self) -> dict[str, Any]:
        """Return the step."""
        return {"last": self.last}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to the step of a saved state."""
        self.at(int(state["last"]))
