"""Rounded operands that autograd keeps in real bits, from the forward pass to the backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..kernels.stored import Codes, widen


class Kept:
    """Operands of one product, with the codes that are kept in their place.

    Args:
        others: kept by another product, of which this one has operands too.
    """

    def __init__(self, others: Kept | None = None) -> None:
        self._pairs: list[tuple[Tensor, Codes]] = [] if others is None else list(others._pairs)

    def add(self, values: Tensor, codes: Codes) -> None:
        """Note what ``values`` are; a cast of theirs may be noted too."""
        if codes.narrow:
            self._pairs.append((values, codes))

    def alias(self, values: Tensor, cast: Tensor) -> Tensor:
        """Note that ``cast`` has the numbers of ``values`` in another dtype, and return it."""
        for own, codes in self._pairs:
            if own is values:
                self._pairs.append((cast, codes))
                break
        return cast

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Within it, autograd saves the codes in place of their values.

        Where somebody else decides what is saved (activation checkpointing, offloading), it is left
        to them.
        """
        if not self._pairs or not torch.is_grad_enabled() or _is_decided():
            yield
            return
        with torch.autograd.graph.saved_tensors_hooks(self._pack, _unpack):
            yield
        self._pairs.clear()  # autograd keeps the hooks, and they must not keep the values

    def _pack(self, saved: Tensor) -> Tensor | _Looked:
        for values, codes in self._pairs:
            if saved.data_ptr() == values.data_ptr() and saved.dtype == values.dtype:
                return _Looked(codes, saved.dtype, values.stride(), saved.size(), saved.stride())
        return saved


@dataclass(frozen=True)
class _Looked:
    """How autograd saw a tensor whose codes are kept."""

    codes: Codes
    dtype: torch.dtype
    memory: tuple[int, ...]
    size: torch.Size
    stride: tuple[int, ...]


def _unpack(saved: Any) -> Tensor:
    if not isinstance(saved, _Looked):
        tensor: Tensor = saved
        return tensor
    values = widen(saved.codes).to(saved.dtype)
    if values.stride() != saved.memory:
        values = torch.empty_strided(
            values.size(), saved.memory, dtype=values.dtype, device=values.device
        ).copy_(values)
    return values.as_strided(saved.size, saved.stride)


def _is_decided() -> bool:
    """Whether other hooks on saved tensors are active."""
    top: Callable[[bool], Any] = torch._C._autograd._top_saved_tensors_default_hooks
    return torch.compiler.is_compiling() or top(True) is not None
