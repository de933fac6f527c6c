"""The write-backs by name, and what an observer sees of one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ..errors import OptimizerError
from ..kernels.steps import WriteBack


def parse_write_back(name: str) -> WriteBack:
    """Return the strategy called ``name``.

    Raises:
        OptimizerError: if there is none of that name.
    """
    try:
        return WriteBack(name)
    except ValueError:
        raise OptimizerError(
            "writeback", f"unknown write-back {name!r}", "use one of " + ", ".join(WriteBack)
        ) from None


@dataclass(frozen=True)
class UpdateEvent:
    """One write-back of one parameter, for whoever counts what gets lost.

    Values are as stored; ``carry`` is what the strategy keeps beside the parameter, None where
    that is nothing.
    """

    update: Tensor
    before: Tensor
    after: Tensor
    carry_before: Tensor | None
    carry_after: Tensor | None


Observer = Callable[[Tensor, UpdateEvent], None]
"""Called with the parameter and the event after each write-back."""
