"""Products of rounded operands, in the way of computing that the model was converted for."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from . import integers
from .fitting import can
from .operators import Args, Kwargs, Operator, role_of
from .saving import Kept
from .state import Compute, LayerState

NARROW = torch.bfloat16
_FAST = frozenset(
    {"linear", "matmul", "einsum", "tensordot"}
    | {f"{word}{n}d" for word in ("conv", "conv_transpose") for n in (1, 2, 3)}
)
"""Functions with a bfloat16 product."""


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
    way = layer.model.compute
    if way is Compute.REAL and can(way, layer.plan):
        product = integers.product_of(operator, args, kwargs, tensors)
        if product is not None:
            return integers.compute(layer, call, product, tensors)
    fast = way is Compute.FAST and can(way, layer.plan) and operator.word in _FAST
    kept = Kept() if layer.model.saves_codes else None
    rounded: dict[str, Tensor] = {}
    seen = False
    for name, tensor in tensors.items():
        role = role_of(operator.roles[name], tensor)
        if role is None or not tensor.is_floating_point():
            continue
        if role == "weight":
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
    with nullcontext() if kept is None else kept.saving():
        y = func(*args, **kwargs)
    if fast:
        y = y.to(dtype)
        if bias is not None:
            y = y + (
                bias.view(-1, *[1] * (tensors["weight"].dim() - 2))
                if operator.is_convolution
                else bias
            )
    return layer.round_out(y, call)


def multiply_pair(layer: LayerState, call: int, a: Tensor, b: Tensor) -> Tensor:
    """Return the matrix product of two rounded activations, with Qe behind it."""
    kept = Kept() if layer.model.saves_codes else None
    a = layer.round(a, call, "activation", kept=kept)
    b = layer.round(b, call, "activation", stream="activation 2", kept=kept)
    dtype = a.dtype
    if layer.model.compute is Compute.FAST and can(Compute.FAST, layer.plan):
        a, b = _cast(a, kept), _cast(b, kept)
    with nullcontext() if kept is None else kept.saving():
        y = torch.matmul(a, b)
    return layer.round_out(y.to(dtype), call)


def _cast(x: Tensor, kept: Kept | None) -> Tensor:
    cast = x.to(NARROW)
    return cast if kept is None else kept.alias(x, cast)
