"""What a compiler leaves alone; imported while one is at work, for the import itself is slow."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from ..errors import ConversionError

T = TypeVar("T")
_REASON = "limprec: products in an accumulator, or of blocks along their sums, are not compiled"
_AUTOCAST = "limprec: torch.autocast is on, and would cast what the plan has rounded; leave it out"
_UNSEEN = (
    "limprec: a function is met for the first time; give example_inputs to lp.convert, or run the"
    " model once before it is compiled"
)
_LEARNED = "limprec: learned bits are not compiled: they are no constant of a graph"
_LATE = "limprec: delayed scales are not compiled; use tensors = 'current' in [scaling]"


@torch.compiler.disable(reason=_REASON)  # type: ignore[no-untyped-call,untyped-decorator]
def uncompiled(function: Callable[[], T]) -> T:
    """Run a function as it is; where one whole graph is wanted PyTorch refuses, with the reason."""
    return function()


@torch.compiler.disable(reason=_LATE)  # type: ignore[no-untyped-call, untyped-decorator]
def refuse_delayed() -> None:
    """Refuse delayed scales; where one whole graph is wanted PyTorch does, with the reason.

    Raises:
        ConversionError: always.
    """
    raise ConversionError(
        "convert",
        "delayed scales in a graph that is compiled",
        "use tensors = 'current' in [scaling], or do not compile",
    )


@torch.compiler.disable(reason=_LEARNED)  # type: ignore[no-untyped-call, untyped-decorator]
def refuse_learned() -> None:
    """Refuse learned bits; where one whole graph is wanted PyTorch does, with the reason.

    Raises:
        ConversionError: always.
    """
    raise ConversionError(
        "LearnedBits", "learned bits in a graph that is compiled", "do not compile the model"
    )


@torch.compiler.disable(reason=_AUTOCAST)  # type: ignore[no-untyped-call, untyped-decorator]
def refuse_autocast() -> None:
    """Refuse a graph under autocast, with the reason."""


@torch.compiler.disable(reason=_UNSEEN)  # type: ignore[no-untyped-call, untyped-decorator]
def unseen(take_in: Callable[[], T]) -> T:
    """Take in a function that is not known yet; where one whole graph is wanted PyTorch refuses."""
    return take_in()
