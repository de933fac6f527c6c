"""The update rules: element-wise formulas from + - * / sqrt and comparison, in the order written.

``w`` is the parameter as precisely as it is kept, ``g`` the gradient, both in the computing dtype
(float32, or float64 for float64 parameters); states come in and go out in it too, and are rounded
only when they are stored. No operation is contracted with another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .spec import Flag, Rule

SCALARS: dict[Rule, tuple[str, ...]] = {
    Rule.SGD: ("step", "decay", "momentum", "gain"),
    Rule.ADAM: ("step", "decay", "beta1", "gain1", "beta2", "gain2", "correction", "eps"),
    Rule.LION: ("step", "decay", "beta1", "gain1", "beta2", "gain2"),
    Rule.RMSPROP: ("step", "decay", "momentum", "alpha", "gain", "eps"),
    Rule.ADD: ("step", "decay"),
    Rule.AVERAGE: ("step",),
}
"""What a rule is given as numbers, in this order. ``step`` is minus the rate (for ADAM minus the
rate over 1 - beta1^t; for ADD the factor of the update, for AVERAGE the weight of the new value);
``decay`` the weight decay, under DECOUPLED minus rate times decay; a gain the weight of what enters
a state (1 - dampening, 1 - beta, 1 - alpha); ``correction`` 1 / sqrt(1 - beta2^t)."""


class Advance(NamedTuple):
    """What a rule gives."""

    update: Tensor
    states: tuple[Tensor, ...]


def states(rule: Rule, flags: Flag) -> tuple[str, ...]:
    """Return the names of the states that a rule keeps, those of torch.optim."""
    if rule is Rule.SGD:
        return ("momentum_buffer",) if Flag.MOMENTUM in flags else ()
    if rule is Rule.ADAM:
        most = ("max_exp_avg_sq",) if Flag.AMSGRAD in flags else ()
        return ("exp_avg", "exp_avg_sq", *most)
    if rule is Rule.LION:
        return ("exp_avg",)
    if rule is Rule.RMSPROP:
        average = ("grad_avg",) if Flag.CENTERED in flags else ()
        buffer = ("momentum_buffer",) if Flag.MOMENTUM in flags else ()
        return ("square_avg", *average, *buffer)
    return ()


SECOND_MOMENTS = frozenset({"exp_avg_sq", "max_exp_avg_sq", "square_avg"})
"""States that are averages of squares: never negative, and divided by."""


def advance(
    rule: Rule,
    flags: Flag,
    scalars: Sequence[float],
    g: Tensor,
    w: Tensor,
    kept: Sequence[Tensor],
) -> Advance:
    """Return the update and the new states; nothing is changed in place.

    Args:
        rule: the rule.
        flags: what it includes.
        scalars: the numbers of ``SCALARS``, used in the computing dtype.
        g: the gradient.
        w: the parameter.
        kept: the states of ``states``, in their order.

    NaN and infinities propagate.
    """
    named = dict(zip(SCALARS[rule], scalars, strict=True))
    if Flag.MAXIMIZE in flags:
        g = -g
    if Flag.DECAY in flags:
        g = g + named["decay"] * w
    update, new = _RULES[rule](flags, named, g, w, kept)
    if Flag.DECOUPLED in flags:
        update = update + named["decay"] * w
    return Advance(update, new)


def _root(x: Tensor) -> Tensor:
    """Return the square root of float32 as IEEE 754 rounds it, which ``torch.sqrt`` does not.

    On the CPU that may be MKL's, off by an ulp. Through float64 it is right: no root of a float32
    comes so near to the middle of two that the error there could matter.
    """
    return torch.sqrt(x.to(torch.float64)).to(x.dtype)


def _sgd(flags: Flag, s: dict[str, float], g: Tensor, w: Tensor, kept: Sequence[Tensor]) -> Advance:
    if Flag.MOMENTUM not in flags:
        return Advance(s["step"] * g, ())
    m = s["momentum"] * kept[0] + s["gain"] * g
    direction = g + s["momentum"] * m if Flag.NESTEROV in flags else m
    return Advance(s["step"] * direction, (m,))


def _adam(
    flags: Flag, s: dict[str, float], g: Tensor, w: Tensor, kept: Sequence[Tensor]
) -> Advance:
    m = s["beta1"] * kept[0] + s["gain1"] * g
    v = s["beta2"] * kept[1] + s["gain2"] * (g * g)
    most = torch.where(v > kept[2], v, kept[2]) if Flag.AMSGRAD in flags else v
    denominator = _root(most) * s["correction"] + s["eps"]
    new = (m, v, most) if Flag.AMSGRAD in flags else (m, v)
    return Advance(s["step"] * (m / denominator), new)


def _lion(
    flags: Flag, s: dict[str, float], g: Tensor, w: Tensor, kept: Sequence[Tensor]
) -> Advance:
    mix = s["beta1"] * kept[0] + s["gain1"] * g
    sign = torch.where(mix > 0, 1.0, torch.where(mix < 0, -1.0, mix))  # 0 and NaN stay
    return Advance(s["step"] * sign, (s["beta2"] * kept[0] + s["gain2"] * g,))


def _rmsprop(
    flags: Flag, s: dict[str, float], g: Tensor, w: Tensor, kept: Sequence[Tensor]
) -> Advance:
    v = s["alpha"] * kept[0] + s["gain"] * (g * g)
    new: tuple[Tensor, ...] = (v,)
    spread = v
    if Flag.CENTERED in flags:
        average = s["alpha"] * kept[1] + s["gain"] * g
        spread = v - average * average
        spread = torch.where(spread < 0, 0.0, spread)  # a rounded v can lie below the square
        new = (v, average)
    direction = g / (_root(spread) + s["eps"])
    if Flag.MOMENTUM in flags:
        direction = s["momentum"] * kept[-1] + direction
        new = (*new, direction)
    return Advance(s["step"] * direction, new)


def _add(flags: Flag, s: dict[str, float], g: Tensor, w: Tensor, kept: Sequence[Tensor]) -> Advance:
    return Advance(s["step"] * g, ())


def _average(
    flags: Flag, s: dict[str, float], g: Tensor, w: Tensor, kept: Sequence[Tensor]
) -> Advance:
    return Advance(s["step"] * (g - w), ())


_Formula = Callable[[Flag, dict[str, float], Tensor, Tensor, Sequence[Tensor]], Advance]
_RULES: dict[Rule, _Formula] = {
    Rule.SGD: _sgd,
    Rule.ADAM: _adam,
    Rule.LION: _lion,
    Rule.RMSPROP: _rmsprop,
    Rule.ADD: _add,
    Rule.AVERAGE: _average,
}
