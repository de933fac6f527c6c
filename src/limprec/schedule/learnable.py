"""Learnable precision (LDP): each layer finds its own forward bits by gradient descent."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import LimprecError, PlanError
from ..nn import learn_bits, learnable_layers, set_bits
from ..plan import LayerPlan


@dataclass(frozen=True)
class Learnable:
    """The bits of LDP (Yu et al., 2022, arXiv 2203.07713), from one number beta a layer.

    bits = clamp(rint(beta * (high - low) + low), low, high).

    Args:
        low: least bits, at least 2; those of beta = 0, where training starts.
        high: most bits, at least ``low``; those of beta = 1.

    Raises:
        PlanError: for bits out of range.
    """

    low: int = 3
    high: int = 8

    def __post_init__(self) -> None:
        """Refuse ranges that are none."""
        if not 2 <= self.low <= self.high:
            raise PlanError("Learnable", f"{self.low} to {self.high} bits", "give 2 <= low <= high")

    def bits(self, beta: float) -> int:
        """Return the forward bits of a beta; beyond 0 to 1 they stay at their ends.

        Raises:
            LimprecError: for NaN.
        """
        if math.isnan(beta):
            raise LimprecError("Learnable", "beta is nan", "give a number")
        return round(self.low + min(max(beta, 0.0), 1.0) * (self.high - self.low))


class LearnedBits(nn.Module):
    """Lets each layer of a converted model learn its forward bits.

    Its parameter, one beta a layer, is trained beside the model's, without weight decay, which
    would pull the bits down::

        model = lp.convert(model, lp.Plan.load("cpt"))
        macs = collections.Counter()
        for product in lp.costs.trace(model, (1, 28, 28)).products:
            macs[product.layer] += product.macs
        learned = lp.schedule.LearnedBits(model, lp.schedule.Learnable(3, 8), macs)
        own = {"params": learned.parameters(), "lr": 0.1, "weight_decay": 0.0}
        groups = [{"params": model.parameters()}, own]
        optimizer = torch.optim.SGD(groups, lr=0.02, momentum=0.9)
        for x, y in batches:
            optimizer.zero_grad()
            (loss(model(x), y) + weight * learned.penalty()).backward()
            optimizer.step()
            learned.step()

    A layer's weights and activations share its beta, whose gradient comes through the scales of
    both: -ln 2 * 2^bits / (2^bits - 1) * (high - low) * sum(g (y - x)), where y is the rounded x
    and g = dL/dy. Errors and gradients keep their bits. The first layer's input gets a
    gradient too, which other training does not compute.

    A deep copy of the model alone keeps the bits that it has and learns no more. Layers that are
    functions learn if the model was converted with ``example_inputs``. Betas are no parameters of
    the model: with several processes, average ``betas.grad`` over them before the optimizer's step.
    Under ``torch.compile`` training is refused.

    Args:
        model: what ``lp.convert`` returned, with ``compute="exact"``; a second ``LearnedBits`` on
            it takes the place of the first.
        rule: bits by beta.
        macs: layer -> multiply-adds, which weight the penalty; other layers may be among them. None
            weights all layers alike.

    Raises:
        ConversionError: if the model is not converted, no layer has forward bits, or one has an
            accumulator, blocks along its sums, or another way of computing; the message says what
            to do.
        FormatError: if the dtype of a layer cannot hold the most bits.
        LimprecError: if ``macs`` lacks a layer, or is no weighting.
    """

    betas: nn.Parameter
    """float32, (layers,), in the order of ``layers``; ``step`` keeps them within 0 and 1."""

    _shares: Tensor
    _backward: Tensor

    def __init__(
        self, model: nn.Module, rule: Learnable, macs: Mapping[str, float] | None = None
    ) -> None:
        super().__init__()
        self.rule, self._macs = rule, macs
        plans = learnable_layers(model)
        self.layers = tuple(plans)
        """Names of the layers that learn."""
        self._model = (model,)  # in a tuple, or its parameters would be this module's
        like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
        self.betas = nn.Parameter(torch.zeros(len(plans), device=like.device, dtype=torch.float32))
        shares = torch.tensor(_shares(plans, macs), dtype=torch.float64)
        backward = torch.tensor([float(p.error.format.bits) for p in plans.values()])
        most = (shares * _metric(torch.tensor(float(rule.high)), backward)).sum()
        self.register_buffer("_shares", (shares / most).to(self.betas), persistent=False)
        self.register_buffer("_backward", backward.to(self.betas), persistent=False)
        set_bits(model, dict.fromkeys(plans, rule.high))  # refuses what a layer cannot hold
        learn_bits(model, self.betas, rule.high - rule.low)
        self.bits: dict[str, int] = {}
        """Layer -> forward bits that it runs in."""
        self.step()

    def step(self) -> None:
        """Take the bits of the betas into the model; to be called after the optimizer's step.

        Betas are first put back within 0 and 1: one that strayed further would take as many steps
        back before its bits moved again.

        Raises:
            LimprecError: if a beta is NaN; bits stay as they are then.
        """
        with torch.no_grad():
            self.betas.clamp_(0.0, 1.0)
        values = dict(zip(self.layers, self.betas.tolist(), strict=True))
        for name, beta in values.items():
            if math.isnan(beta):
                raise LimprecError(
                    "LearnedBits",
                    f"beta of layer {name!r} is nan",
                    "skip the optimizer's step where gradients are not finite, or train slower",
                )
        bits = {name: self.rule.bits(beta) for name, beta in values.items()}
        set_bits(self._model[0], bits)
        self.bits = bits

    def penalty(self) -> Tensor:
        """Return what a step costs, as a share of one in the most bits; it has a gradient.

        CPT's metric of one step (Fu et al., ICLR 2021), (f f + 2 f b) / (3 * 32 * 32), of each
        layer, weighted by its multiply-adds, with f = low + beta * (high - low), not rounded, and b
        the bits of its error. LDP's own term was not found in public: this one is ours. Times a
        weight of your choice it is added to the loss.

        Returns:
            float32 scalar; 1 where all betas are 1.
        """
        forward = self.rule.low + self.betas * (self.rule.high - self.rule.low)
        return (self._shares * _metric(forward, self._backward)).sum()

    def get_extra_state(self) -> dict[str, Any]:
        """Return the names of the layers, for ``state_dict``."""
        return {"layers": list(self.layers)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take the bits of loaded betas into the model; PyTorch calls it when they are there.

        Raises:
            LimprecError: if the names differ, or a beta is NaN.
        """
        if tuple(state["layers"]) != self.layers:
            raise LimprecError(
                "LearnedBits",
                f"a state of the layers {', '.join(state['layers'])}",
                f"load one of {', '.join(self.layers)}",
            )
        self.step()

    def __deepcopy__(self, memo: dict[int, Any]) -> LearnedBits:
        """Copy the model too, unless it is copied already, and let the copy learn by this."""
        twin = LearnedBits(copy.deepcopy(self._model[0], memo), self.rule, self._macs)
        twin.load_state_dict(self.state_dict())
        return twin

    def extra_repr(self) -> str:
        """Return the bits of each layer."""
        return ", ".join(f"{name}={bits}" for name, bits in self.bits.items())


def _metric(forward: Tensor, backward: Tensor) -> Tensor:
    """Return CPT's metric times 3 * 32 * 32."""
    return forward * forward + 2 * forward * backward


def _shares(plans: Mapping[str, LayerPlan], macs: Mapping[str, float] | None) -> list[float]:
    """Return each layer's share of the multiply-adds."""
    if macs is None:
        return [1 / len(plans)] * len(plans)
    if missing := [name for name in plans if name not in macs]:
        raise LimprecError(
            "LearnedBits",
            f"macs has no layer {missing[0]!r}",
            "give every layer that learns its multiply-adds, 0 if it has none",
        )
    own = [float(macs[name]) for name in plans]
    total = math.fsum(own)
    if min(own) < 0 or not 0 < total < math.inf:
        raise LimprecError("LearnedBits", f"macs of {own}", "give numbers from 0, one above it")
    return [value / total for value in own]
