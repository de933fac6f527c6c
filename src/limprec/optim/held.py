"""Tensors that are kept beside a model under a write-back: averages, accumulated gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import OptimizerError
from ..kernels.steps import (
    Flag,
    Rule,
    Slots,
    StepKey,
    StepSpec,
    carry_key,
    computing_dtype,
    exact,
    first_rounding,
    first_stream,
    step,
)
from .storage import DEFAULTS, StorageOptions, carry_storage, parameter_storage
from .writeback import parse_write_back


class HeldTensors:
    """Tensors that take many small contributions, each stored in few bits.

    Args:
        values: what they start from; copies in the dtype of each are kept.
        rule: ``ADD`` or ``AVERAGE``.
        options: how they are kept; ``state_format`` and ``offload`` mean nothing here.

    Raises:
        OptimizerError: for an unknown write-back, or one that a dtype cannot have.
        FormatError: for a format that a dtype cannot hold.
    """

    def __init__(self, values: Sequence[Tensor], rule: Rule, options: StorageOptions) -> None:
        group: dict[str, Any] = {**DEFAULTS, **options}
        strategy = parse_write_back(group["writeback"])
        self.seed, self.steps = group["seed"], 0
        self.tensors: list[Tensor] = []
        self.carries: list[Tensor | None] = []
        self._specs: list[StepSpec] = []
        for value in values:
            kept = torch.empty_like(value, requires_grad=False)
            parameter, carry = parameter_storage(kept, group), carry_storage(kept, group)
            spec = StepSpec(rule, Flag.NONE, (), parameter, strategy, carry, group["strict"])
            self.tensors.append(kept)
            self.carries.append(None)
            self._specs.append(spec)
        self.set(values)

    @torch.no_grad()
    def set(self, values: Sequence[Tensor]) -> None:
        """Take new values, of any dtype; what rounding takes is kept beside."""
        for i, (kept, spec, value) in enumerate(
            zip(self.tensors, self._specs, values, strict=True)
        ):
            wide = value.detach().to(kept.device, computing_dtype(kept))
            self.carries[i] = first_rounding(kept, wide, spec, carry_key(spec, self._key(i)))

    @torch.no_grad()
    def add(self, sources: Sequence[Tensor | None], scalars: Sequence[float]) -> None:
        """Do one step of the rule with these as gradients; None leaves a tensor alone."""
        self.steps += 1
        chosen = [i for i, source in enumerate(sources) if source is not None]
        for spec in dict.fromkeys(self._specs[i] for i in chosen):
            mine = [i for i in chosen if self._specs[i] == spec]
            slots = [
                Slots(self.tensors[i], source, self.carries[i])
                for i in mine
                if (source := sources[i]) is not None
            ]
            step(spec, slots, scalars, [self._key(i) for i in mine])

    @torch.no_grad()
    def exact(self) -> list[Tensor]:
        """Return copies of all that is known of the tensors, in the computing dtype."""
        return [
            exact(kept, carry, spec, computing_dtype(kept)).clone()
            for kept, carry, spec in zip(self.tensors, self.carries, self._specs, strict=True)
        ]

    def state_dict(self) -> dict[str, Any]:
        """Return tensors, what is kept beside them, and the random state."""
        return {
            "tensors": [t.clone() for t in self.tensors],
            "carries": [None if c is None else c.clone() for c in self.carries],
            "seed": self.seed,
            "steps": self.steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state.

        Raises:
            OptimizerError: if it is of other tensors or another write-back; nothing is changed.
        """
        if _layout(self.state_dict()) != _layout(state):
            raise OptimizerError(
                "load_state_dict",
                "a state of other tensors, dtypes or write-backs",
                "load it into what was made in the same way",
            )
        for kept, saved in zip(self.tensors, state["tensors"], strict=True):
            kept.copy_(saved)
        for i, saved in enumerate(state["carries"]):
            carry = self.carries[i]
            if carry is not None:
                carry.copy_(saved)
        self.seed, self.steps = state["seed"], state["steps"]

    def _key(self, index: int) -> StepKey:
        return StepKey(self.seed, first_stream(index), self.steps)


def _layout(state: dict[str, Any]) -> list[tuple[torch.Size, torch.dtype] | None]:
    kept = (*state["tensors"], *state["carries"])
    return [None if t is None else (t.shape, t.dtype) for t in kept]
