"""The last layer's error in floating point: e exponent bits in the IEEE layout, bias 2^(e-1) - 1.

s is the smallest positive value, 2^(2-2^(e-1)-m) with m mantissa bits and subnormals,
2^(2-2^(e-1)) without. A float rounds like fixed point of step s near 0, so the conditions are those
of fixed point with s for LSB, and the largest error, up to S/B, must not exceed the top binade
2^(2^(e-1)-1). ``advised`` makes d a normal number: it then keeps all its significant bits under any
rounding, on hardware without subnormals too. Mantissa bits matter only through s: a normal number
is off by a share of itself, 2^-(m+1) at most, which deletes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

from ..errors import GuidelineError
from ..formats import FloatingPoint, Rounding
from .exact import HALF, SHARE, bits, floor_log2, number, power
from .question import Question
from .width import Width

_EXPONENTS = range(2, 12)


def _normal(exponent_bits: int) -> Fraction:
    return power(2 - 2 ** (exponent_bits - 1))


def floating(question: Question, mantissa_bits: int | None) -> Width:
    """Answer for the exponent bits of the IEEE layout."""

    def smallest(exponent_bits: int) -> Fraction:
        return _normal(exponent_bits) * power(-(mantissa_bits or 0))

    def least_enough(exponent_bits: int) -> bool:
        step = smallest(exponent_bits)
        if question.stochastic:
            return question.noise(step) < question.power and question.unbiased(step, Fraction(1))
        return question.survives(step) and question.feeds(question.threshold(step), HALF)

    def advised_enough(exponent_bits: int) -> bool:
        if question.stochastic:
            step = smallest(exponent_bits)
            return question.noise(step) <= SHARE * question.power and question.unbiased(step, SHARE)
        if question.error < _normal(exponent_bits):
            return False
        return question.feeds(question.threshold(smallest(exponent_bits)), SHARE)

    least = _first_exponent(question, least_enough)
    advised = max(least, _first_exponent(question, advised_enough))
    why = _why(question, least, advised, mantissa_bits, smallest(least))
    if least > _EXPONENTS[0] and least_enough(least - 1):
        why += f" The largest error, up to {number(question.peak)}, needs {bits(least)} too."
    why += question.about_skew(smallest, least, advised, "exponent bits")
    why += _scales(question, least - 1, smallest(least - 1))
    m = mantissa_bits
    names = (str(FloatingPoint(least, m)), str(FloatingPoint(advised, m))) if m else None
    return Width(least, advised, "exponent bits", f"{question.source} {why}", names)


def _holds(question: Question, exponent_bits: int) -> bool:
    return question.peak <= power(2 ** (exponent_bits - 1) - 1)


def _first_exponent(question: Question, enough: Callable[[int], bool]) -> int:
    for exponent_bits in _EXPONENTS:
        if _holds(question, exponent_bits) and enough(exponent_bits):
            return exponent_bits
    raise GuidelineError(
        "guideline",
        f"errors from {number(question.error)} to {number(question.peak)} fit in no"
        f" format of up to {_EXPONENTS[-1]} exponent bits",
        "bring loss_scale or batch nearer to 1",
    )


def _why(
    question: Question, least: int, advised: int, mantissa_bits: int | None, smallest: Fraction
) -> str:
    counted = (
        f"with {mantissa_bits} mantissa {'bit' if mantissa_bits == 1 else 'bits'} and subnormals"
        if mantissa_bits is not None
        else "not counting on subnormals"
    )
    text = f"{bits(least).capitalize()} of exponent, {counted}, reach down to {number(smallest)}"
    if question.stochastic:
        return (
            f"{text}; stochastic rounding keeps smaller errors on average, and its noise stays"
            f" below the error's own power; {bits(advised)} keep it within {number(SHARE)}."
        )
    part = {Rounding.NEAREST: "more than half of it", Rounding.NEAREST_AWAY: "half of it"}
    return (
        f"{text}, and the error is {part.get(question.rounding, 'no less')}, so it survives;"
        f" {bits(advised)} make it a normal number (the smallest is"
        f" {number(_normal(advised))}), which keeps all its significant bits."
    )


def _scales(question: Question, fewer: int, smallest: Fraction) -> str:
    """Say which factor on the loss would make one exponent bit fewer enough, if any does."""
    if question.stochastic or question.skew is not None or fewer < _EXPONENTS[0]:
        return ""
    need = floor_log2(question.threshold(smallest) / question.error) + 1
    room = floor_log2(power(2 ** (fewer - 1) - 1) / question.peak)
    if not 1 <= need <= room:
        return ""
    factor = f"2^{need}" if need == room else f"2^{need} to 2^{room}"
    return f" A loss scale larger by {factor} would do with {bits(fewer)}."
