"""Delayed scales: a scale that follows the magnitudes of earlier steps, as hardware keeps them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import KernelError
from ..formats import Affine, Format, Precision, ScaledFormat, parse_precision
from . import dynamic, groups
from .dispatch import round_to
from .random import Key


class DelayedScale:
    """Rounds with the largest magnitudes seen before, so that one pass over a tensor is enough.

    A tensor is rounded with amax = margin * (the largest magnitude of the last ``length`` tensors),
    one a group, and its own magnitudes enter the history afterwards. What lies beyond the scale
    saturates, infinities too; an element that is NaN stays NaN. Magnitudes that are not finite do
    not enter the history, and neither do zeros: as long as a group has no history, it is scaled by
    the tensor at hand (the first tensor always is).

    The state is the history and nothing else: ``state_dict`` and ``load_state_dict`` carry it over,
    and rounding the same tensors again from the same state gives the same bits.

    Args:
        fmt: a format with one power-of-two or symmetric scale per tensor or channel (or NVFP4,
            whose tensor scale is delayed while its block scales stay current).
        length: tensors to remember, at least 1.
        margin: factor on the magnitude, over 0; 2 leaves one bit of headroom.

    Raises:
        KernelError: for a format without such a scale, or a length or margin out of range.
    """

    def __init__(self, fmt: str | Format | Precision, length: int = 16, margin: float = 1.0):
        precision = parse_precision(fmt)
        scaled = precision.format
        if not isinstance(scaled, ScaledFormat) or (
            isinstance(scaled, Affine) and scaled.zero != "none"
        ):
            raise KernelError(
                "DelayedScale",
                f"{scaled} has no scale that follows amax",
                "use e.g. dfx8, dfx8c0, de4m3, int8s or nvfp4",
            )
        self._whole = scaled.per_tensor or scaled.name.startswith("nvfp4")
        if scaled.block is not None and not self._whole:
            raise KernelError(
                "DelayedScale", f"{scaled} scales blocks", "use a scale per tensor or channel"
            )
        if not isinstance(length, int) or length < 1:
            raise KernelError("DelayedScale", f"length {length!r}", "give an integer from 1 up")
        if not 0 < margin < float("inf"):
            raise KernelError("DelayedScale", f"margin {margin!r}", "give a number over 0")
        self.precision, self.format = precision, scaled
        self.length, self.margin = length, float(margin)
        self.history: Tensor | None = None
        """Magnitudes of the last tensors, the latest first: (length, *groups), 0 is unset."""

    def quantize(self, x: Tensor, key: Key | None = None) -> Tensor:
        """Round ``x`` with the scale of the history, then remember its magnitudes.

        Args:
            x: floating-point tensor that the format's carrier rules allow; with a scale per
                channel, of as many channels as those before.
            key: the random key; needed if the precision is stochastic.

        Raises:
            KernelError: for another number of channels.
        """
        x = x.detach()
        now = self.magnitudes(x)
        amax = self.amax(now)
        self.remember(now)
        return round_to(x, self.precision, key, amax=amax)

    def amax(self, now: Tensor) -> Tensor:
        """Return what the next scale follows, if ``now`` are the magnitudes at hand."""
        if self.history is None:
            return now
        if self.history.shape[1:] != now.shape:
            before, after = tuple(self.history.shape[1:]), tuple(now.shape)
            raise KernelError(
                "DelayedScale", f"groups {after} after {before}", "keep one DelayedScale a tensor"
            )
        past = self.history.to(now.device).amax(dim=0) * self.margin
        return torch.where(past > 0, past, now)

    def magnitudes(self, x: Tensor) -> Tensor:
        """Return the largest magnitudes of a tensor, one a group, float64; NaN where one is."""
        if self._whole:
            return torch.tensor(dynamic.largest(x), dtype=torch.float64, device=x.device)
        return groups.amax(x.to(torch.float64), self.format)

    def remember(self, now: Tensor) -> None:
        """Enter magnitudes into the history."""
        entry = torch.where(now.isfinite(), now, 0.0).unsqueeze(0)
        if self.history is None:
            self.history = entry.new_zeros((self.length, *now.shape))
        self.history = torch.cat([entry, self.history.to(now.device)[:-1]])

    def state_dict(self) -> dict[str, Any]:
        """Return the state: the history, and the format, length and margin it belongs to."""
        history = None if self.history is None else self.history.clone()
        shape = {"format": str(self.precision), "length": self.length, "margin": self.margin}
        return {**shape, "history": history}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state.

        Raises:
            KernelError: if it belongs to another format, length or margin.
        """
        mine = self.state_dict()
        for name in ("format", "length", "margin"):
            if state.get(name) != mine[name]:
                raise KernelError(
                    "DelayedScale",
                    f"the state has {name} {state.get(name)!r}, this one {mine[name]!r}",
                    "make the DelayedScale as it was when the state was saved",
                )
        history = state["history"]
        self.history = None if history is None else history.clone()

    def __repr__(self) -> str:
        """Return how it was made."""
        return f"DelayedScale({str(self.precision)!r}, length={self.length}, margin={self.margin})"
