"""Layers whose products are no plain operator: accumulators, and blocks along what is summed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..formats import Precision, Rounding, ScaledFormat
from ..kernels import TracedKey, random_words
from ..kernels.hadamard import Rotation
from ..kernels.matmul.bilinear import Anew, Arithmetic, Bilinear, Product, contract
from ..kernels.random import Key
from ..plan import Group, LayerPlan
from .forms import FORMS, Form
from .operators import Operator, role_of
from .state import LayerState, Teller

_OPERANDS = ("weight", "activation", "error")
_SIGNS = 8
"""First word of a rotation's signs in the stream ``product``; before it lie the seeds of sums."""


@dataclass(frozen=True)
class Contracting:
    """How a layer computes one of its products.

    Args:
        layer: whose product it is.
        call: its number among the layer's.
        form: the function.
        operands: the arguments a and b -> role and random stream.
        inside: roles that are rounded within the product, along what it sums over.
        narrow: dtype in which PyTorch multiplies, None for the carrier.
        shared: the product whose random bits a weight of several products takes, None for its own.
    """

    layer: LayerState
    call: int
    form: Form
    operands: Mapping[str, tuple[str, str]]
    inside: frozenset[str]
    narrow: torch.dtype | None = None
    shared: int | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """Run the function on operands that are rounded, but for those rounded inside.

        Never compiled: seeds of sums and keys of the backward pass are numbers of a step, not of a
        graph.
        """
        run = partial(self.form.run, self._contract, *args, **kwargs)
        if torch.compiler.is_compiling():
            from .uncompiled import uncompiled

            y: Tensor = uncompiled(run)
            return y
        return run()

    def enter(self, tensor: Tensor, role: str) -> Tensor:
        """Return an operand that is rounded inside: as it is, a weight with Qg behind it."""
        if role != "weight" or not tensor.requires_grad:
            return tensor
        return self.layer.round(tensor.view_as(tensor), self.call, None, "gradient")

    def _contract(self, a: Tensor, b: Tensor, operation: Bilinear) -> Tensor:
        rotation, rotated = self._rotation(a)
        how = Arithmetic(
            self._sums(),
            self._anew(*self.operands[self.form.a]),
            self._anew(*self.operands[self.form.b]),
            self._anew("error", "error"),
            rotation,
            rotated,
            self.narrow,
        )
        return contract(a, b, operation, how)

    def _anew(self, role: str, stream: str) -> Anew | None:
        if role not in self.inside:
            return None
        layer, precision, call = self.layer, self.layer.plan[role], self.call
        if role == "weight" and self.shared is not None:
            call = self.shared
        key, tell = layer.key(precision, stream, call), layer.tell
        assert not isinstance(key, TracedKey)
        told = None if tell is None or call != self.call else partial(_tell, tell, role, precision)
        return Anew(precision, key, told)

    def _sums(self) -> dict[Product, Callable[[Tensor, Tensor], Tensor]]:
        accumulator = self.layer.plan.accumulator
        if accumulator is None:
            return {}
        if accumulator.precision.rounding is not Rounding.STOCHASTIC:
            return dict.fromkeys(Product, accumulator.multiply)
        seeds = sum_seeds(self.layer.product_key(self.call))
        return {p: partial(accumulator.multiply, seed=seeds[p]) for p in Product}

    def _rotation(self, like: Tensor) -> tuple[Rotation | None, Product]:
        """Return the rotation of the weight gradient's operands, and which product that is."""
        size = self.layer.model.plan.hadamard
        roles = self.operands[self.form.a][0], self.operands[self.form.b][0]
        product, other = (Product.SECOND, roles[0])
        if roles[1] != "weight":
            product, other = (Product.FIRST, roles[1])
        if not size or "weight" not in roles:
            return None, product
        rounded = [r for r in (other, "error") if self.layer.precision(r, like.dtype)]
        if not rounded or not self.inside.issuperset(rounded):
            return None, product
        key = replace(self.layer.product_key(self.call), offset=_SIGNS)
        return Rotation(random_signs(key, size).to(like.device)), product


def contracting(
    layer: LayerState,
    call: int,
    operator: Operator,
    func: Any,
    tensors: Mapping[str, Tensor],
    narrow: torch.dtype | None = None,
) -> Contracting | None:
    """Return how a layer computes a product, None where rounded operands and ``func`` do.

    A function that has no form here is left to PyTorch's sums and the formats' own axes; the
    conversion report names it.
    """
    plan = layer.plan
    if (plan.accumulator is None and not blocked_roles(plan)) or not _is_sum(operator):
        return None
    if func not in FORMS:
        why = f"its sums are not rounded to {plan.accumulator}: write it as matmul"
        if plan.accumulator is None:
            why = "blocks run along the last axis of its operands, not along its sums"
        layer.model.leave(operator.word, why)
        return None
    operands, seen = {}, False
    for name, tensor in tensors.items():
        role = role_of(operator.roles[name], tensor)
        if role in ("weight", "activation"):
            operands[name] = (role, "activation 2" if seen and role == "activation" else role)
            seen = seen or role == "activation"
    return contracting_as(layer, call, func, operands, narrow)


def contracting_as(
    layer: LayerState,
    call: int,
    func: Any,
    operands: Mapping[str, tuple[str, str]],
    narrow: torch.dtype | None = None,
) -> Contracting | None:
    """Return how a layer computes a function of ``FORMS`` whose operands are known."""
    inside = blocked_roles(layer.plan)
    if layer.plan.accumulator is None and not inside:
        return None
    return Contracting(layer, call, FORMS[func], operands, inside, narrow)


def _tell(tell: Teller, role: str, precision: Precision, before: Tensor, after: Tensor) -> None:
    tell(role, before, after, precision)


def _is_sum(operator: Operator) -> bool:
    """Whether a function adds up products; one that looks up in a table does not."""
    return operator.kind.group is Group.PRODUCT and "activation" in operator.kind.roles


def blocked_roles(plan: LayerPlan) -> frozenset[str]:
    """Return the operands in blocks along the last axis, which each product moves to its own."""
    return frozenset(role for role in _OPERANDS if is_blocked(plan[role]))


def is_blocked(precision: Precision) -> bool:
    """Whether a format has blocks whose axis nobody chose."""
    fmt = precision.format
    return isinstance(fmt, ScaledFormat) and fmt.block is not None and fmt.axis == -1


def sum_seeds(key: Key) -> tuple[int, ...]:
    """Return a seed for the sums of each of the three products: 64 random bits of the key's."""
    words = random_words(key, 2 * len(Product)).tolist()
    return tuple(words[2 * p] | words[2 * p + 1] << 32 for p in Product)


def random_signs(key: Key, count: int) -> Tensor:
    """Return ``count`` numbers of +-1, float32: the upper bit of each random word."""
    return 1.0 - (random_words(key, count) >> 31) * 2.0
