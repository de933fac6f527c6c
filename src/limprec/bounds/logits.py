"""Bits of the logits: how finely and how far apart the softmax's inputs must lie.

**Step.** An error e_c in the logit of class c moves its probability, to first order, by
p_c (e_c - sum_j p_j e_j). For independent errors of mean 0 (a common mean cancels) and variance v
the softmax error delta changes by the mean squared length v A, where

    A = sum_c p_c^2 ((1 - p_c)^2 + sum_{j != c} p_j^2) <= 2 |delta|^2   for any probabilities:

with a = 1 - p_y and b the sum of p_c^2 over the wrong classes, |delta|^2 = a^2 + b; the right class
adds p_y^2 (a^2 + b) <= a^2 + b, a wrong one at most 2 p_c^2, and 2 b <= a^2 + b. So a step h costs
at most the share 2v of the error's power: v is h^2/12 to nearest, down and up (uniform errors),
h^2/4 at most for stochastic rounding, h^2/3 toward zero, whose bias changes with the sign.
``advised`` asks for 1/16 or less, ``least`` for less than 1, h a power of 2.

**Range.** The right class has the probability P against C - 1 equal wrong ones if it lies
ln(C - 1) + ln(P/(1-P)) above them: P = 1/2 for ``least``, 0.99 for ``advised`` (a choice of ours).
With label smoothing eps no more is wanted than ln(1 + C (1-eps)/eps), where the loss is least.
Skewed classes are told apart by the biases alone over ln(q_max/q_min).

Codes +-(2^(n-1) - 1) h span that gap g if n >= 1 + log2(1 + g/(2h)). Logits in floating point lie
within g/2 of 0 and have the step 2^(floor(log2(g/2)) - m) there; so have the largest of an MX
block. This holds for the scale that just spans the gap. Logits that grow beyond it make a dynamic
scale coarser, or clip; then no gradient may pass where they do, or they grow without end. A fixed
scale wants one bit more, for logits that are not centred.
"""

from __future__ import annotations

import math

from ..formats import MX_ELEMENTS, Rounding
from .blocks import ORDER, mantissa_of, mx_name
from .question import Question
from .width import Width

CERTAIN = 0.99
"""Probability that the right class can reach, for ``advised``."""
_STEPS = {Rounding.STOCHASTIC: (0, -2), Rounding.TOWARD_ZERO: (0, -2)}
"""log2 of the least and the advised step; nearest, down and up have the other one."""
_NEAREST_STEPS = (1, -1)
_MOST_MANTISSA = 52


def logits(question: Question, family: str, block: int) -> Width:
    """Answer for the logits in a family of formats."""
    gaps = [_gap(question, chance) for chance in (0.5, CERTAIN)]
    steps = _STEPS.get(question.rounding, _NEAREST_STEPS)
    if family == "fixed":
        found = [
            math.ceil(math.log2(1 + gap / 2 ** (step + 1))) + 1
            for gap, step in zip(gaps, steps, strict=True)
        ]
        least, advised = max(2, found[0]), max(2, *found)
        unit, names = "bits", (f"dfx{least}", f"dfx{advised}")
        return Width(least, advised, unit, _why(question, gaps, steps), names)
    found = [
        max(1, math.floor(math.log2(gap / 2)) - step) for gap, step in zip(gaps, steps, strict=True)
    ]
    least, advised = found[0], min(max(found), _MOST_MANTISSA)
    if family == "float":
        return Width(least, advised, "mantissa bits", _why(question, gaps, steps))
    narrow, wide = (next(n for n in ORDER if mantissa_of(n) >= m) for m in (least, advised))
    return Width(
        MX_ELEMENTS[narrow].bits,
        MX_ELEMENTS[wide].bits,
        "element bits",
        _why(question, gaps, steps),
        (mx_name(narrow, block), mx_name(wide, block)),
    )


def _gap(question: Question, chance: float) -> float:
    """Return how far apart two logits must be able to lie; at least 1."""
    odds = math.log(question.classes - 1) + math.log(chance / (1 - chance))
    if question.smoothing:
        eps = float(question.smoothing)
        odds = min(odds, math.log1p(question.classes * (1 - eps) / eps))
    if question.skew is not None:
        odds = max(odds, math.log(question.skew.commonest / question.skew.rarest))
    return max(1.0, odds)


def _why(question: Question, gaps: list[float], steps: tuple[int, int]) -> str:
    share = {Rounding.STOCHASTIC: 2.0, Rounding.TOWARD_ZERO: 1.5}.get(question.rounding, 6.0)
    noise = 4.0 ** steps[1] / share
    return (
        f"Logits {gaps[1]:.1f} apart give one class of {question.classes} the probability"
        f" {CERTAIN:g}, {gaps[0]:.1f} the half; steps of {2.0 ** steps[1]:g} there add at most"
        f" {noise:.0%} of the error's power as noise, steps of {2.0 ** steps[0]:g} less than it."
    )
