"""How few bits are enough: the guideline for the last layer's error. Pure mathematics, no torch.

The gradient of the softmax cross-entropy at the logits z is ``delta = softmax(z) - target``. At
the start of training every class has a probability near 1/C, so each wrong class has the error

    d = (S / B) * (1 - eps) / C

with C classes, label smoothing eps, loss scale S and, for a mean over the batch, its size B (1 for
a sum). A format that rounds d to 0 deletes the half of the gradient that pushes wrong classes
down, and since d is the same for all of them it does so at once. The guideline is the width from
which d survives. All of it is exact arithmetic on integers and fractions.

**Fixed family** (fixed and dynamic fixed point): n bits, sign included, LSB = 2^(E-n+1). Dynamic
fixed point sets E = floor(log2 amax) + 1 from the tensor's largest magnitude; |delta| stays below
S/B, so amax just under it gives E = ceil(log2(S/B)), and the loss scale and a batch that are
powers of two cancel. An error of exactly 1, which a saturated softmax reaches in a carrier, makes
E one larger and costs one bit.

- nearest, ties to even: d survives iff d > LSB/2, that is n > log2(2^E/d);
- nearest, ties away: iff d >= LSB/2, n >= log2(2^E/d);
- truncation and the other directed modes: iff d >= LSB, n >= 1 + log2(2^E/d). Rounding up never
  deletes d but makes a whole LSB of it; the bound keeps that within a factor of two;
- stochastic: unbiased at any n, so the bound is on the mean squared error. An element of magnitude
  a has the variance f(1-f) LSB^2, f the fraction of a/LSB, which is at most min(a LSB, LSB^2/4);
  the right class may instead be clipped to the largest code, a bias below LSB. Hence
  MSE <= (C-1) min(d LSB, LSB^2/4) + LSB^2, against the error's own power at the start,
  P = (S/B)^2 (1-eps)^2 (C-1)/C. For many classes MSE/P is near LSB/2^E = 2^-(n-1), whatever C is.
  ``least`` asks for MSE < P, ``advised`` for MSE <= P/20, a choice of ours.

With S = B = 1, eps = 0 and E = 0 the first and third line are the two rules of thumb:
n >= floor(log2 C) + 1 to nearest, n >= ceil(log2 C) + 1 with one whole LSB to spare.

**Float family**: e exponent bits in the IEEE layout, bias 2^(e-1) - 1; s is the smallest positive
value, 2^(2-2^(e-1)-m) with m mantissa bits and subnormals, 2^(2-2^(e-1)) without. The conditions
are the same with s for LSB (a float rounds like fixed point of step s near 0), and the largest
error, up to S/B, must not exceed the top binade 2^(2^(e-1)-1). ``advised`` makes d a normal number:
it then keeps all its significant bits under any rounding, on hardware without subnormals too.
"""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from typing import Any, Literal, get_args

from .errors import GuidelineError
from .formats import DynamicFixedPoint, FixedPoint, FloatingPoint, Format, Rounding, parse_rounding

Family = Literal["fixed", "float"]
Reduction = Literal["sum", "mean"]

FAMILIES: tuple[str, ...] = get_args(Family)
REDUCTIONS: tuple[str, ...] = get_args(Reduction)
UNITS: dict[str, str] = {"fixed": "bits", "float": "exponent bits"}
"""What ``least`` and ``advised`` count, by family."""
STOCHASTIC_NOISE = Fraction(1, 20)
"""Share of the error's power that stochastic rounding may add as noise, for ``advised``."""
MAX_CLASSES = 2**53
"""Beyond it even the widest format of ``limprec.formats`` (54 bits) is too narrow."""
_LEAST_FIXED = 2
_EXPONENTS = range(2, 12)


