"""What the guideline says about a format at hand: is it enough, and one like it that is.

Plans ask here. They do not know the batch or the loss scale, so S = B = 1: for dynamic fixed point
and MX powers of two cancel; fixed and floating point are judged for a loss that is summed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

from ..errors import GuidelineError
from ..formats import (
    MX_ELEMENTS,
    DynamicFixedPoint,
    DynamicFloatingPoint,
    FixedPoint,
    FloatingPoint,
    Microscaling,
    Precision,
)
from .answer import guideline
from .blocks import ORDER, loss_of, narrowest
from .exact import HALF, MAX_CLASSES, SHARE, ceil_log2, first, integer
from .fixed import quiet
from .question import Question


def widen(precision: Precision, num_classes: int) -> Precision:
    """Return a precision like the given one that is wide enough for the classifier's error.

    This is what ``auto`` does in a plan. The rounding stays, and decides: stochastic rounding needs
    far fewer bits. The result is never narrower than what was given.

    - Dynamic fixed point gets the advised bits.
    - Fixed point gets fraction bits until one step is no larger than 1/C (until its noise is at
      most 1/16 of the error's power, if it rounds stochastically); its range stays.
    - Floating point gets exponent bits, at the same distance from the default bias, until 1/C
      survives (until its noise is at most 1/16); its mantissa and policies stay.
    - Dynamic floating point gets exponent bits as if its largest value were 1.
    - MX gets the first elements of no fewer bits that lose at most 1/16 of the error either way,
      which more often means finer ones than larger ones; its blocks stay.

    Args:
        precision: format and rounding that the error would have.
        num_classes: classes of the softmax, 2 or more.

    Raises:
        GuidelineError: for fewer than 2 classes, an unsigned format, or one of another kind.
        FormatError: if no format of the kind is wide enough.
    """
    question = _question(precision, num_classes)
    fmt = precision.format
    if isinstance(fmt, DynamicFixedPoint):
        advised = guideline(
            question.classes, rounding=question.rounding, random_bits=question.random_bits
        ).advised
        return replace(precision, format=replace(fmt, bits=max(fmt.bits, advised)))
    if isinstance(fmt, FixedPoint):
        if not fmt.signed:
            raise GuidelineError(
                "widen", f"{fmt} holds no negative error", "use a signed format for the classifier"
            )
        more = _fraction_bits(question) - fmt.fraction_bits
        if more > 0:
            fmt = replace(fmt, bits=fmt.bits + more, fraction_bits=fmt.fraction_bits + more)
        return replace(precision, format=fmt)
    if isinstance(fmt, DynamicFloatingPoint):
        longer = _more_range(fmt.element, lambda f: _reaches(question, _below_one(f), SHARE))
        return replace(precision, format=DynamicFloatingPoint(longer))
    if isinstance(fmt, FloatingPoint):
        return replace(precision, format=_more_range(fmt, lambda f: _reaches(question, f, SHARE)))
    if isinstance(fmt, Microscaling):
        group = min(fmt.block, question.classes)
        enough = [n for n in ORDER if MX_ELEMENTS[n].bits >= fmt.bits]
        enough.sort(key=lambda n: MX_ELEMENTS[n] != fmt.element)  # its own first
        name = narrowest(question, question.right, group, SHARE, enough)
        return replace(precision, format=replace(fmt, element=MX_ELEMENTS[name]))
    raise GuidelineError(
        "widen", f"no rule for {fmt}", "give the classifier's error a format instead of auto"
    )


def shortfall(precision: Precision, num_classes: int) -> str | None:
    """Say how a precision falls short of the least for the classifier's error, or return None.

    Args:
        precision: format and rounding of the error.
        num_classes: classes of the softmax, 2 or more.

    Returns:
        What it has and what it needs, e.g. ``dfx8 has 8 bits, 1000 classes need 10 (advised 11)``;
        None if it is enough, or a format without a rule.
    """
    question = _question(precision, num_classes)
    fmt, classes = precision.format, question.classes
    if isinstance(fmt, DynamicFixedPoint):
        answer = guideline(classes, rounding=question.rounding, random_bits=question.random_bits)
        if fmt.bits >= answer.least:
            return None
        has, need, more = fmt.bits, answer.least, f" (advised {answer.advised})"
        unit = "bits"
    elif isinstance(fmt, FixedPoint):
        need = _fraction_bits(question, at_least=True)
        if fmt.fraction_bits >= need or not fmt.signed:
            return None
        has, unit, more = fmt.fraction_bits, "fraction bits", ""
    elif isinstance(fmt, FloatingPoint | DynamicFloatingPoint):
        scaled = isinstance(fmt, DynamicFloatingPoint)
        own = fmt.element if isinstance(fmt, DynamicFloatingPoint) else fmt

        def enough(f: FloatingPoint) -> bool:
            return _reaches(question, _below_one(f) if scaled else f, Fraction(1))

        if enough(own):
            return None
        has, need = own.exponent_bits, _more_range(own, enough).exponent_bits
        unit, more = "exponent bits", "" if scaled else " or a loss scale"
    elif isinstance(fmt, Microscaling):
        group = min(fmt.block, classes)
        name = next(n for n in ORDER if MX_ELEMENTS[n] == fmt.element)
        if loss_of(question, name, question.right, group) <= HALF:
            return None
        name = narrowest(question, question.right, group, HALF)
        return f"{precision} has elements of {fmt.bits} bits, {classes} classes need {name}"
    else:
        return None
    return f"{precision} has {has} {unit}, {classes} classes need {need}{more}"


def _question(precision: Precision, num_classes: int) -> Question:
    if not isinstance(precision, Precision):
        raise GuidelineError("widen", f"{precision!r} is no precision", "use parse_precision")
    classes = integer("num_classes", num_classes, 2, MAX_CLASSES)
    return Question(
        classes, precision.rounding, precision.random_bits, Fraction(1), Fraction(0), ""
    )


def _fraction_bits(question: Question, at_least: bool = False) -> int:
    """Return the fraction bits of fixed point; the least ones let 1/C survive."""

    def enough(bits: int) -> bool:
        step = Fraction(1, 2) ** bits
        if question.stochastic:
            return quiet(question, step, 1 if at_least else SHARE)
        return question.survives(step)

    whole = ceil_log2(Fraction(question.classes))
    return first(enough, 0) if at_least or question.stochastic else whole


def _reaches(question: Question, fmt: FloatingPoint, share: Fraction) -> bool:
    """Whether 1/C survives near the float's 0."""
    step = Fraction(fmt.smallest)
    if not question.stochastic:
        return question.survives(step)
    noise = question.noise(step)
    enough = noise < question.power if share == 1 else noise <= share * question.power
    return enough and question.unbiased(step, share)


def _below_one(fmt: FloatingPoint) -> FloatingPoint:
    """Return the float under the scale that an error of 1, the largest there is, asks for."""
    scaled = DynamicFloatingPoint(fmt)
    return scaled.at(scaled.exponent(1.0))


def _more_range(fmt: FloatingPoint, enough: Callable[[FloatingPoint], bool]) -> FloatingPoint:
    """Return the float with the fewest exponent bits more that is enough."""
    while not enough(fmt):
        assert fmt.bias is not None
        longer = replace(fmt, exponent_bits=fmt.exponent_bits + 1, bias=None)
        shift = fmt.bias - replace(fmt, bias=None).bias  # type: ignore[operator]  # filled in
        fmt = replace(longer, bias=longer.bias + shift)  # type: ignore[operator]
    return fmt
