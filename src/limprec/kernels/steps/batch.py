"""The steps of many parameters under one spec, lined up once and run at every step."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..native import steps as native
from .api import step
from .reference import Slots
from .spec import StepKey, StepSpec


class Batch:
    """Tensors of many parameters that step after step are the same, but for the gradients.

    Args:
        spec: what to do.
        slots: the tensors; in a gradient's place stands anything of its shape.
        streams: the first random stream of each parameter.
        offsets: global row-major index of each parameter's first element.
    """

    def __init__(
        self,
        spec: StepSpec,
        slots: Sequence[Slots],
        streams: Sequence[int],
        offsets: Sequence[int],
    ) -> None:
        self.spec, self._slots = spec, slots
        self._streams, self._offsets = streams, offsets
        self._native = None
        if native.can_step(spec, slots):
            self._native = native.Prepared(spec, slots, streams, offsets)

    def run(
        self, grads: Sequence[Tensor], scalars: Sequence[float], seed: int, number: int
    ) -> None:
        """Do the step, in place.

        Args:
            grads: one a parameter, of its shape and on its device, of any floating dtype.
            scalars: the rule's numbers, see ``rules.SCALARS``.
            seed: of the random bits.
            number: of the step, likewise.
        """
        if self._native is not None and self._native.takes(grads):
            self._native.run(grads, scalars, seed, number)
            return
        slots = [one._replace(grad=grad) for one, grad in zip(self._slots, grads, strict=True)]
        places = zip(self._streams, self._offsets, strict=True)
        keys = [StepKey(seed, stream, number, offset) for stream, offset in places]
        step(self.spec, slots, scalars, keys)