@dataclass(frozen=True)
class Guideline:
    """The answer of ``guideline``: bits for the last layer's error, and why.

    Args:
        num_classes: classes of the softmax.
        family: ``fixed`` or ``float``; it says what the two numbers count (see ``unit``).
        rounding: the rounding of the error.
        least: the smallest width in which the error of a wrong class survives.
        advised: the width to choose: one whole step to spare.
        reason: why, in plain English.
        error: the error of a wrong class at the start, all scales included.
        batch: samples in a step.
        reduction: whether the loss is their ``sum`` or their ``mean``.
        loss_scale: factor on the loss.
        label_smoothing: share of the target spread over all classes.
        amax: largest error before batch and loss scale; None is just under 1.
        scale_exponent: exponent of a fixed scale; None is the dynamic one.
        mantissa_bits: mantissa bits of a float with subnormals; None is one without.
    """

    num_classes: int
    family: Family
    rounding: Rounding
    least: int
    advised: int
    reason: str
    error: float
    batch: int = 1
    reduction: Reduction = "sum"
    loss_scale: float = 1.0
    label_smoothing: float = 0.0
    amax: float | None = None
    scale_exponent: int | None = None
    mantissa_bits: int | None = None

    @property
    def unit(self) -> str:
        """What ``least`` and ``advised`` count: ``bits`` or ``exponent bits``."""
        return UNITS[self.family]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {**asdict(self), "rounding": str(self.rounding), "unit": self.unit}


def guideline(
    num_classes: int,
    *,
    family: Family = "fixed",
    rounding: Rounding | str = Rounding.NEAREST,
    batch: int = 1,
    reduction: Reduction = "sum",
    loss_scale: float = 1.0,
    label_smoothing: float = 0.0,
    amax: float | None = None,
    scale_exponent: int | None = None,
    mantissa_bits: int | None = None,
) -> Guideline:
    """Return the least and the advised bits of the last layer's error.

    The derivation stands at the top of this module.

    Args:
        num_classes: classes of the softmax, 2 or more.
        family: ``fixed`` for fixed and dynamic fixed point, ``float`` for floating point.
        rounding: how the error is rounded.
        batch: samples in a step; matters for a mean alone.
        reduction: whether the loss is the ``sum`` or the ``mean`` over the batch.
        loss_scale: factor on the loss. Under a dynamic scale powers of two cancel.
        label_smoothing: share of the target that is spread over all classes, 0 to below 1.
        amax: largest magnitude of the error before batch and loss scale, at most 1. None means
            just under 1, the most that an exact softmax gives; 1.0 means that it is reached.
        scale_exponent: E of a fixed scale, codes spanning +-2^E; None for the dynamic scale that
            follows amax. Family ``fixed`` alone.
        mantissa_bits: stored mantissa bits, which say how far the subnormals reach; None counts
            on no subnormals, so the answer holds for any mantissa. Family ``float`` alone.

    Returns:
        The answer, with the reason in words.

    Raises:
        GuidelineError: for numbers out of range, options that contradict each other, or a question
            that no format answers.
        FormatError: for an unknown rounding.
    """
    classes = _integer("num_classes", num_classes, 2, MAX_CLASSES)
    if family not in FAMILIES:
        raise GuidelineError("guideline", f"unknown family {family!r}", _one_of(FAMILIES))
    if reduction not in REDUCTIONS:
        raise GuidelineError("guideline", f"unknown reduction {reduction!r}", _one_of(REDUCTIONS))
    mode = parse_rounding(rounding)
    samples = _integer("batch", batch, 1, MAX_CLASSES)
    scale = _fraction(
        "loss_scale", loss_scale, "a positive finite number", lambda x: 0 < x <= sys.float_info.max
    )
    smoothing = _fraction(
        "label_smoothing", label_smoothing, "a number from 0 to below 1", lambda x: 0 <= x < 1
    )
    peak = scale / samples if reduction == "mean" else scale
    error = peak * (1 - smoothing) / classes
    source = _source(classes, samples, reduction, scale, smoothing)
    question = _Question(classes, mode, peak, error, source)
    if family == "fixed":
        if mantissa_bits is not None:
            raise GuidelineError(
                "guideline", "mantissa_bits with family 'fixed'", "leave it out or use 'float'"
            )
        largest = None if amax is None else _amax(amax, (1 - smoothing) / classes) * peak
        least, advised, reason = _fixed(question, largest, scale_exponent)
    else:
        for name, value in (("scale_exponent", scale_exponent), ("amax", amax)):
            if value is not None:
                raise GuidelineError(
                    "guideline", f"{name} with family 'float'", "leave it out or use 'fixed'"
                )
        if mantissa_bits is not None:
            mantissa_bits = _integer("mantissa_bits", mantissa_bits, 1, 52)
        least, advised, reason = _float(question, mantissa_bits)
    return Guideline(
        num_classes=classes,
        family=family,
        rounding=mode,
        least=least,
        advised=advised,
        reason=reason,
        error=float(error),
        batch=samples,
        reduction=reduction,
        loss_scale=float(scale),
        label_smoothing=float(smoothing),
        amax=None if amax is None else float(amax),
        scale_exponent=scale_exponent,
        mantissa_bits=mantissa_bits,
    )


