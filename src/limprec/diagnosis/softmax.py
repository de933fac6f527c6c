"""What a rounding takes from the softmax's error, softmax(z) - target, at the last layer.

Each row of it sums to 0: the right class is pushed up by as much as the wrong ones together are
pushed down. The error of a wrong class is small, near 1/C at the start, and positive; that of a
class that is wanted is negative. With x the error before rounding and q after:

- wrong half lost: 1 - sum(q where x > 0) / sum(x where x > 0). 0 if nothing is missing on balance,
  1 if the wrong classes are not pushed at all;
- balance lost: |sum(q)| / sum(|x|), over all rows. 0 while the two halves balance, 1/2 if one of
  them is missing.

Both are nets over all elements, so what stochastic rounding does evens out. A tensor counts as a
softmax's error where it has two columns or more and its rows sum to 0: |row sum| at most
``BALANCED`` times the row's mass, for nine rows of ten.
"""

from __future__ import annotations

import torch
from torch import Tensor

BALANCED = 0.02
"""Imbalance, in a row's mass, that the dtype's own rounding (bfloat16's at most) explains."""


class SoftmaxTally:
    """The sums over the errors at one classifier."""

    def __init__(self) -> None:
        self.classes = 0
        self._sums: Tensor | None = None  # wrong half before, after; sum after, mass before

    @torch.no_grad()
    def add(self, before: Tensor, after: Tensor) -> None:
        """Add one error, (..., classes); one that is no softmax's adds nothing."""
        if before.dim() < 2 or before.shape[-1] < 2 or not before.numel():
            return
        x, q = (t.detach().flatten(0, -2).float() for t in (before, after))
        sums, masses = x.sum(1), x.abs().sum(1)
        told = (sums.abs() <= BALANCED * masses) & (masses > 0) & q.isfinite().all(1)
        if int((told | (masses == 0)).sum()) < 0.9 * len(x):
            return
        x, q = x[told], q[told]
        wrong = x > 0
        found = torch.stack(
            [
                part.sum(dtype=torch.float64)
                for part in (torch.where(wrong, x, 0.0), torch.where(wrong, q, 0.0), q, x.abs())
            ]
        )
        self.classes = before.shape[-1]
        self._sums = found if self._sums is None else self._sums + found

    def measures(self) -> dict[str, float]:
        """Return the measures by name; none if no softmax's error was seen."""
        if self._sums is None:
            return {}
        wrong, kept, rest, mass = self._sums.tolist()
        if not wrong:
            return {}
        return {
            "classes": float(self.classes),
            "wrong_half_lost": 1 - kept / wrong,
            "balance_lost": abs(rest) / mass,
        }
