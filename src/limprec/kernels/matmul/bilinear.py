"""The three products of a training step whose arithmetic is not one plain operator of PyTorch.

An operation y = op(a, b), linear in both operands, has three products: y itself, and with
e = dL/dy the two of the backward pass, dL/da from e and b and dL/db from a and e. Here each of
them may add up in its own way (an accumulator), and each operand may be rounded anew in each
product that it enters, along the axis that the product sums over (block formats).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from functools import lru_cache
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...formats import Precision
from ..autograd import Told
from ..dispatch import round_to
from ..hadamard import Rotation
from ..random import Key

Multiply = Callable[[Tensor, Tensor], Tensor]
"""``torch.matmul`` of (..., M, K) and (..., K, N), summed in its own way."""

AGAIN = 2**60
"""Where the random words of a tensor's second product begin: beyond all elements of the first."""


class Product(IntEnum):
    """One product of y = op(a, b)."""

    FORWARD = 0
    """y, from a and b."""
    FIRST = 1
    """dL/da, from e and b."""
    SECOND = 2
    """dL/db, from a and e."""


class Bilinear(ABC):
    """An operation of two tensors as products of matrices."""

    axes: ClassVar[Mapping[tuple[str, Product], int]]
    """Operand (``a``, ``b`` or ``e``) and product -> the operand's axis that blocks run along."""

    @abstractmethod
    def forward(self, a: Tensor, b: Tensor, multiply: Multiply | None) -> Tensor:
        """Return y; without ``multiply``, as PyTorch adds."""

    @abstractmethod
    def first(
        self, e: Tensor, b: Tensor, shape: Sequence[int], multiply: Multiply | None
    ) -> Tensor:
        """Return dL/da, of ``shape``."""

    @abstractmethod
    def second(
        self, e: Tensor, a: Tensor, shape: Sequence[int], multiply: Multiply | None
    ) -> Tensor:
        """Return dL/db, of ``shape``."""

    def grouped(self, x: Tensor, operand: str, product: Product) -> tuple[Tensor, int]:
        """Return an operand, viewed so that no block spans two sums, and the axis of its blocks."""
        return x, self.axes[operand, product]


@dataclass(frozen=True)
class Matrices(Bilinear):
    """a @ b of (..., M, K) and (..., K, N) with the same batch, differentiable in both.

    Args:
        transposed: whether b is stored as (..., N, K), as the weight of a linear layer is.
    """

    transposed: bool = False
    axes: ClassVar[Mapping[tuple[str, Product], int]] = MappingProxyType(
        {
            ("a", Product.FORWARD): -1,
            ("b", Product.FORWARD): -2,
            ("e", Product.FIRST): -1,
            ("b", Product.FIRST): -1,
            ("e", Product.SECOND): -2,
            ("a", Product.SECOND): -2,
        }
    )

    def grouped(self, x: Tensor, operand: str, product: Product) -> tuple[Tensor, int]:
        """Return an operand and the axis that its product sums over."""
        axis = self.axes[operand, product]
        return x, -3 - axis if operand == "b" and self.transposed else axis

    def forward(self, a: Tensor, b: Tensor, multiply: Multiply | None) -> Tensor:
        """Return a @ b."""
        return (multiply or torch.matmul)(a, b.mT if self.transposed else b)

    def first(
        self, e: Tensor, b: Tensor, shape: Sequence[int], multiply: Multiply | None
    ) -> Tensor:
        """Return e @ b^T."""
        return (multiply or torch.matmul)(e, b if self.transposed else b.mT)

    def second(
        self, e: Tensor, a: Tensor, shape: Sequence[int], multiply: Multiply | None
    ) -> Tensor:
        """Return a^T @ e, or e^T @ a where b is transposed."""
        left, right = (e, a) if self.transposed else (a, e)
        return (multiply or torch.matmul)(left.mT, right)


@dataclass(frozen=True)
class Anew:
    """How an operand is rounded in each product that it enters.

    Args:
        precision: a block format whose axis is replaced by the product's, and the rounding.
        key: where the random words begin in the forward product (for e, in ``FIRST``); the other
            product takes those from ``AGAIN`` on.
        told: called with the operand before and after its rounding there, once.
    """

    precision: Precision
    key: Key | None = None
    told: Told | None = None

    def round(self, x: Tensor, axis: int, *, again: bool) -> Tensor:
        """Return x in blocks along an axis."""
        key = replace(self.key, offset=AGAIN) if self.key is not None and again else self.key
        return round_to(x, along(self.precision, axis), key)