def widen(fmt: Format, num_classes: int) -> Format:
    """Return a format like ``fmt`` that is wide enough for the classifier's error.

    This is what ``auto`` does in a plan. The result is never narrower than ``fmt``.

    - Dynamic fixed point gets the advised bits.
    - Fixed point gets fraction bits until one step is no larger than 1/C; its range stays.
    - Floating point gets exponent bits, at the same distance from the default bias, until half of
      its smallest positive value is below 1/C; its mantissa and policies stay.

    Args:
        fmt: the format that the error would have.
        num_classes: classes of the softmax, 2 or more.

    Raises:
        GuidelineError: for fewer than 2 classes, an unsigned format, or one of another kind.
        FormatError: if no format of the kind is wide enough.
    """
    classes = _integer("num_classes", num_classes, 2, MAX_CLASSES)
    if isinstance(fmt, DynamicFixedPoint):
        return replace(fmt, bits=max(fmt.bits, guideline(classes).advised))
    if isinstance(fmt, FixedPoint):
        if not fmt.signed:
            raise GuidelineError(
                "widen", f"{fmt} holds no negative error", "use a signed format for the classifier"
            )
        more = max(0, _ceil_log2(Fraction(classes)) - fmt.fraction_bits)
        return replace(fmt, bits=fmt.bits + more, fraction_bits=fmt.fraction_bits + more)
    if isinstance(fmt, FloatingPoint):
        while not Fraction(1, classes) > Fraction(fmt.smallest) / 2:
            assert fmt.bias is not None
            longer = replace(fmt, exponent_bits=fmt.exponent_bits + 1, bias=None)
            shift = fmt.bias - replace(fmt, bias=None).bias  # type: ignore[operator]  # filled in
            fmt = replace(longer, bias=longer.bias + shift)  # type: ignore[operator]
        return fmt
    raise GuidelineError("widen", f"no rule for {fmt!r}", "use a format of limprec.formats")


@dataclass(frozen=True)
class _Question:
    """What both families need to know."""

    classes: int
    rounding: Rounding
    peak: Fraction
    """S/B: no error's magnitude exceeds it."""
    error: Fraction
    """d, the error of a wrong class at the start."""
    source: str
    """The first sentence of the reason."""

    @property
    def power(self) -> Fraction:
        """P, the squared length of one sample's error at the start."""
        right = self.error * (self.classes - 1)
        return right**2 + (self.classes - 1) * self.error**2

    def noise(self, step: Fraction) -> Fraction:
        """Bound on the variance that stochastic rounding to ``step`` adds to the wrong classes."""
        return (self.classes - 1) * min(self.error * step, step**2 / 4)

    def survives(self, step: Fraction) -> bool:
        """Whether d does not become 0 where neighbours of 0 are ``step`` away."""
        if self.rounding is Rounding.NEAREST:
            return self.error > step / 2
        if self.rounding is Rounding.NEAREST_AWAY:
            return self.error >= step / 2
        return self.error >= step


