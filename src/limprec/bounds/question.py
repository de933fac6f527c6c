"""What the last layer's error looks like at the start, whatever the format.

The gradient of the softmax cross-entropy at the logits z is ``delta = softmax(z) - target``. At
the start of training every class has a probability near 1/C, so each wrong class has the error

    d = (S / B) * (1 - eps) / C

with C classes, label smoothing eps, loss scale S and, for a mean over the batch, its size B (1 for
a sum). Under sampled softmax C is the number of candidates: the right class and those drawn with
it. A format that rounds d to 0 deletes the half of the gradient that pushes wrong classes down,
and since d is the same for all of them it does so at once.

**Stochastic rounding** deletes nothing on average, so its bound is on noise. One sample's error
has the squared length P = (S/B)^2 (1-eps)^2 (C-1)/C at the start. With balanced classes its mean
over the samples is 0 there, so P is also the gradient's own sampling noise, and rounding noise of
N per sample acts like a batch that is smaller by the factor 1 + N/P. ``least`` asks for N < P,
``advised`` for N <= P/16.

**Balance.** The errors of a sample sum to 0: what pushes the right class up pushes the wrong ones
down. A format that clips the right class's error, or starves the wrong ones, leaves a rest that
pushes all logits one way. The softmax does not see it, so nothing stops it; the rows of the last
layer's weights grow along a common direction, and the gradient that they pass back with them. We
advise that no more than 1/16 of the right class's error be clipped.

**Skewed classes.** Once the network has learned how often classes occur, the wrong class c has the
mean error (1-eps) q_c, q_c its share of the data, and the rare ones sit below 1/C. Consider the
biases alone: the mean step of class c is -q_c (1 - p_c) + (1 - q_c) R(p_c), R the rounding. While
p_c is below the threshold t of R nothing pushes it down, so it rises until it reaches t; with exact
arithmetic it would rest at q_c. What so gets too much is, over the classes that occur at all, the
mass

    X = sum over c of max(0, t - (1-eps) q_c)

which the others lack. For equal classes X is 0 as long as d survives. ``least`` asks for X <= 1/2,
``advised`` for X <= 1/16: choices of ours. It is where training ends up, not where it starts: a
rare class that was seen a few times only has not risen yet, so short trainings get by with less.
Under directed rounding nothing rests, since every class loses up to a step; X with t one step,
which is larger, stands in for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from ..errors import GuidelineError
from ..formats import Rounding
from .exact import MAX_CLASSES, first, integer, number, percent, power


@dataclass(frozen=True)
class Skew:
    """How unequally classes occur.

    Args:
        counts: (count, classes that occur so often), rarest first; classes never seen left out.
        total: samples in all.
    """

    counts: tuple[tuple[int, int], ...]
    total: int

    @property
    def rarest(self) -> Fraction:
        """Share of the data that the rarest class has, of those that occur."""
        return Fraction(self.counts[0][0], self.total)

    @property
    def commonest(self) -> Fraction:
        """Share of the data that the commonest class has."""
        return Fraction(self.counts[-1][0], self.total)

    def below(self, threshold: Fraction) -> tuple[int, Fraction]:
        """Return how many classes have less than a share, and the mass they lack to reach it."""
        under = [(c, n) for c, n in self.counts if Fraction(c, self.total) < threshold]
        classes = sum(n for _, n in under)
        return classes, classes * threshold - Fraction(sum(c * n for c, n in under), self.total)


def skew_of(class_counts: Iterable[Any]) -> tuple[int, Skew]:
    """Return the number of classes and their skew.

    Raises:
        GuidelineError: for counts that are no whole numbers from 0, or under two classes that
            occur.
    """
    counts = Counter(integer("a class count", count, 0, MAX_CLASSES) for count in class_counts)
    classes = counts.total()
    seen = tuple(sorted((c, n) for c, n in counts.items() if c))
    if sum(n for _, n in seen) < 2:
        raise GuidelineError(
            "guideline",
            f"class_counts has {sum(n for _, n in seen)} classes that occur",
            "give the counts of two or more",
        )
    return classes, Skew(seen, sum(c * n for c, n in seen))


@dataclass(frozen=True)
class Question:
    """What every family needs to know.

    Args:
        classes: C, or the candidates of a sampled softmax.
        rounding: of the error.
        random_bits: of an element's random word, for stochastic rounding.
        peak: S/B; no error's magnitude exceeds it.
        smoothing: eps.
        source: the first sentence of the reason.
        skew: how unequally classes occur, or None.
    """

    classes: int
    rounding: Rounding
    random_bits: int
    peak: Fraction
    smoothing: Fraction
    source: str
    skew: Skew | None = None

    @property
    def stochastic(self) -> bool:
        """Whether the bound is on noise."""
        return self.rounding is Rounding.STOCHASTIC

    @property
    def error(self) -> Fraction:
        """Return d, the error of a wrong class at the start."""
        return self.peak * (1 - self.smoothing) / self.classes

    @property
    def right(self) -> Fraction:
        """Magnitude of the right class's error at the start: all wrong ones together."""
        return self.error * (self.classes - 1)

    @property
    def power(self) -> Fraction:
        """P, the squared length of one sample's error at the start."""
        return self.right**2 + (self.classes - 1) * self.error**2

    def noise(self, step: Fraction) -> Fraction:
        """Bound on the variance that stochastic rounding to ``step`` adds to the wrong classes."""
        return (self.classes - 1) * min(self.error * step, step**2 / 4)

    def unbiased(self, step: Fraction, share: Fraction) -> bool:
        """Whether cutting the chance to so many random bits takes no more of d than a share."""
        return step * power(-self.random_bits) <= share * self.error

    def threshold(self, step: Fraction) -> Fraction:
        """Return what a magnitude must reach (or exceed, for nearest) not to become 0."""
        near = self.rounding in (Rounding.NEAREST, Rounding.NEAREST_AWAY)
        return step / 2 if near else step

    def survives(self, step: Fraction) -> bool:
        """Whether d does not become 0 where neighbours of 0 are ``step`` away."""
        if self.rounding is Rounding.NEAREST:
            return self.error > step / 2
        return self.error >= self.threshold(step)

    def starved(self, threshold: Fraction) -> tuple[int, Fraction]:
        """Return how many classes rest at a threshold, and X, the probability they get too much."""
        scale = self.peak * (1 - self.smoothing)
        if self.skew is None or self.stochastic:
            return 0, Fraction(0)
        classes, mass = self.skew.below(threshold / scale)
        return classes, mass * (1 - self.smoothing)

    def feeds(self, threshold: Fraction, share: Fraction) -> bool:
        """Whether classes that a threshold starves come to hold at most a share too much."""
        return self.starved(threshold)[1] <= share

    def about_skew(
        self, step_of: Callable[[int], Fraction], least: int, advised: int, unit: str
    ) -> str:
        """Say what rare classes lose, and what it would take to keep them all."""
        if self.skew is None:
            return ""
        rarest = f" The rarest class is {number(self.skew.rarest)} of the data"
        if self.stochastic:
            return f"{rarest}; stochastic rounding keeps its error on average too."
        error = self.skew.rarest * self.peak * (1 - self.smoothing)
        every = first(lambda n: error > self.threshold(step_of(n)), least)
        if every <= least:
            return f"{rarest}, and its error survives as well once shares are learned."
        told = []
        for width in dict.fromkeys((least, advised)):
            classes, mass = self.starved(self.threshold(step_of(width)))
            few = "1 class rests" if classes == 1 else f"{classes} classes rest"
            told.append(f"in {width}, {few} too high, by {percent(mass)} of all probability")
        return (
            f"{rarest}. Once shares are learned, {'; '.join(told)}; {every} {unit} keep them all."
        )


def source(
    classes: int,
    sampled: bool,
    samples: int,
    reduction: str,
    scale: Fraction,
    smoothing: Fraction,
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
        value = number(scale * (1 - smoothing) / (classes * divisor))
        size = f"{value} (1/{classes} with {', '.join(factors)})"
    which = f"each wrong one of {classes} candidates" if sampled else "each wrong class"
    return f"At the start the error of {which} is {size}."