@dataclass(frozen=True)
class Arithmetic:
    """How the three products of an operation are computed.

    Args:
        multiply: what adds up each product, None for what PyTorch does.
        a: how a is rounded inside, None if it comes rounded.
        b: likewise b.
        e: likewise the error.
        rotation: applied to both operands of one backward product before they are rounded.
        rotated: that product.
        narrow: dtype that holds every rounded operand, in which PyTorch multiplies; None for the
            operands' own. Results come back in that.
    """

    multiply: Mapping[Product, Multiply] = field(default_factory=dict)
    a: Anew | None = None
    b: Anew | None = None
    e: Anew | None = None
    rotation: Rotation | None = None
    rotated: Product = Product.SECOND
    narrow: torch.dtype | None = None


def contract(a: Tensor, b: Tensor, operation: Bilinear, how: Arithmetic) -> Tensor:
    """Return op(a, b), whose three products are computed as ``how`` says.

    Args:
        a: floating-point tensor, as ``operation`` takes it.
        b: likewise, of the same dtype.
        operation: what is computed.
        how: by what arithmetic.

    Returns:
        y, differentiable once in a and b; NaN and infinities as ``lp.matmul`` and ``lp.quantize``
        treat them.
    """
    y: Tensor = _Contract.apply(a, b, operation, how)  # type: ignore[no-untyped-call]
    return y


class _Contract(torch.autograd.Function):
    """``contract``; what waits for the backward pass are the operands as they came."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, operation: Bilinear, how: Arithmetic) -> Tensor:
        """Return y."""
        need_a, need_b = ctx.needs_input_grad[:2]
        ctx.operation, ctx.how, ctx.shapes = operation, how, (a.shape, b.shape)
        ctx.save_for_backward(a if need_b else None, b if need_a else None)
        operands = _operand(a, "a", Product.FORWARD, ctx), _operand(b, "b", Product.FORWARD, ctx)
        for anew, before, after in zip((how.a, how.b), (a, b), operands, strict=True):
            if anew is not None and anew.told is not None:
                anew.told(before, after)
        return operation.forward(*_cast(how, operands), how.multiply.get(Product.FORWARD)).to(
            a.dtype
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        """Return dL/da and dL/db, as far as they are needed."""
        (e,), (a, b) = grads, ctx.saved_tensors
        how, operation = ctx.how, ctx.operation
        grad_a = grad_b = None
        if how.e is not None and how.e.told is not None:
            how.e.told(e, _operand(e, "e", Product.FIRST, ctx, rotate=False))
        if b is not None:
            product = Product.FIRST
            operands = _operand(e, "e", product, ctx), _operand(b, "b", product, ctx)
            multiply = how.multiply.get(product)
            grad_a = operation.first(*_cast(how, operands), ctx.shapes[0], multiply).to(b.dtype)
        if a is not None:
            product = Product.SECOND
            operands = _operand(e, "e", product, ctx), _operand(a, "a", product, ctx)
            multiply = how.multiply.get(product)
            grad_b = operation.second(*_cast(how, operands), ctx.shapes[1], multiply).to(a.dtype)
        return grad_a, grad_b, None, None


def _operand(x: Tensor, name: str, product: Product, ctx: Any, *, rotate: bool = True) -> Tensor:
    """Return an operand as a product takes it: rotated and rounded if that happens inside."""
    how: Arithmetic = ctx.how
    rotation = how.rotation if rotate and product is how.rotated else None
    anew: Anew | None = getattr(how, name)
    if rotation is None and anew is None:
        return x
    operation: Bilinear = ctx.operation
    view, axis = operation.grouped(x, name, product)
    if rotation is not None:
        view = rotation(view, axis)
    if anew is not None:
        home = Product.FIRST if name == "e" else Product.FORWARD
        view = anew.round(view, axis, again=product is not home)
    return view if view.dim() == x.dim() else view.reshape(x.shape)


def _cast(how: Arithmetic, operands: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    if how.narrow is None:
        return operands
    return operands[0].to(how.narrow), operands[1].to(how.narrow)


@lru_cache(maxsize=1024)
def along(precision: Precision, axis: int) -> Precision:
    """Return a precision whose blocks run along an axis."""
    fmt = replace(precision.format, axis=axis)  # type: ignore[type-var]  # a scaled one
    return replace(precision, format=fmt)