def _fixed(
    question: _Question, largest: Fraction | None, scale_exponent: int | None
) -> tuple[int, int, str]:
    """Return least, advised and reason for n-bit codes under a power-of-two scale."""
    needed = _ceil_log2(question.peak) if largest is None else _floor_log2(largest) + 1
    exponent = needed
    if scale_exponent is not None:
        exponent = _integer("scale_exponent", scale_exponent, -1100, 1100)
        if exponent < needed:
            raise GuidelineError(
                "guideline",
                f"the scale 2^{exponent} clips errors of up to {_number(largest or question.peak)}",
                f"use scale_exponent {needed} or more, or a smaller loss_scale",
            )

    def lsb(bits: int) -> Fraction:
        return _power(exponent - bits + 1)

    ratio = _power(exponent) / question.error
    if question.rounding is Rounding.STOCHASTIC:

        def squared(step: Fraction) -> Fraction:
            return question.noise(step) + step**2

        least = _first(lambda n: squared(lsb(n)) < question.power)
        advised = _first(lambda n: squared(lsb(n)) <= STOCHASTIC_NOISE * question.power)
        share = [float(squared(lsb(n)) / question.power) for n in (least, advised)]
        return (
            least,
            advised,
            (
                f"{question.source} Stochastic rounding keeps it on average in any width, so the"
                f" bound is on its noise: at most {share[0]:.0%} of the error's own power in"
                f" {_bits(least)}, {share[1]:.1%} in {_bits(advised)}, where"
                f" {float(STOCHASTIC_NOISE):.0%} is the limit we advise."
            ),
        )
    whole = max(_LEAST_FIXED, _ceil_log2(ratio) + 1)
    least = {
        Rounding.NEAREST: max(_LEAST_FIXED, _floor_log2(ratio) + 1),
        Rounding.NEAREST_AWAY: max(_LEAST_FIXED, _ceil_log2(ratio)),
    }.get(question.rounding, whole)
    return least, whole, f"{question.source} {_why_fixed(question, least, whole, lsb)}"


def _why_fixed(question: _Question, least: int, whole: int, lsb: Callable[[int], Fraction]) -> str:
    """Say why a rounding that is not stochastic needs its bits."""
    step = _number(lsb(least))
    if question.rounding is Rounding.UP:
        return (
            f"Rounding up never loses it but makes a whole step of it: in {_bits(least)} a step"
            f" is {step}, so it grows by less than a factor of two."
        )
    fewer = f"; in {_bits(least - 1)} it becomes 0" if least > _LEAST_FIXED else ""
    if question.rounding in (Rounding.TOWARD_ZERO, Rounding.DOWN):
        mode = "Truncation" if question.rounding is Rounding.TOWARD_ZERO else "Rounding down"
        return f"{mode} keeps what reaches one whole step, {step} in {_bits(least)}{fewer}."
    verb = "exceeds" if question.rounding is Rounding.NEAREST else "reaches"
    text = (
        f"Rounding to nearest keeps what {verb} half a step, {_number(lsb(least) / 2)} in"
        f" {_bits(least)}{fewer}."
    )
    if whole == least:
        return f"{text} It then has one whole step, {step}, to itself, so truncation keeps it too."
    return (
        f"{text} {_bits(whole).capitalize()} leave one whole step, {_number(lsb(whole))}, to"
        " spare, which truncation needs too."
    )


def _float(question: _Question, mantissa_bits: int | None) -> tuple[int, int, str]:
    """Return least, advised and reason for exponent bits of the IEEE layout."""

    def normal(exponent_bits: int) -> Fraction:
        return _power(2 - 2 ** (exponent_bits - 1))

    def smallest(exponent_bits: int) -> Fraction:
        return normal(exponent_bits) * _power(-(mantissa_bits or 0))

    def holds_peak(exponent_bits: int) -> bool:
        return question.peak <= _power(2 ** (exponent_bits - 1) - 1)

    stochastic = question.rounding is Rounding.STOCHASTIC

    def least_enough(exponent_bits: int) -> bool:
        step = smallest(exponent_bits)
        return question.noise(step) < question.power if stochastic else question.survives(step)

    def advised_enough(exponent_bits: int) -> bool:
        if stochastic:
            limit = STOCHASTIC_NOISE * question.power
            return question.noise(smallest(exponent_bits)) <= limit
        return question.error >= normal(exponent_bits)

    found = []
    for enough in (least_enough, advised_enough):
        fits = [e for e in _EXPONENTS if holds_peak(e) and enough(e)]
        if not fits:
            raise GuidelineError(
                "guideline",
                f"errors from {_number(question.error)} to {_number(question.peak)} fit in no"
                f" format of up to {_EXPONENTS[-1]} exponent bits",
                "bring loss_scale or batch nearer to 1",
            )
        found.append(fits[0])
    least, advised = found
    counted = (
        f"with {mantissa_bits} mantissa {'bit' if mantissa_bits == 1 else 'bits'} and subnormals"
        if mantissa_bits is not None
        else "not counting on subnormals"
    )
    text = (
        f"{question.source} {_bits(least).capitalize()} of exponent, {counted}, reach down to"
        f" {_number(smallest(least))}"
    )
    if stochastic:
        text += (
            "; stochastic rounding keeps smaller errors on average, and its noise stays below the"
            f" error's own power; {_bits(advised)} keep it within {float(STOCHASTIC_NOISE):.0%}."
        )
    else:
        part = {Rounding.NEAREST: "more than half of it", Rounding.NEAREST_AWAY: "half of it"}
        text += (
            f", and the error is {part.get(question.rounding, 'no less')}, so it survives;"
            f" {_bits(advised)} make it a normal number (the smallest is"
            f" {_number(normal(advised))}), which keeps all its significant bits."
        )
    if least > _EXPONENTS[0] and least_enough(least - 1):
        text += f" The largest error, up to {_number(question.peak)}, needs {_bits(least)} too."
    return least, advised, text


