"""What a compiler leaves alone; imported while one is at work, for the import itself is slow."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")
_REASON = "limprec: products in an accumulator, or of blocks along their sums, are not compiled"


@torch.compiler.disable(reason=_REASON)  # type: ignore[no-untyped-call,untyped-decorator]
def uncompiled(function: Callable[[], T]) -> T:
    """Run a function as it is; where one whole graph is wanted PyTorch refuses, with the reason."""
    return function()
