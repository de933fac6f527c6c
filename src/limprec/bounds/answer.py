"""``guideline``: the question that people ask, and its whole answer."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from ..errors import GuidelineError
from ..formats import MAX_RANDOM_BITS, Rounding, parse_rounding
from .blocks import blocks
from .denominator import denominator
from .exact import MAX_CLASSES, fraction, integer
from .fixed import fixed
from .floating import floating
from .logits import logits
from .question import Question, skew_of, source
from .width import Width

Family = Literal["fixed", "float", "mx"]
Reduction = Literal["sum", "mean"]

FAMILIES: tuple[str, ...] = get_args(Family)
REDUCTIONS: tuple[str, ...] = get_args(Reduction)
_OPTIONS = {
    "amax": ("fixed", "mx"),
    "scale_exponent": ("fixed",),
    "mantissa_bits": ("float",),
    "block": ("mx",),
}
"""Option -> the families that it says something about."""
_BLOCK = 32


@dataclass(frozen=True)
class Guideline:
    """The answer of ``guideline``: bits for the last layer's error, and why.

    Args:
        num_classes: classes of the softmax.
        family: ``fixed``, ``float`` or ``mx``; it says what the two numbers count (see ``unit``).
        rounding: the rounding of the error.
        least: the smallest width in which the error of a wrong class survives.
        advised: the width to choose.
        reason: why, in plain English.
        error: the error of a wrong class at the start, all scales included.
        unit: what ``least`` and ``advised`` count: ``bits``, ``exponent bits`` or ``element bits``.
        logits: the same about the logits.
        accumulator: the same about the sum in the softmax's denominator.
        formats: short names of formats of the least and of the advised width; None where the
            family leaves the mantissa open.
        batch: samples in a step.
        reduction: whether the loss is their ``sum`` or their ``mean``.
        loss_scale: factor on the loss.
        label_smoothing: share of the target spread over all classes.
        amax: largest error before batch and loss scale; None is just under 1.
        sampled: wrong classes that a sampled softmax draws; None is all of them.
        rarest: share of the data that the rarest class has; None without ``class_counts``.
        scale_exponent: exponent of a fixed scale; None is the dynamic one.
        mantissa_bits: mantissa bits of a float with subnormals; None is one without.
        block: classes that share a scale, for ``mx``.
        random_bits: of an element's random word, for stochastic rounding.
    """

    num_classes: int
    family: Family
    rounding: Rounding
    least: int
    advised: int
    reason: str
    error: float
    unit: str
    logits: Width
    accumulator: Width
    formats: tuple[str, str] | None = None
    batch: int = 1
    reduction: Reduction = "sum"
    loss_scale: float = 1.0
    label_smoothing: float = 0.0
    amax: float | None = None
    sampled: int | None = None
    rarest: float | None = None
    scale_exponent: int | None = None
    mantissa_bits: int | None = None
    block: int | None = None
    random_bits: int = MAX_RANDOM_BITS

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {**asdict(self), "rounding": str(self.rounding)}


def guideline(
    num_classes: int | None = None,
    *,
    family: Family = "fixed",
    rounding: Rounding | str = Rounding.NEAREST,
    batch: int = 1,
    reduction: Reduction = "sum",
    loss_scale: float = 1.0,
    label_smoothing: float = 0.0,
    amax: float | None = None,
    class_counts: Iterable[int] | None = None,
    sampled: int | None = None,
    scale_exponent: int | None = None,
    mantissa_bits: int | None = None,
    block: int | None = None,
    random_bits: int = MAX_RANDOM_BITS,
) -> Guideline:
    """Return the least and the advised bits of the last layer: its error, logits and softmax sum.

    The modules of this package derive the bounds, ``docs/guideline.md`` tells them in order. They
    are derived here and are no figures of the paper.

    Args:
        num_classes: classes of the softmax, 2 or more (words, for a language model); None where
            ``class_counts`` says.
        family: ``fixed`` for fixed and dynamic fixed point, ``float`` for floating point, ``mx``
            for MX blocks along the classes.
        rounding: how all three are rounded.
        batch: samples (tokens, for a language model) in a step; matters for a mean alone.
        reduction: whether the loss is the ``sum`` or the ``mean`` over the batch.
        loss_scale: factor on the loss. Under a dynamic scale powers of two cancel.
        label_smoothing: share of the target that is spread over all classes, 0 to below 1.
        amax: largest magnitude of the error before batch and loss scale, at most 1. None means
            just under 1, the most that an exact softmax gives; 1.0 means that it is reached. Not
            for ``float``.
        class_counts: how often each class occurs in the training data: whole numbers from 0.
        sampled: wrong classes that a sampled softmax draws for each sample, uniformly; the softmax
            then runs over so many and the right one. Not with ``class_counts``: the sampler's
            shares would count, not the data's.
        scale_exponent: E of a fixed scale, codes spanning +-2^E; None for the dynamic scale that
            follows amax. Family ``fixed`` alone.
        mantissa_bits: stored mantissa bits, which say how far the subnormals reach; None counts
            on no subnormals, so the answer holds for any mantissa. Family ``float`` alone.
        block: classes that share a scale, 32 if None. Family ``mx`` alone.
        random_bits: of each element's random word under ``stochastic``, 1 to 32.

    Returns:
        The answer, with the reasons in words.

    Raises:
        GuidelineError: for numbers out of range, options that contradict each other, or a question
            that no format answers.
        FormatError: for an unknown rounding.
    """
    if family not in FAMILIES:
        raise GuidelineError("guideline", f"unknown family {family!r}", _one_of(FAMILIES))
    if reduction not in REDUCTIONS:
        raise GuidelineError("guideline", f"unknown reduction {reduction!r}", _one_of(REDUCTIONS))
    mode = parse_rounding(rounding)
    given = {
        "amax": amax,
        "scale_exponent": scale_exponent,
        "mantissa_bits": mantissa_bits,
        "block": block,
    }
    _check_options(family, given)
    skew = None
    if class_counts is not None:
        counted, skew = skew_of(class_counts)
        if num_classes is not None and num_classes != counted:
            raise GuidelineError(
                "guideline",
                f"num_classes is {num_classes!r}, class_counts has {counted}",
                "leave one of them out",
            )
        num_classes = counted
    classes = integer("num_classes", num_classes, 2, MAX_CLASSES)
    candidates = _candidates(classes, sampled, skew is not None)
    samples = integer("batch", batch, 1, MAX_CLASSES)
    scale = fraction(
        "loss_scale", loss_scale, "a positive finite number", lambda x: 0 < x <= sys.float_info.max
    )
    smoothing = fraction(
        "label_smoothing", label_smoothing, "a number from 0 to below 1", lambda x: 0 <= x < 1
    )
    question = Question(
        classes=candidates,
        rounding=mode,
        random_bits=_random_bits(mode, random_bits),
        peak=scale / samples if reduction == "mean" else scale,
        smoothing=smoothing,
        source=source(candidates, sampled is not None, samples, reduction, scale, smoothing),
        skew=skew,
    )
    largest = None
    if amax is not None:
        start = (1 - smoothing) / candidates
        largest = question.peak * fraction(
            "amax", amax, f"a number from {float(start):.4g} to 1", lambda x: start <= x <= 1
        )
    if mantissa_bits is not None:
        mantissa_bits = integer("mantissa_bits", mantissa_bits, 1, 52)
    if family == "mx":
        block = integer("block", _BLOCK if block is None else block, 1, MAX_CLASSES)
    if family == "fixed":
        width = fixed(question, largest, scale_exponent)
    elif family == "float":
        width = floating(question, mantissa_bits)
    else:
        width = blocks(question, largest, block or _BLOCK)
    return Guideline(
        num_classes=classes,
        family=family,
        rounding=mode,
        least=width.least,
        advised=width.advised,
        reason=width.reason,
        error=float(question.error),
        unit=width.unit,
        logits=logits(question, family, block or _BLOCK),
        accumulator=denominator(question, family),
        formats=width.formats,
        batch=samples,
        reduction=reduction,
        loss_scale=float(scale),
        label_smoothing=float(smoothing),
        amax=None if amax is None else float(amax),
        sampled=sampled,
        rarest=None if skew is None else float(skew.rarest),
        scale_exponent=scale_exponent,
        mantissa_bits=mantissa_bits,
        block=block,
        random_bits=random_bits,
    )


def _check_options(family: str, given: dict[str, Any]) -> None:
    """Refuse options that say nothing about the family."""
    for name, value in given.items():
        if value is not None and family not in _OPTIONS[name]:
            raise GuidelineError(
                "guideline",
                f"{name} with family {family!r}",
                f"leave it out or {_one_of(_OPTIONS[name])}",
            )


def _candidates(classes: int, sampled: int | None, counted: bool) -> int:
    """Return over how many classes the softmax runs."""
    if sampled is None:
        return classes
    if counted:
        raise GuidelineError("guideline", "sampled with class_counts", "leave one of them out")
    return integer("sampled", sampled, 1, classes - 1) + 1


def _random_bits(rounding: Rounding, value: int) -> int:
    found = integer("random_bits", value, 1, MAX_RANDOM_BITS)
    if found != MAX_RANDOM_BITS and rounding is not Rounding.STOCHASTIC:
        raise GuidelineError(
            "guideline", f"random_bits with rounding {rounding}", "leave it out or use stochastic"
        )
    return found


def _one_of(names: tuple[str, ...]) -> str:
    return "use " + " or ".join(repr(name) for name in names)