def _source(
    classes: int, samples: int, reduction: str, scale: Fraction, smoothing: Fraction
) -> str:
    """Say what a wrong class starts with."""
    factors = []
    if smoothing:
        factors.append(f"label smoothing {float(smoothing):g}")
    if reduction == "mean" and samples > 1:
        factors.append(f"the mean over {samples} samples")
    if scale != 1:
        factors.append(f"the loss scale {float(scale):g}")
    size = f"1/{classes}"
    if factors:
        divisor = samples if reduction == "mean" else 1
        value = _number(scale * (1 - smoothing) / (classes * divisor))
        size = f"{value} (1/{classes} with {', '.join(factors)})"
    return f"At the start the error of each wrong class is {size}."


def _first(enough: Callable[[int], bool]) -> int:
    """Return the first width from 2 on for which a condition that stays true is true."""
    bits = _LEAST_FIXED
    while not enough(bits):
        bits += 1
    return bits


def _integer(name: str, value: Any, least: int, most: int) -> int:
    """Return an int of any integral type, or raise ``GuidelineError``."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or not least <= number <= most:
        top = f"2^{most.bit_length() - 1}" if most > 10**6 else str(most)
        raise GuidelineError(
            "guideline", f"{name} is {value!r}", f"give an integer from {least} to {top}"
        )
    return number


def _fraction(name: str, value: Any, wanted: str, holds: Callable[[Fraction], bool]) -> Fraction:
    """Return a real number exactly, or raise ``GuidelineError``."""
    try:
        number = None if isinstance(value, (bool, str)) else Fraction(value)
    except (TypeError, ValueError, OverflowError):
        number = None
    if number is None or not holds(number):
        raise GuidelineError("guideline", f"{name} is {value!r}", f"give {wanted}")
    return number


def _amax(amax: float, start: Fraction) -> Fraction:
    """Return amax exactly; below the error at the start it contradicts the number of classes."""
    return _fraction(
        "amax", amax, f"a number from {float(start):.4g} to 1", lambda x: start <= x <= 1
    )


def _power(exponent: int) -> Fraction:
    return Fraction(2) ** exponent


def _floor_log2(x: Fraction) -> int:
    """Return floor(log2 x) of a positive fraction, exactly."""
    guess = x.numerator.bit_length() - x.denominator.bit_length()
    return guess if x >= _power(guess) else guess - 1


def _ceil_log2(x: Fraction) -> int:
    """Return ceil(log2 x) of a positive fraction, exactly."""
    floor = _floor_log2(x)
    return floor if x == _power(floor) else floor + 1


def _number(x: Fraction) -> str:
    """Print a fraction: powers of two beyond a few as such, others to four digits."""
    power = _floor_log2(x)
    if x == _power(power) and not -21 < power < 11:
        return f"2^{power}"
    if x.numerator == 1 and x.denominator > 1:
        return f"1/{x.denominator}"
    return f"{x.numerator}" if x.denominator == 1 and x < 10**9 else f"{_as_float(x):.4g}"


def _as_float(x: Fraction) -> float:
    try:
        return float(x)
    except OverflowError:
        return math.inf


def _bits(n: int) -> str:
    return f"{n} {'bit' if n == 1 else 'bits'}"


def _one_of(names: tuple[str, ...]) -> str:
    return "use " + " or ".join(repr(name) for name in names)
