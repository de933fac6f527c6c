"""The converted layers: the op in the carrier between rounded operands.

A layer y = op(x, w) + b computes op(Qa(x), Qw(w)) + Qb(b); going back, e = Qe(dL/dy) feeds
dL/dx = op'(e, Qw(w)), Qg(op'(e, Qa(x))) and the bias' sum. Every operand of every product is
narrow, and what autograd saves is Qa(x) and Qw(w).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from ..formats import Precision, Rounding
from ..kernels import Key, round_through, round_to
from ..kernels.carrier import is_identity
from ..plan import LAYER_ROLES, LayerPlan
from .watch import Teller

_STREAMS = {"activation": 0, "weight": 1, "error": 2, "gradient": 3, "bias": 4, "bias gradient": 5}
_STREAMS_PER_LAYER = 8


@dataclass
class RandomState:
    """The random state of a converted model: the one thing of ours in its ``state_dict``.

    ``step`` counts training forwards of the root module; a recomputed inner forward (activation
    checkpointing) and an evaluation leave it, so that they round as the step did.
    """

    seed: int
    step: int = 0


@dataclass
class LayerState:
    """What a converted layer knows: its precisions, its place and the model's random state."""

    plan: LayerPlan
    index: int
    random: RandomState
    tell: Teller | None = None
    """Called after each rounding, see ``watch``."""
    rounds: bool = True

    def round_in(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, ...]:
        """Return Qa(x), Qw(w), Qb(b), with Qg behind the two parameters."""
        x = self._round(x, "activation", None)
        weight = self._round(weight, "weight", "gradient")
        if bias is None or is_identity(self.plan["bias"].format, bias.dtype):
            return (x, weight) if bias is None else (x, weight, bias)
        return x, weight, self._round(bias, "bias", "gradient", "bias gradient")

    def round_out(self, y: Tensor) -> Tensor:
        """Return y, with Qe behind it."""
        return self._round(y, None, "error")

    def _round(
        self, x: Tensor, forward: str | None, backward: str | None, stream: str | None = None
    ) -> Tensor:
        ahead, ahead_key = self._precision(x, forward, forward)
        back, back_key = self._precision(x, backward, stream or backward)
        rounded = round_through(x, ahead, ahead_key, back, back_key)
        if self.tell is None or not self.rounds:
            return rounded
        if rounded is x:
            rounded = x.view_as(x)  # a hook on a parameter would outlive the pass
        if forward is not None:
            self.tell(forward, x, rounded, self.plan[forward])
        if backward is not None and rounded.requires_grad:
            self._tell_later(self.tell, rounded, backward, stream or backward, back, back_key)
        return rounded

    def _tell_later(
        self,
        tell: Teller,
        rounded: Tensor,
        role: str,
        name: str,
        back: Precision | None,
        key: Key | None,
    ) -> None:
        """Tell of the gradient's rounding too; the same key gives the same bits."""

        def arrived(grad: Tensor) -> None:
            after = grad if back is None else round_to(grad, back, key)
            tell(name, grad, after, self.plan[role])

        rounded.register_hook(arrived)  # type: ignore[no-untyped-call]

    def _precision(
        self, x: Tensor, role: str | None, stream: str | None
    ) -> tuple[Precision | None, Key | None]:
        if role is None or stream is None or not self.rounds:
            return None, None
        if is_identity(self.plan[role].format, x.dtype):
            return None, None
        precision = self.plan[role]
        if precision.rounding is not Rounding.STOCHASTIC:
            return precision, None
        number = self.index * _STREAMS_PER_LAYER + _STREAMS[stream]
        return precision, Key(self.random.seed, number, self.random.step)


class ConvertedLayer:
    """Mixed into a layer's own class by ``convert``; ``restore`` takes it out again."""

    _limprec: LayerState

    def extra_repr(self) -> str:
        """Show every precision beside the layer's own facts."""
        roles = ", ".join(f"{role}={self._limprec.plan[role]}" for role in LAYER_ROLES)
        return f"{super().extra_repr()}, {roles}"  # type: ignore[misc]  # nn.Module has it


class ConvertedLinear(ConvertedLayer, nn.Linear):
    """``nn.Linear`` under a plan; inputs (..., in_features), outputs (..., out_features)."""

    def forward(self, x: Tensor) -> Tensor:
        """Multiply rounded operands."""
        return self._limprec.round_out(F.linear(*self._limprec.round_in(x, self.weight, self.bias)))


class ConvertedConv2d(ConvertedLayer, nn.Conv2d):
    """``nn.Conv2d`` under a plan, any stride, padding, dilation and groups."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolve rounded operands; padding happens behind the rounding, and adds exact zeros."""
        x, weight, *bias = self._limprec.round_in(x, self.weight, self.bias)
        return self._limprec.round_out(self._conv_forward(x, weight, bias[0] if bias else None))


CONVERTED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: ConvertedLinear,
    nn.Conv2d: ConvertedConv2d,
}
