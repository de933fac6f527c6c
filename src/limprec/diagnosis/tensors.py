"""What a rounding takes from a tensor, summed over the sampled steps.

With x the tensor before and q after, over its finite elements:

- flushed: elements with x != 0 and q = 0; by count against those with x != 0, and by mass against
  the sum of |x|;
- mass lost: 1 - sum(sign(x) q) / sum(|x|). What stochastic rounding flushes comes back elsewhere,
  so that there this is near 0 where ``flushed`` is not;
- saturated: elements beyond the largest or smallest value of the format, by count. A format with
  scales of its own leaves nothing outside and has no such number;
- made infinite: elements that were finite before and are infinite or NaN after, by count;
- signal to noise: 10 log10(sum(x^2) / sum((x - q)^2)) dB;
- bits used: the entropy of q's values, in bits, from at most ``SAMPLE`` elements and thus at most
  log2 ``SAMPLE``; the mean over the tensors seen.

Of a tensor of more than ``MOST`` elements every n-th is looked at, at most ``MOST``, with n prime
to the last axis, so that all its columns have a part. Infinities are looked for in every element.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..formats import FloatingPoint, Format, ScalarFormat

MOST = 2**16
"""Most elements of one tensor that are looked at."""
SAMPLE = 2**12
"""Most elements that the entropy is taken from."""

_SUMS = (
    "elements", "nonzero", "flushed", "mass", "flushed_mass", "kept_mass", "saturated", "signal",
    "noise", "infinite", "made_infinite", "subnormal",
)  # fmt: skip
_INFINITE = slice(_SUMS.index("infinite"), _SUMS.index("made_infinite") + 1)


class TensorTally:
    """The sums over all roundings of one role of one layer; they stay on the tensors' device.

    Args:
        fmt: the format that the tensor is rounded to, or that its dtype stores.
        rounded: whether the rounding was seen; if not, the tensor comes in its format already and
            what was lost on the way cannot be told.
    """

    def __init__(self, fmt: Format, *, rounded: bool) -> None:
        self.format, self.rounded = fmt, rounded
        self.seen = 0
        """Tensors."""
        self._sums: Tensor | None = None
        self._amax: Tensor | None = None
        self._entropy: Tensor | None = None

    @torch.no_grad()
    def add(self, before: Tensor, after: Tensor) -> None:
        """Add one tensor; empty ones add nothing."""
        if not before.numel():
            return
        step = _stride(before)
        whole = tuple(torch.stack(t.detach().aminmax()).float() for t in (before, after))
        x, q = (t.detach().reshape(-1)[::step].float() for t in (before, after))
        usable = x.isfinite() & q.isfinite()
        bad, made = ~x.isfinite(), x.isfinite() & ~q.isfinite()
        outside = self._outside(x)
        x, q = torch.where(usable, x, 0.0), torch.where(usable, q, 0.0)
        size = x.abs()
        nonzero, flushed = x != 0, (x != 0) & (q == 0)
        parts = (
            torch.ones_like(usable), nonzero, flushed, size, torch.where(flushed, size, 0.0),
            x.sign() * q, outside, x * x, (x - q).square(), bad, made, self._subnormal(q),
        )  # fmt: skip
        sums = torch.stack([part.sum(dtype=torch.float64) for part in parts])
        found = torch.stack([~end.isfinite().all() for end in whole]).double()
        found[1] -= found[0]  # what was infinite before is not made so here
        sums[_INFINITE] = torch.maximum(sums[_INFINITE], found)
        largest = whole[0].abs().amax()
        amax = torch.where(largest.isfinite(), largest, size.amax()).double()
        entropy = _entropy(q)
        if self._sums is None or self._amax is None or self._entropy is None:
            self._sums, self._amax, self._entropy = sums, amax, entropy
        else:
            self._sums += sums
            self._amax = torch.maximum(self._amax, amax)
            self._entropy += entropy
        self.seen += 1

    def measures(self) -> dict[str, float]:
        """Return the measures by name; one that has no meaning here is left out."""
        if self._sums is None or self._amax is None or self._entropy is None:
            return {}
        s = dict(zip(_SUMS, self._sums.tolist(), strict=True))
        found = {
            "elements": s["elements"] / self.seen,
            "zeros": 1 - s["nonzero"] / s["elements"],
            "infinite": s["infinite"] / s["elements"],
            "amax": float(self._amax),
            "bits_used": float(self._entropy) / self.seen,
        }
        if isinstance(self.format, FloatingPoint) and s["nonzero"]:
            found["subnormal"] = s["subnormal"] / s["nonzero"]
        if not self.rounded:
            return found
        found["made_infinite"] = s["made_infinite"] / s["elements"]
        if isinstance(self.format, ScalarFormat):
            found["saturated"] = s["saturated"] / s["elements"]
        if s["nonzero"]:
            found["flushed_count"] = s["flushed"] / s["nonzero"]
            found["flushed_mass"] = s["flushed_mass"] / s["mass"]
            found["mass_lost"] = 1 - s["kept_mass"] / s["mass"]
        if s["noise"] and s["signal"]:
            found["sqnr_db"] = 10 * math.log10(s["signal"] / s["noise"])
        return found

    def _outside(self, x: Tensor) -> Tensor:
        if not isinstance(self.format, ScalarFormat) or not self.rounded:
            return torch.zeros_like(x, dtype=torch.bool)
        return (x > self.format.max) | (x < self.format.min)

    def _subnormal(self, q: Tensor) -> Tensor:
        if not isinstance(self.format, FloatingPoint):
            return torch.zeros_like(q, dtype=torch.bool)
        return (q != 0) & (q.abs() < self.format.smallest_normal)


def _stride(x: Tensor) -> int:
    """Return how far apart the elements are that are looked at."""
    step = -(-x.numel() // MOST)
    while x.dim() and math.gcd(step, x.shape[-1]) > 1:
        step += 1
    return step


def _entropy(q: Tensor) -> Tensor:
    """Return the entropy of the values in bits, from a sample."""
    sample = q[:: -(-q.numel() // SAMPLE)]
    counts: Tensor = torch.unique(sample, return_counts=True)[1].double()
    shares = counts / counts.sum()
    return (shares * -shares.log2()).sum()
