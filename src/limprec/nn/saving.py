"""What autograd keeps from the forward pass to the backward pass, in as few bits as hold it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import ConversionError
from ..formats import Precision
from ..kernels import Key, round_to
from ..kernels.following import Following
from ..kernels.stored import Codes, round_to_codes, widen
from .operators import is_parameter

_HOLD_RESULTS = frozenset({"SoftmaxBackward0", "SigmoidBackward0", "TanhBackward0", "ExpBackward0"})
"""Nodes of autograd that keep what they computed."""


class Again:
    """A rounding to be done once more on the way back, of a tensor that is there anyway.

    Args:
        x: the tensor: autograd holds it, or it is a parameter.
        precision: what it is rounded to.
        key: of the rounding.
    """

    def __init__(self, x: Tensor, precision: Precision, key: Key | None) -> None:
        self.x, self._precision, self._key = x.detach(), precision, key
        self._version = x._version

    def round(self) -> Tensor:
        """Return the rounded values.

        Raises:
            ConversionError: if the tensor was written to since.
        """
        if self.x._version != self._version:
            raise ConversionError(
                "backward",
                f"a tensor of shape {tuple(self.x.shape)} that a layer multiplied was changed in"
                " place between the forward and the backward pass",
                'run backward before the optimizer steps, or convert with saved="carrier"',
            )
        return round_to(self.x, self._precision, self._key)


class Kept:
    """Operands of one product, with the codes that are kept in their place.

    Args:
        others: kept by another product, of which this one has operands too.
        batches: whether the operands are batches of matrices.
        once: whether each operand is asked for once on the way back.
    """

    def __init__(
        self, others: Kept | None = None, *, batches: bool = False, once: bool = True
    ) -> None:
        self._pairs: list[tuple[Tensor, Codes | Again]] = (
            [] if others is None else list(others._pairs)
        )
        self._batches, self._once = batches, once

    def waiting(
        self, x: Tensor, precision: Precision, key: Key | None, given: bool
    ) -> Codes | Again:
        """Return what waits for the way back in place of the rounded values of ``x``.

        Args:
            x: an operand.
            precision: what it is rounded to.
            key: of the rounding.
            given: whether the caller of the model holds ``x``.
        """
        if self._is_there(x, given) and not isinstance(precision, Following):
            return Again(x, precision, key)
        return self._lay(round_to_codes(x, precision, key))

    def _is_there(self, x: Tensor, given: bool) -> bool:
        """Whether ``x`` can be rounded again: it is there until the product's way back.

        Parameters are, and what autograd holds for the function that made it.
        """
        there = given or (x.grad_fn is not None and x.grad_fn.name() in _HOLD_RESULTS)
        there = there or (self._once and is_parameter(x))
        return there and (not self._batches or _is_one_batch(x))

    def _lay(self, codes: Codes) -> Codes:
        """Return codes that lie so that the product takes what they widen to without a copy.

        ``torch.matmul`` would save its own copy of a batch in several axes that are not one stretch
        of memory (heads that were split off and moved forward), and not what is noted here.
        """
        words = codes.codes
        if not self._batches or not codes.narrow or _is_one_batch(words):
            return codes
        return codes._replace(codes=words.contiguous())

    def add(self, values: Tensor, codes: Codes | Again) -> None:
        """Note what ``values`` are; a cast of theirs may be noted too."""
        if isinstance(codes, Again) or codes.narrow:
            self._pairs.append((values, codes))

    def alias(self, values: Tensor, cast: Tensor) -> Tensor:
        """Note that ``cast`` has the numbers of ``values`` in another dtype, and return it."""
        for own, codes in self._pairs:
            if own is values:
                self._pairs.append((cast, codes))
                break
        return cast

    @contextmanager
    def saving(self) -> Iterator[bool]:
        """Within it, autograd saves the codes in place of their values; yields whether it does.

        Where somebody else decides what is saved (activation checkpointing, offloading), it is left
        to them.
        """
        if not self._pairs or not torch.is_grad_enabled() or _is_decided():
            yield False
            return
        with torch.autograd.graph.saved_tensors_hooks(self._pack, unpack):
            yield True
        self._pairs.clear()  # autograd keeps the hooks, and they must not keep the values

    def _pack(self, saved: Tensor) -> Tensor | _Looked:
        for values, codes in self._pairs:
            if saved.data_ptr() == values.data_ptr() and saved.dtype == values.dtype:
                return _Looked(codes, saved.dtype, values.stride(), saved.size(), saved.stride())
        return saved


def _is_one_batch(x: Tensor) -> bool:
    """Whether the axes of matrices but their last two can be seen as one."""
    inner = [(n, stride) for n, stride in zip(x.shape[:-2], x.stride(), strict=False) if n != 1]
    return all(a[1] == b[0] * b[1] for a, b in itertools.pairwise(inner))


@dataclass(frozen=True)
class _Looked:
    """How autograd saw a tensor whose codes are kept."""

    codes: Codes | Again
    dtype: torch.dtype
    memory: tuple[int, ...]
    size: torch.Size
    stride: tuple[int, ...]


def unpack(saved: Any) -> Tensor:
    """Return the tensor that autograd saved within ``Kept.saving``, from what it keeps of it."""
    if not isinstance(saved, _Looked):
        tensor: Tensor = saved
        return tensor
    kept = saved.codes
    if isinstance(kept, Again):
        values = kept.round().to(saved.dtype)
    else:
        values = widen(kept).to(saved.dtype)
    if values.stride() != saved.memory:
        values = torch.empty_strided(
            values.size(), saved.memory, dtype=values.dtype, device=values.device
        ).copy_(values)
    return values.as_strided(saved.size, saved.stride)


@contextmanager
def saving_shapes(x: Tensor, axes: int) -> Iterator[None]:
    """Within it, autograd saves of floating-point tensors their shape alone, of indices few bits.

    For functions whose derivative asks of their input how large it is, as pooling does: PyTorch
    would keep all of it. Left to others where ``Kept.saving`` is.

    Args:
        x: the input.
        axes: indices are places among its last ``axes`` axes; saved as int16 or int32 if these fit.
    """
    if not torch.is_grad_enabled() or _is_decided():
        yield
        return
    places = x.shape[-axes:].numel()
    index = next((t for t in _INDICES if places <= torch.iinfo(t).max), torch.int64)

    def pack(saved: Tensor) -> Tensor | _Outline:
        if saved.is_floating_point():
            stride = None if saved.is_contiguous() else saved.stride()
            return _Outline(saved.size(), stride, saved.new_empty(()))
        return saved.to(index) if saved.dtype == torch.int64 else saved

    with torch.autograd.graph.saved_tensors_hooks(pack, _fill):
        yield


_INDICES = (torch.int16, torch.int32)


@dataclass(frozen=True)
class _Outline:
    """A tensor without its values."""

    size: torch.Size
    stride: tuple[int, ...] | None
    """None for row-major."""
    like: Tensor
    """One value of its dtype, on its device."""


def _fill(saved: Any) -> Tensor:
    """Return indices, or a tensor of some shape and layout whose values mean nothing."""
    if not isinstance(saved, _Outline):
        indices: Tensor = saved
        return indices if indices.is_floating_point() else indices.to(torch.int64)
    if saved.stride is None:
        return saved.like.expand(saved.size)
    return saved.like.new_empty_strided(saved.size, saved.stride)


def _is_decided() -> bool:
    """Whether other hooks on saved tensors are active."""
    top: Callable[[bool], Any] = torch._C._autograd._top_saved_tensors_default_hooks
    return torch.compiler.is_compiling() or top(True) is not None
