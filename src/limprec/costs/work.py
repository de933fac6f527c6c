"""What one training step computes and keeps: plain values that a trace finds."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..plan import Call


@dataclass(frozen=True)
class Operand:
    """One factor of a product.

    Args:
        elements: distinct numbers read; 0 for one that never leaves the arithmetic unit.
        is_weight: whether it does not depend on the input.
        needs_gradient: whether the backward pass computes a gradient for it.
    """

    elements: int
    is_weight: bool
    needs_gradient: bool


@dataclass(frozen=True)
class Product:
    """Multiply-adds of one call, over the whole batch.

    Args:
        layer: name of the layer, or ``path/matmul#0`` for a product of no layer's own.
        macs: multiply-adds going forward; each gradient takes as many again.
        left: the first factor, by convention the input.
        right: the second.
        results: distinct numbers written; 0 for those that stay in the arithmetic unit.
        forwards: how often it is computed forward: again where the backward pass recomputes it.
    """

    layer: str
    macs: int
    left: Operand
    right: Operand
    results: int
    forwards: int = 1


@dataclass(frozen=True)
class Elementwise:
    """One call of an operator that is no product.

    Args:
        layer: path of the module that called it.
        adds: additions and comparisons going forward.
        multiplies: multiplications going forward.
        tensors: numbers of each tensor read or written.
        needs_gradient: whether a backward pass follows.
        forwards: as for ``Product``.
    """

    layer: str
    adds: int
    multiplies: int
    tensors: tuple[int, ...]
    needs_gradient: bool
    forwards: int = 1


@dataclass(frozen=True)
class Saved:
    """One tensor kept for the backward pass.

    Args:
        layers: the layers that multiply it; empty for one kept by element-wise work alone.
        elements: how many numbers.
        itemsize: bytes of one as PyTorch holds it.
        is_floating: whether a format can narrow it (indices and masks stay as they are).
    """

    layers: tuple[str, ...]
    elements: int
    itemsize: int
    is_floating: bool


@dataclass(frozen=True)
class Parameter:
    """One parameter: dotted name, the layer that owns it, shape, whether it is trained."""

    name: str
    layer: str
    shape: tuple[int, ...]
    is_trained: bool

    @property
    def role(self) -> str:
        """``bias`` or ``weight``, as a plan calls it."""
        return "bias" if self.name.rpartition(".")[2].startswith("bias") else "weight"

    @property
    def elements(self) -> int:
        """How many numbers."""
        return torch.Size(self.shape).numel()


@dataclass(frozen=True)
class Trace:
    """All of one step, over the whole batch.

    Args:
        products: in the order of the forward pass.
        elementwise: likewise.
        saved: kept from the forward pass to the backward pass.
        blocks: what each recomputed module keeps while its own backward pass runs.
        parameters: each once, however many modules share it.
        buffer_bytes: of the model's buffers.
        dtype: of the first floating-point parameter.
        calls: functions that multiply or that a plan speaks of, as layers of their own.
        last: the layer with a weight that multiplied last, None if there was none.
    """

    products: tuple[Product, ...]
    elementwise: tuple[Elementwise, ...]
    saved: tuple[Saved, ...]
    blocks: tuple[tuple[Saved, ...], ...]
    parameters: tuple[Parameter, ...]
    buffer_bytes: int
    dtype: torch.dtype
    calls: tuple[Call, ...] = ()
    last: str | None = None
