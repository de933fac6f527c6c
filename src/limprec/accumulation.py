"""How many bits the accumulator of a dot product of K terms needs. Pure mathematics, no torch.

**Fixed point.** Products are words of p bits in two's complement, -2^(p-1) to 2^(p-1) - 1 in units
of the last place (p = a + b - 1 for operands of a and b bits whose codes are symmetric).

- worst case: the sum of K products reaches K 2^(p-1), so n = p + ceil(log2 K) bits hold every sum,
  and no fewer do. Two's complement that wraps may overflow on the way: only the last sum counts;
- typical: products independent with mean 0. By Hoeffding's inequality, in its form for the largest
  of the partial sums, some partial sum reaches t with probability at most 2 exp(-t^2 / (2 K P^2)),
  P = 2^(p-1). Equating that with ``failure`` gives n = p + ceil(log2(2 K ln(2/failure)) / 2). Half
  as many bits grow with log2 K, plus a constant (2.7 bits for one in 10^9); never more than the
  worst case. Chunks change neither: the last sum is as large. They need fewer bits themselves.

**Floating point**, rounded to nearest, m mantissa bits. A term x is lost, the sum *swamped*, as
soon as it is at most half a unit in the last place of the sum s: s >= 2^(m+1) x (the tie goes to
the even one, which a power of two is).

- worst case: terms of one sign. The sum of K equal ones is complete if and only if K <= 2^(m+1), so
  m = ceil(log2 K) - 1; terms 2^d times smaller than the largest need d more. In chunks of c the
  longest sum is L = max(c, ceil(K/c)) instead of K, least near c = sqrt(K): half the bits;
- typical: independent terms with mean 0 and variance v. The sum of k of them has the variance k v;
  rounding it adds an error of about ulp^2/12 <= s^2 2^(-2m)/12, over all sums L^2 v 2^(-2m)/24 and
  thus the share L 2^(-2m)/24 of the final variance. Keeping that below 1/64 (an error an eighth of
  the sum, a choice of ours) needs m = ceil(log2(64 L / 24) / 2): one bit more than it takes for a
  typical term not to be swamped at the end;
- Kahan: a term that s loses goes to the compensation c, which is at most half a unit of s, 2^-(m+1)
  s, and swamps like any sum: x survives while c < 2^(m+1) x, that is s < 2^(2m+2) x. So m =
  ceil((log2 L) / 2) - 1 in the worst case; nothing better is claimed for typical terms;
- a tree adds sums of equal length: nothing is swamped, whatever K (L = 2).

Stochastic rounding loses no term on average at any m; what it adds is noise. Related work: Sakr et
al., "Accumulation bit-width scaling for ultra-low precision training of deep networks" (ICLR 2019),
who ask how much of the variance of a typical sum survives, also in chunks; the bounds here are ours
and simpler. ``tests/test_accumulation.py`` simulates them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from .errors import GuidelineError

Family = Literal["fixed", "float"]

NOISE = 1 / 64
"""Share of a typical sum's variance that its roundings may add."""
_LEAST_MANTISSA = 1


@dataclass(frozen=True)
class AccumulatorBits:
    """The answer of ``accumulator_bits``.

    Args:
        length: terms of the dot product.
        family: ``fixed``, where the two numbers are word lengths, or ``float``, where they are
            mantissa bits.
        worst: bits that suffice for any terms.
        typical: bits for independent terms with mean 0.
        reason: why, in plain English.
    """

    length: int
    family: Family
    worst: int
    typical: int
    reason: str

    @property
    def unit(self) -> str:
        """What the two numbers count."""
        return "bits" if self.family == "fixed" else "mantissa bits"


def accumulator_bits(
    length: int,
    *,
    family: Family = "fixed",
    product_bits: int = 15,
    failure: float = 1e-9,
    chunk: int | None = None,
    kahan: bool = False,
    tree: bool = False,
    spread: int = 0,
) -> AccumulatorBits:
    """Return the accumulator bits that a dot product of ``length`` terms needs.

    Args:
        length: terms, at least 1.
        family: ``fixed`` or ``float``.
        product_bits: fixed point: word length of a product, sign included; 15 for two 8-bit codes
            symmetric about 0 (the accumulator has the same fraction bits).
        failure: fixed point: probability of an overflow that ``typical`` accepts.
        chunk: floating point: terms in a partial sum; None for one sum.
        kahan: floating point: whether the sums are compensated.
        tree: floating point: whether a chunk is added by an adder tree.
        spread: floating point: how many powers of two below the largest term the smallest is that
            must not get lost.

    Raises:
        GuidelineError: for a length, width, chunk or probability that cannot be.
    """
    _check("length", length, 1)
    if family not in ("fixed", "float"):
        raise GuidelineError("accumulator_bits", f"family {family!r}", "use 'fixed' or 'float'")
    if family == "fixed":
        return _fixed(length, product_bits, failure)
    _check("spread", spread, 0)
    if chunk is not None:
        _check("chunk", chunk, 1)
    inner = min(chunk or length, length)
    outer = -(-length // inner)
    longest = max(2 if tree else inner, outer)
    doublings = _log2_up(longest) + spread
    what = "Kahan sums" if kahan else "sums"
    reason = (
        f"the longest of the {what} has {longest} terms; one to nearest loses a term when it"
        f" exceeds it by 2^{'(2m+2)' if kahan else '(m+1)'}"
    )
    if chunk is None and not tree and length > 2:
        reason += f"; chunks of {1 << round(math.log2(length) / 2)} would need fewer"
    worst = -(-doublings // 2) - 1 if kahan else doublings - 1
    noise = math.ceil(math.log2(longest / (24 * NOISE)) / 2)
    typical = worst if kahan else min(noise, worst)
    return AccumulatorBits(
        length,
        family,
        max(_LEAST_MANTISSA, worst),
        max(_LEAST_MANTISSA, typical),
        reason,
    )


def _fixed(length: int, product_bits: int, failure: float) -> AccumulatorBits:
    _check("product_bits", product_bits, 2)
    if not 0 < failure < 1:
        raise GuidelineError("accumulator_bits", f"failure {failure!r}", "give one between 0 and 1")
    worst = product_bits + _log2_up(length)
    reach = math.ceil(math.log2(2 * length * math.log(2 / failure)) / 2)
    typical = min(worst, product_bits + reach)
    reason = (
        f"{length} products of {product_bits} bits reach 2^{worst - 1} at most; with mean 0 they"
        f" exceed 2^{typical - 1} with a probability under {failure:g}"
    )
    return AccumulatorBits(length, "fixed", worst, typical, reason)


def _log2_up(n: int) -> int:
    """ceil(log2 n), exactly."""
    return (n - 1).bit_length()


def _check(name: str, value: int, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise GuidelineError(
            "accumulator_bits", f"{name} is {value!r}", f"give an integer of at least {least}"
        )
