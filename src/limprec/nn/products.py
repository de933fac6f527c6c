"""Products of rounded operands, in the way of computing that the model was converted for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .operators import Args, Kwargs, Operator, role_of
from .state import LayerState


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
    rounded, seen = {}, False
    for name, tensor in tensors.items():
        role = role_of(operator.roles[name], tensor)
        if role is None or not tensor.is_floating_point():
            continue
        if role == "weight":
            rounded[name] = layer.round_weight(tensor, call)
        elif role == "bias":
            rounded[name] = layer.round_bias(tensor, call)
        else:
            stream = "activation 2" if seen else "activation"
            rounded[name] = layer.round(tensor, call, "activation", stream=stream)
            seen = True
    args, kwargs = operator.replaced(args, kwargs, rounded)
    return layer.round_out(func(*args, **kwargs), call)


def multiply_pair(layer: LayerState, call: int, a: Tensor, b: Tensor) -> Tensor:
    """Return the matrix product of two rounded activations, with Qe behind it."""
    a = layer.round(a, call, "activation")
    b = layer.round(b, call, "activation", stream="activation 2")
    return layer.round_out(torch.matmul(a, b), call)
