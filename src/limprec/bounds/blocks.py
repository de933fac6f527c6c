"""The last layer's error in MX: blocks of k logits' errors under one power-of-two scale.

A block with the largest magnitude A has X = 2^(floor(log2 A) - emax), emax the exponent of the
element's largest value. With s the element's smallest positive value, an error becomes 0 under the
threshold X s/2 to nearest, X s otherwise: that depends on the neighbours in its block, not on C.

**At the start** all blocks hold equal errors d and keep them, but for the one with the right class,
whose A is near S/B. There d is lost unless it exceeds the threshold, and with it (k-1)/(C-1) of the
wrong classes: all of them for few classes, next to none for many. Blocks so take the classes out of
the guideline.

**Clipping** takes their place. A is anywhere in its binade, elements end before the next one: the
share c = 1 - max / 2^(emax+1) may be taken off a block's largest error, which for the right class
is 1/4 in e2m1, 1/8 in e3m2, e4m3 and e5m2, 1/16 in e2m3 and 1/128 in mxint8. With the first four
balance is at risk, whatever C: a wider range does not help, nor does stochastic rounding.

``least`` asks that neither loss exceed 1/2, ``advised`` 1/16; where no element is within that, the
one that loses least.

**Stochastic rounding**: an element below the normal numbers has a variance of at most (X s)^2/4,
another one of a^2 2^-2m/4 (m mantissa bits), and the largest may be clipped. Relative to the
block's own power this is at most (k-1) (2^-emax s)^2/4 + 2^-2m/4 + c^2: at most 1/2 for ``least``,
1/16 for ``advised``, and c as above.

S, B and a largest error move X and the errors alike; they matter through where in its binade A
lies, and where X leaves the range of its e8m0 code.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from ..errors import GuidelineError
from ..formats import MX_ELEMENTS, FixedPoint, FloatingPoint, Microscaling
from .exact import HALF, SHARE, bits, floor_log2, number, percent, power
from .question import Question
from .width import Width

ORDER = ("mxfp4_e2m1", "mxfp6_e2m3", "mxfp6_e3m2", "mxint8", "mxfp8_e4m3", "mxfp8_e5m2")
"""The MX formats, narrow first and, of equal ones, the finer first."""
_SCALE_EXPONENTS = range(-127, 128)


def blocks(question: Question, largest: Fraction | None, block: int) -> Width:
    """Answer for the elements of MX formats with blocks of so many classes."""
    group = min(block, question.classes)
    peak = question.right if largest is None else largest
    if not all(_scale_fits(question, name, peak) for name in ORDER):
        raise GuidelineError(
            "guideline",
            f"block scales for errors from {number(question.error)} to {number(question.peak)}"
            " leave 2^-127 to 2^127",
            "bring loss_scale or batch nearer to 1",
        )
    least = narrowest(question, peak, group, HALF)
    wide = max(least, narrowest(question, peak, group, SHARE), key=ORDER.index)
    return Width(
        MX_ELEMENTS[least].bits,
        MX_ELEMENTS[wide].bits,
        "element bits",
        f"{question.source} {_why(question, (least, wide), peak, group)}",
        (mx_name(least, block), mx_name(wide, block)),
    )


def narrowest(
    question: Question, peak: Fraction, group: int, share: Fraction, among: Sequence[str] = ORDER
) -> str:
    """Return the first MX format that loses no more than a share, else the one that loses least."""
    loss = {name: loss_of(question, name, peak, group) for name in among}
    return next((n for n in among if loss[n] <= share), min(among, key=loss.__getitem__))


def loss_of(question: Question, name: str, peak: Fraction, group: int) -> Fraction:
    """Return the largest of the shares that an MX format may lose: of a push, or as noise."""
    other = _noise(name, group) if question.stochastic else _starved(question, name, peak, group)
    return max(_clipped(name), other)


def _starved(question: Question, name: str, peak: Fraction, group: int) -> Fraction:
    """Share of the wrong classes whose error the right one's block deletes at the start."""
    step = power(floor_log2(peak) - _emax(name)) * _smallest(name)
    return Fraction(0) if question.survives(step) else Fraction(group - 1, question.classes - 1)


def _clipped(name: str) -> Fraction:
    """Share of a block's largest error that saturation may take."""
    return 1 - Fraction(_element(name).max) * power(-_emax(name) - 1)


def _noise(name: str, group: int) -> Fraction:
    """Bound on the noise of stochastic rounding as a share of the power."""
    below = (group - 1) * (power(-_emax(name)) * _smallest(name)) ** 2 / 4
    return below + power(-2 * mantissa_of(name)) / 4 + _clipped(name) ** 2


def _scale_fits(question: Question, name: str, peak: Fraction) -> bool:
    ends = (floor_log2(min(question.error, peak)), floor_log2(max(question.error, peak)))
    return all(end - _emax(name) in _SCALE_EXPONENTS for end in ends)


def mantissa_of(name: str) -> int:
    """Return the bits after the leading one that an MX format's largest elements have."""
    return _element(name).significant_bits - 1


def mx_name(name: str, block: int) -> str:
    """Return the short name of an MX format with blocks of so many."""
    return str(Microscaling(_element(name), block))


def _element(name: str) -> FloatingPoint | FixedPoint:
    return MX_ELEMENTS[name]


def _emax(name: str) -> int:
    return Microscaling(_element(name)).max_exponent


def _smallest(name: str) -> Fraction:
    return Fraction(_element(name).smallest)


def _why(question: Question, names: tuple[str, str], peak: Fraction, group: int) -> str:
    told = []
    for name in dict.fromkeys(names):
        if question.stochastic:
            loss = f"adds noise of {percent(_noise(name, group))} of the error's power"
        else:
            lost = _starved(question, name, peak, group)
            loss = f"deletes it for {percent(lost)} of the wrong classes" if lost else "keeps it"
        told.append(
            f"{name} ({bits(_element(name).bits)}) {loss} and clips the right class by up to"
            f" {percent(_clipped(name))}"
        )
    text = (
        "Stochastic rounding keeps it on average, but not what a block clips: "
        if question.stochastic
        else "A block's scale follows its largest error, so the right class's block alone can"
        " delete it: "
    )
    within = loss_of(question, names[1], peak, group) <= SHARE
    limit = "is the limit we advise" if within else "is our limit, which no element is within"
    return f"{text}{', '.join(told)}; {number(SHARE)} of each {limit}."
