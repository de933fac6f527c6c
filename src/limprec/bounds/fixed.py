"""The last layer's error in fixed and dynamic fixed point: n bits, LSB = 2^(E-n+1).

Dynamic fixed point sets E = floor(log2 amax) + 1 from the tensor's largest magnitude; |delta| stays
below S/B, so amax just under it gives E = ceil(log2(S/B)), and the loss scale and a batch that are
powers of two cancel. An error of exactly 1, which a saturated softmax reaches in a carrier, makes
E one larger and costs one bit.

- nearest, ties to even: d survives iff d > LSB/2, that is n > log2(2^E/d);
- nearest, ties away: iff d >= LSB/2, n >= log2(2^E/d);
- truncation and the other directed modes: iff d >= LSB, n >= 1 + log2(2^E/d). Rounding up never
  deletes d but makes a whole LSB of it; the bound keeps that within a factor of two;
- stochastic: an element of magnitude a has the variance f(1-f) LSB^2, f the fraction of a/LSB,
  which is at most min(a LSB, LSB^2/4); the right class may instead be clipped to the largest code,
  a bias below LSB. Hence N <= (C-1) min(d LSB, LSB^2/4) + LSB^2. For many classes N/P is near
  LSB/2^E = 2^-(n-1), whatever C is. A chance cut to r random bits takes up to LSB 2^-r from d: at
  most all of it for ``least``, a sixteenth for ``advised``.

Codes end one LSB below 2^E, so the right class may lose the share LSB/2^E = 2^-(n-1): balance asks
for 5 bits where amax is just under a power of two, and there are more than two classes.

With S = B = 1, eps = 0 and E = 0 the first and third line are the two rules of thumb:
n >= floor(log2 C) + 1 to nearest, n >= ceil(log2 C) + 1 with one whole LSB to spare.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

from ..errors import GuidelineError
from ..formats import DynamicFixedPoint, FixedPoint, Rounding
from .exact import HALF, SHARE, bits, ceil_log2, first, floor_log2, integer, number, percent, power
from .question import Question
from .width import Width

_LEAST = 2


def quiet(question: Question, step: Fraction, share: Fraction | int) -> bool:
    """Whether stochastic rounding to a step stays within a share of the error's power."""
    squared = question.noise(step) + step**2
    enough = squared < question.power if share == 1 else squared <= share * question.power
    return enough and question.unbiased(step, Fraction(share))


def clipped(reach: Fraction, step: Fraction, largest: Fraction) -> Fraction:
    """Return the share that symmetric codes, which end a step below ``reach``, take off."""
    return max(Fraction(0), 1 - (reach - step) / largest)


def fixed(question: Question, largest: Fraction | None, scale_exponent: int | None) -> Width:
    """Answer for n-bit codes under a power-of-two scale, dynamic or of a given exponent."""
    exponent = _exponent(question, largest, scale_exponent)

    def lsb(width: int) -> Fraction:
        return power(exponent - width + 1)

    def balanced(width: int) -> bool:
        if scale_exponent is not None or question.classes == 2:
            return True  # two's complement reaches -2^E; two classes are clipped alike
        return clipped(power(exponent), lsb(width), largest or question.peak) <= SHARE

    if question.stochastic:
        least = first(lambda n: quiet(question, lsb(n), 1), _LEAST)
        whole = first(lambda n: quiet(question, lsb(n), SHARE), least)
        why = _why_stochastic(question, least, whole, lsb)
    else:
        ratio = power(exponent) / question.error
        whole = max(_LEAST, ceil_log2(ratio) + 1)
        least = {
            Rounding.NEAREST: max(_LEAST, floor_log2(ratio) + 1),
            Rounding.NEAREST_AWAY: max(_LEAST, ceil_log2(ratio)),
        }.get(question.rounding, whole)
        why = _why(question, least, whole, lsb)
        least = first(lambda n: question.feeds(question.threshold(lsb(n)), HALF), least)
        whole = first(
            lambda n: question.feeds(question.threshold(lsb(n)), SHARE), max(least, whole)
        )
    balance = ""
    if not balanced(whole):
        whole = first(balanced, whole)
        balance = (
            f" {bits(whole).capitalize()} clip no more than {number(SHARE)} off the right class."
        )
    names = [
        str(DynamicFixedPoint(n) if scale_exponent is None else FixedPoint(n, n - 1 - exponent))
        for n in (least, whole)
    ]
    return Width(
        least,
        whole,
        "bits",
        f"{question.source} {why}{balance}{question.about_skew(lsb, least, whole, 'bits')}",
        (names[0], names[1]),
    )


def _exponent(question: Question, largest: Fraction | None, scale_exponent: int | None) -> int:
    """Return E: the given one, if it does not clip, else that of the largest error."""
    needed = ceil_log2(question.peak) if largest is None else floor_log2(largest) + 1
    if scale_exponent is None:
        return needed
    exponent = integer("scale_exponent", scale_exponent, -900, 900)
    if exponent < needed:
        raise GuidelineError(
            "guideline",
            f"the scale 2^{exponent} clips errors of up to {number(largest or question.peak)}",
            f"use scale_exponent {needed} or more, or a smaller loss_scale",
        )
    return exponent


def _why_stochastic(
    question: Question, least: int, advised: int, lsb: Callable[[int], Fraction]
) -> str:
    share = [(question.noise(lsb(n)) + lsb(n) ** 2) / question.power for n in (least, advised)]
    return (
        "Stochastic rounding keeps it on average in any width, so the bound is on its noise: at"
        f" most {percent(share[0])} of the error's own power in {bits(least)},"
        f" {percent(share[1])} in {bits(advised)}, where {number(SHARE)} is the limit we advise."
    )


def _why(question: Question, least: int, whole: int, lsb: Callable[[int], Fraction]) -> str:
    """Say why a rounding that is not stochastic needs its bits."""
    step = number(lsb(least))
    if question.rounding is Rounding.UP:
        return (
            f"Rounding up never loses it but makes a whole step of it: in {bits(least)} a step"
            f" is {step}, so it grows by less than a factor of two."
        )
    fewer = f"; in {bits(least - 1)} it becomes 0" if least > _LEAST else ""
    if question.rounding in (Rounding.TOWARD_ZERO, Rounding.DOWN):
        mode = "Truncation" if question.rounding is Rounding.TOWARD_ZERO else "Rounding down"
        return f"{mode} keeps what reaches one whole step, {step} in {bits(least)}{fewer}."
    verb = "exceeds" if question.rounding is Rounding.NEAREST else "reaches"
    text = (
        f"Rounding to nearest keeps what {verb} half a step, {number(lsb(least) / 2)} in"
        f" {bits(least)}{fewer}."
    )
    if whole == least:
        return f"{text} It then has one whole step, {step}, to itself, so truncation keeps it too."
    return (
        f"{text} {bits(whole).capitalize()} leave one whole step, {number(lsb(whole))}, to"
        " spare, which truncation needs too."
    )
