"""Delayed scales of a converted model: what the scale of each of its tensors follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from ..errors import ConversionError
from ..formats import Affine, Precision, ScaledFormat
from ..kernels import DelayedScale
from ..kernels.following import Following

PREFIX = "_limprec.scales."
"""How the keys of histories begin in a ``state_dict``; name, stream and call of a tensor follow."""


@dataclass
class _Tensor:
    """One tensor's history.

    Args:
        scale: the history.
        step: training forward that it last took a tensor of.
        used: what the scale followed in that forward.
    """

    scale: DelayedScale
    step: int | None = None
    used: Tensor | None = None


class Scales:
    """A history of magnitudes for each tensor that a model rounds under a scale.

    A tensor is scaled by the largest magnitude of the ``length`` training forwards before this one,
    and enters the history itself; the first one is scaled by itself, and one that holds a NaN or
    an infinity becomes NaN throughout. What is rounded again in the same forward (a recomputed
    block, a second backward pass) takes the scale that it had. Evaluation, and parts that are
    called by themselves, leave the histories as they are.

    Args:
        length: training forwards to remember.
    """

    def __init__(self, length: int) -> None:
        self.length = length
        self.learns = False
        """Whether the forward pass that runs is one of training."""
        self._tensors: dict[str, _Tensor] = {}
        self._saved: dict[str, Tensor] = {}
        """Histories of a checkpoint, until the tensors that they belong to are seen."""

    def follow(self, name: str, precision: Precision, step: int) -> Precision:
        """Return a precision with the scale of a tensor's history.

        Args:
            name: of the tensor, unique in the model.
            precision: of the tensor; blocks and what has no scale that follows amax stay.
            step: number of the training forward.
        """
        fmt = precision.format
        if not isinstance(fmt, ScaledFormat) or (isinstance(fmt, Affine) and fmt.zero != "none"):
            return precision
        if fmt.block is not None and not fmt.name.startswith("nvfp4"):
            return precision
        ask = partial(self._ask, name, precision, step, self.learns)
        return Following(fmt, precision.rounding, precision.random_bits, amax=ask)

    def _ask(self, name: str, precision: Precision, step: int, learns: bool, x: Tensor) -> Tensor:
        tensor = self._tensors.get(name)
        if tensor is None:
            tensor = self._tensors[name] = _Tensor(DelayedScale(precision, self.length))
            tensor.scale.history = self._saved.pop(name, None)
        if learns and tensor.step == step and tensor.used is not None:
            return tensor.used
        now = tensor.scale.magnitudes(x)
        used = tensor.scale.amax(now) if bool(now.isfinite().all()) else now
        if learns:
            tensor.scale.remember(now)
            tensor.step, tensor.used = step, used
        return used

    def state_dict(self) -> dict[str, Tensor]:
        """Return the histories by key, float64."""
        known = {n: t.scale.history for n, t in self._tensors.items()}
        found = {n: h.clone() for n, h in {**self._saved, **known}.items() if h is not None}
        return {PREFIX + name: found[name] for name in sorted(found)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over histories; an empty state leaves them as they are.

        Raises:
            ConversionError: if they are of another length.
        """
        for key, history in state.items():
            if history.shape[0] != self.length:
                raise ConversionError(
                    "load_state_dict",
                    f"{key} remembers {history.shape[0]} forwards, the plan {self.length}",
                    f"set history = {history.shape[0]} in [scaling]",
                )
        if state:
            self._tensors.clear()
            self._saved = {key.removeprefix(PREFIX): h.clone() for key, h in state.items()}
