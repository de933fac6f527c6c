"""Bits of the accumulator that adds the C terms of the softmax's denominator.

The terms exp(z_c - max z) lie in (0, 1] and their sum S in [1, C]. A sum that is off by the share r
scales all probabilities alike, and the sum of the errors, which is 0, becomes about -r: all classes
are pushed one way. At the start the terms are equal, which is the worst case for a float.

**Floating point**, m mantissa bits, one term after another, u = 2^-(m+1) to nearest, 2^-m directed:

- ``least``: the sum of C equal terms is not swamped, C <= 2^(m+1) (see ``accumulator_bits``);
- ``advised``: each addition is off by at most u times a partial sum, which never exceeds S, so
  r <= (C-1) u; it is to be at most 1/16;
- stochastic: unbiased, each addition adds a variance of at most (2^-m S)^2/4, all of them r^2 <=
  C 2^-2m/4: below 1 and at most 1/16^2. Half as many bits grow with log2 C.

Chunks, a tree or Kahan summation shorten the longest sum, see ``accumulator_bits``.

**Fixed point**, f fraction bits: additions are exact, terms are not, and ceil(log2(C+1)) bits and a
sign stand before the point. The trained softmax has S near 1 and a tail of small terms, each off
by h/2, h = 2^-f, to nearest or by h directed: r <= C h/2. ``least`` asks for less than 1 (the tail
must not outweigh the largest term), ``advised`` for 1/16. Stochastic rounding has a variance of at
most h times each term, together r^2 <= h.
"""

from __future__ import annotations

from fractions import Fraction

from ..accumulation import accumulator_bits
from ..formats import Rounding
from .exact import SHARE, bits, ceil_log2, first, number, power
from .question import Question
from .width import Width


def denominator(question: Question, family: str) -> Width:
    """Answer for the softmax's accumulator; MX sums are those of floating point."""
    return _fixed(question) if family == "fixed" else _floating(question)


def _floating(question: Question) -> Width:
    terms, near = question.classes, _to_nearest(question)
    if question.stochastic:
        least = first(lambda m: terms * power(-2 * m) / 4 < 1, 1)
        advised = first(lambda m: terms * power(-2 * m) / 4 <= SHARE**2, least)
        why = (
            "stochastic rounding loses none on average, and its noise is at most"
            f" {number(SHARE)} of the sum in {bits(advised)} of mantissa"
        )
    else:
        swamped = accumulator_bits(terms, family="float")
        least = swamped.worst
        advised = first(lambda m: (terms - 1) * power(-m - near) <= SHARE, least)
        why = (
            f"in {bits(least)} of mantissa {terms} equal ones are not swamped, in {bits(advised)}"
            f" any are added to within {number(SHARE)}"
        )
        chunk = 1 << (ceil_log2(Fraction(terms)) + 1) // 2
        if terms > 8:
            chunked = accumulator_bits(terms, family="float", chunk=chunk).worst
            why += f"; chunks of {chunk} are not swamped in {bits(chunked)}"
    return Width(least, advised, "mantissa bits", f"The softmax adds {terms} terms: {why}.")


def _fixed(question: Question) -> Width:
    terms, near = question.classes, _to_nearest(question)
    before = terms.bit_length() + 1
    if question.stochastic:
        least = first(lambda f: power(-f) < 1, 0)
        advised = first(lambda f: power(-f) <= SHARE**2, least)
        what = "noise"
    else:
        least = first(lambda f: terms * power(-f - near) < 1, 0)
        advised = first(lambda f: terms * power(-f - near) <= SHARE, least)
        what = "error"
    why = (
        f"The softmax adds {terms} terms of up to 1: {bits(before)} with the sign stand before the"
        f" point, {advised} behind it keep the {what} of the sum within {number(SHARE)}, {least}"
        " within its largest term."
    )
    formats = (f"fx{before + least}.{least}", f"fx{before + advised}.{advised}")
    return Width(before + least, before + advised, "bits", why, formats)


def _to_nearest(question: Question) -> int:
    """Return 1 where an error is half a step at most, 0 where it is up to a whole one."""
    return int(question.rounding in (Rounding.NEAREST, Rounding.NEAREST_AWAY))
