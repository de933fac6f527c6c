"""Products of rounded operands, in the way of computing that the model was converted for."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import apart, integers
from .contracting import contracting, contracting_as
from .operators import Args, Kwargs, Operator, role_of
from .saving import Kept
from .state import Compute, LayerState
from .ways import way_of

NARROW = torch.bfloat16
_FAST = frozenset(
    {"linear", "matmul", "einsum", "tensordot"}
    | {f"{word}{n}d" for word in ("conv", "conv_transpose") for n in (1, 2, 3)}
)
"""Functions with a bfloat16 product."""
_PAIR = {"input": ("activation", "activation"), "other": ("activation", "activation 2")}
_LINEAR = {"input": ("activation", "activation"), "weight": ("weight", "weight")}
"""Operands -> role and random stream."""


def multiply(
    layer: LayerState,
    call: int,
    operator: Operator,
    func: Any,
    args: Args,
    kwargs: Kwargs,
    tensors: dict[str, Tensor],
) -> Any:
    """Run a function between rounded operands, and round the error that comes back."""
    first = next(iter(tensors.values()))
    way = way_of(layer, first)
    if way is Compute.REAL:
        product = integers.product_of(layer.model, operator, args, kwargs, tensors)
        asked = layer.model.compute is way
        if product is not None and (asked or integers.pays(operator, tensors)):
            return integers.compute(layer, call, product, tensors)
        way = way_of(layer, first, integers=False)
    if operator.is_convolution:
        y = integers.exact_product(layer, call, operator, args, kwargs)
        if y is not None:
            return y
    fast = way is Compute.FAST and operator.word in _FAST
    own = contracting(layer, call, operator, func, tensors, NARROW if fast else None)
    inside = own.inside if own else frozenset()
    fast = fast and own is None
    batches = operator.word == "matmul" and all(t.dim() > 2 for t in tensors.values())
    kept = Kept(batches=batches) if layer.model.saves_codes else None
    rounded: dict[str, Tensor] = {}
    seen = False
    for name, tensor in tensors.items():
        role = role_of(operator.roles[name], tensor)
        if role is None or not tensor.is_floating_point():
            continue
        if own and role in inside:
            rounded[name] = own.enter(tensor, role)
        elif role == "weight":
            rounded[name] = layer.round_weight(tensor, call, kept)
        elif role == "bias":
            rounded[name] = layer.round_bias(tensor, call)
        else:
            stream = "activation 2" if seen else "activation"
            rounded[name] = layer.round(tensor, call, "activation", stream=stream, kept=kept)
            seen = True
    bias, dtype = None, next(iter(rounded.values())).dtype
    if fast:
        bias = rounded.pop(operator.bias or "", None)
        rounded = {name: _cast(tensor, kept) for name, tensor in rounded.items()}
        if bias is not None:
            args, kwargs = operator.replaced(args, kwargs, {"bias": None})
    args, kwargs = operator.replaced(args, kwargs, rounded)
    if kept is None:  # a compiler cannot leave its graph within a context that has a value
        y = (own or func)(*args, **kwargs)
    else:
        with kept.saving() as narrow:
            given = operator.given(args, kwargs)
            how = apart.way_back(operator, given) if narrow and own is None else None
            y = (own or func)(*args, **kwargs) if how is None else apart.multiply(how, given)
    if fast:
        y = y.to(dtype)
        if bias is not None:
            y = y + (
                bias.view(-1, *[1] * (tensors["weight"].dim() - 2))
                if operator.is_convolution
                else bias
            )
    return y if "error" in inside else layer.round_out(y, call)


def multiply_pair(layer: LayerState, call: int, a: Tensor, b: Tensor) -> Tensor:
    """Return the matrix product of two rounded activations, with Qe behind it."""
    way = way_of(layer, a, integers=integers.are_pair(a, b))
    if way is Compute.REAL:
        return integers.multiply_pair(layer, call, a, b)
    kept = Kept(batches=min(a.dim(), b.dim()) > 2) if layer.model.saves_codes else None
    fast = way is Compute.FAST
    own = contracting_as(layer, call, torch.matmul, _PAIR, NARROW if fast else None)
    inside = own.inside if own else frozenset()
    if "activation" not in inside:
        a = layer.round(a, call, "activation", kept=kept)
        b = layer.round(b, call, "activation", stream="activation 2", kept=kept)
    dtype = a.dtype
    if fast and own is None:
        a, b = _cast(a, kept), _cast(b, kept)
    with nullcontext() if kept is None else kept.saving():
        y = (own or torch.matmul)(a, b)
    return y if "error" in inside else layer.round_out(y.to(dtype), call)


class SharedWeight:
    """A weight and a bias of several products: rounded once, each with its whole gradient.

    Args:
        layer: whose they are.
        call: number of the first product; their random bits are its.
        weight: (N, K).
        bias: (N,) or None.
    """

    def __init__(
        self, layer: LayerState, call: int, weight: Tensor, bias: Tensor | None = None
    ) -> None:
        self._layer, self._codes = layer, None
        self._kept = Kept(once=False) if layer.model.saves_codes else None
        way = way_of(layer, weight)
        self._fast = way is Compute.FAST
        if way is Compute.REAL:
            self._codes = integers.codes_of(layer, call, weight)
        own = contracting_as(layer, call, F.linear, _LINEAR, NARROW if self._fast else None)
        self._own = own and replace(own, shared=call)
        if self._own and "weight" in self._own.inside:
            self._weight = self._own.enter(weight, "weight")
        else:
            self._weight = layer.round_weight(weight, call, self._kept)
        if self._fast and self._own is None:
            self._weight = _cast(self._weight, self._kept)
        self._bias = None if bias is None else layer.round_bias(bias, call)

    def multiply(self, call: int, x: Tensor) -> Tensor:
        """Return Qa(x) Qw(w)^T + Qb(b) for x (..., K), with Qe behind it."""
        layer, bias, dtype = self._layer, self._bias, x.dtype
        if self._codes is not None:
            return integers.multiply_shared(layer, call, x, self._weight, bias, self._codes)
        kept = None if self._kept is None else Kept(self._kept)
        own = self._own and replace(self._own, call=call)
        inside, fast = own.inside if own else frozenset(), self._fast and own is None
        if "activation" not in inside:
            x = layer.round(x, call, "activation", kept=kept)
        if fast:
            x, bias = _cast(x, kept), None
        with nullcontext() if kept is None else kept.saving():
            y = (own or F.linear)(x, self._weight, bias)
        if fast:
            y = y.to(dtype) if self._bias is None else y.to(dtype) + self._bias
        return y if "error" in inside else layer.round_out(y, call)


def _cast(x: Tensor, kept: Kept | None) -> Tensor:
    cast = x.to(NARROW)
    return cast if kept is None else kept.alias(x, cast)
