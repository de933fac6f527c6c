"""Scales that a plan adds to formats whose range is fixed: of the loss, and of each tensor."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from ..errors import PlanError
from ..formats import DynamicFloatingPoint, FloatingPoint, Precision
from .roles import FP32

TensorScaling = Literal["none", "current", "delayed"]
_TENSORS = ("none", "current", "delayed")
DYNAMIC, DELAYED = "dynamic", "delayed"
assert isinstance(FP32.format, FloatingPoint)
_REACH = 2.0**FP32.format.max_exponent
"""Formats that reach so far need no scale: bf16, tf32, fp32."""


@dataclass(frozen=True)
class Scaling:
    """How values are brought into the range of formats that have no scale of their own.

    Args:
        loss: factor on the loss: 1 for none, another number for a fixed one, ``dynamic`` for one
            that grows while gradients are finite and shrinks when they are not (Micikevicius et
            al., ICLR 2018).
        tensors: power-of-two scales of float formats with less range than fp32, so that a tensor's
            largest magnitude lies in the format's top binade: ``none``, ``current`` (from the
            tensor itself: e4m3 becomes ``de4m3``, see ``DynamicFloatingPoint``) or ``delayed``
            (from the largest magnitudes of earlier training forwards; formats with a scale of their
            own per tensor or channel then follow those too).
        history: training forwards that a delayed scale remembers.

    Raises:
        PlanError: for another word, a loss scale that is not finite and over 0, or no history.
    """

    loss: float | Literal["dynamic"] = 1.0
    tensors: TensorScaling = "none"
    history: int = 16

    def __post_init__(self) -> None:
        """Refuse what means nothing."""
        if self.tensors not in _TENSORS:
            raise PlanError(
                "[scaling]", f"tensors = {self.tensors!r}", "use one of " + ", ".join(_TENSORS)
            )
        number = isinstance(self.loss, int | float) and not isinstance(self.loss, bool)
        if self.loss != DYNAMIC and not (number and 0 < float(self.loss) < math.inf):
            raise PlanError(
                "[scaling]", f"loss = {self.loss!r}", "give 'dynamic' or a number over 0"
            )
        if not isinstance(self.history, int) or self.history < 1:
            raise PlanError("[scaling]", f"history = {self.history!r}", "give 1 step or more")

    def of(self, precision: Precision) -> Precision:
        """Return a precision with the scale that tensors get, the same if that is none."""
        fmt = precision.format
        if self.tensors == "none" or not isinstance(fmt, FloatingPoint) or fmt.max >= _REACH:
            return precision
        return replace(precision, format=DynamicFloatingPoint(fmt))
