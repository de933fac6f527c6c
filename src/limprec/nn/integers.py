"""Layers whose products are those of int8 codes (``compute="real"``)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..kernels import round_through, round_to
from ..kernels.matmul.exact_conv import exact_conv, is_proven
from ..kernels.matmul.operands import Operand, round_operand
from ..kernels.matmul.real import Role, Roundings, real_linear, real_matmul
from ..kernels.matmul.real_attention import real_attention
from ..kernels.matmul.real_conv import real_conv
from .apart import options_of
from .operators import Args, Kwargs, Operator, is_parameter
from .state import Compute, LayerState, ModelState
from .ways import may_prove, way_of

_CONVOLUTION = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}

Product = Callable[[Roundings], Tensor]


def product_of(
    model: ModelState, operator: Operator, args: Args, kwargs: Kwargs, tensors: dict[str, Tensor]
) -> Product | None:
    """Return what computes a function on integers, None for one that stays in the carrier.

    Linear layers, convolutions, and products with a matrix that is a weight have integer products.
    """
    given = operator.given(args, kwargs)
    if operator.word == "linear":
        return lambda how: real_linear(given["input"], given["weight"], given.get("bias"), how)
    if operator.word in ("conv1d", "conv2d", "conv3d"):
        options = {name: given.get(name, usual) for name, usual in _CONVOLUTION.items()}
        x, weight, bias = given["input"], given["weight"], given.get("bias")
        held = model.is_given(x)
        return lambda how: real_conv(x, weight, bias, **options, roundings=how, held=held)
    if operator.word == "addmm" and not {"beta", "alpha"} & kwargs.keys():
        bias, a, b = given["input"], given["mat1"], given["mat2"]
        return lambda how: real_matmul(a, b, how) + bias
    factors = list(tensors.values())
    if operator.word == "matmul" and factors[1].dim() == 2 and is_parameter(factors[1]):
        return lambda how: real_matmul(factors[0], factors[1], how)
    return None


def pays(operator: Operator, tensors: dict[str, Tensor]) -> bool:
    """Whether integers are faster than float32: in depthwise convolutions they are not."""
    if not operator.is_convolution:
        return True
    x, weight = tensors["input"], tensors["weight"]
    return weight.shape[1] > 1 or x.shape[1 - weight.ndim] == 1


def compute(layer: LayerState, call: int, product: Product, tensors: dict[str, Tensor]) -> Tensor:
    """Compute a function on integers, and tell of its roundings if somebody listens."""
    y = product(roundings_of(layer, call, next(iter(tensors.values())).dtype))
    return y if layer.tell is None else _told(layer, call, y, tensors)


def exact_product(
    layer: LayerState, call: int, operator: Operator, args: Args, kwargs: Kwargs
) -> Tensor | None:
    """Return a function in the carrier, computed on integers where they give its very bits.

    None where that is not known: convolutions without bias are taken, see ``exact_conv``.
    """
    given = operator.given(args, kwargs)
    x, weight = given["input"], given["weight"]
    if given.get("bias") is not None or not may_prove(layer, x) or not pays(operator, given):
        return None
    options = options_of(operator, given)
    if options is None:
        return None
    how = roundings_of(layer, call, x.dtype)
    if not is_proven(x, weight, options, how):
        return None
    again = layer.model.saves_codes
    return exact_conv(
        x, weight, options, how, (again and layer.model.is_given(x), again and weight.is_leaf)
    )


def multiply_pair(layer: LayerState, call: int, a: Tensor, b: Tensor) -> Tensor:
    """Return Qa(a) Qa(b), with Qe behind it; ``are_pair`` of the tensors."""
    how = _pair_roundings(layer, call, a.dtype)
    y = real_matmul(a, b, how)
    if layer.tell is None:
        return y
    return _tell(layer, (("activation", how.activation, a), ("activation", how.weight, b)), how, y)


def can_attend(layer: LayerState, query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether ``attend`` takes these: queries with their keys and values, heads alike."""
    alike = query.ndim == key.ndim and query.shape[:-2] == key.shape[:-2] == value.shape[:-2]
    real = alike and query.dtype == torch.float32 and way_of(layer, query) is Compute.REAL
    return real and layer.tell is None


def attend(
    layer: LayerState,
    calls: tuple[int, int],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    causal: bool,
) -> Tensor:
    """Return both products of an attention and the softmax between them; ``can_attend``."""
    scores, mixing = (_pair_roundings(layer, call, query.dtype) for call in calls)
    return real_attention(query, key, value, scale, causal, scores, mixing)


def _pair_roundings(layer: LayerState, call: int, dtype: Any) -> Roundings:
    """Return how two activations are rounded, and the error of their product."""
    first = _role(layer, call, dtype, "activation", "activation")
    second = _role(layer, call, dtype, "activation", "activation 2")
    assert first is not None
    assert second is not None
    return Roundings(first, second, _role(layer, call, dtype, "error", "error"))


def are_pair(a: Tensor, b: Tensor) -> bool:
    """Whether two activations are matrices, or batches of them, that go together one by one."""
    return a.ndim == b.ndim >= 2 and a.shape[:-2] == b.shape[:-2]


def codes_of(layer: LayerState, call: int, weight: Tensor) -> Operand:
    """Return the codes of a weight that several products share."""
    return round_operand(weight.detach(), *roundings_of(layer, call, weight.dtype).weight)


def multiply_shared(
    layer: LayerState, call: int, x: Tensor, weight: Tensor, bias: Tensor | None, codes: Operand
) -> Tensor:
    """Return Qa(x) w^T + b, with Qe behind it.

    Weight and bias are rounded already, and their gradients are left to who shares them.
    """
    how = roundings_of(layer, call, x.dtype)
    how = replace(how, gradient=None, bias=None, bias_gradient=None)
    y = real_linear(x, weight, bias, how, codes)
    return y if layer.tell is None else _told(layer, call, y, {"input": x})


def roundings_of(layer: LayerState, call: int, dtype: Any) -> Roundings:
    """Return how the operands of a layer are rounded."""

    def role(name: str, stream: str | None = None) -> Role | None:
        return _role(layer, call, dtype, name, stream or name)

    activation, weight = role("activation"), role("weight")
    assert activation is not None
    assert weight is not None
    bias = role("bias")
    behind = None if bias is None else role("gradient", "bias gradient")
    return Roundings(activation, weight, role("error"), role("gradient"), bias, behind)


def _role(layer: LayerState, call: int, dtype: Any, name: str, stream: str) -> Role | None:
    precision = layer.precision(name, dtype)
    if precision is None:
        return None
    return precision, layer.key(precision, stream, call)  # type: ignore[return-value]


def _told(layer: LayerState, call: int, y: Tensor, tensors: dict[str, Tensor]) -> Tensor:
    """Tell of the roundings that happened inside."""
    how = roundings_of(layer, call, y.dtype)
    operands = []
    for name, tensor in tensors.items():
        role = "activation" if name in ("input", "mat1") else "weight"
        if name == "bias":
            role = "bias"
        operands.append((role, getattr(how, role), tensor))
    return _tell(layer, operands, how, y)


def _tell(
    layer: LayerState,
    operands: Iterable[tuple[str, Role | None, Tensor]],
    how: Roundings,
    y: Tensor,
) -> Tensor:
    """Tell of the operands' roundings, and of the error's when it comes.

    Gradients are told of as they come out, rounded.
    """
    tell = layer.tell
    assert tell is not None
    for role, rounding, tensor in operands:
        after = tensor if rounding is None else round_to(tensor.detach(), *rounding)
        tell(role, tensor.detach(), after, layer.plan[role])

    def told(before: Tensor, after: Tensor) -> None:
        rounded = before if how.error is None else round_to(before, *how.error)
        tell("error", before, rounded, layer.plan.error)

    return round_through(y, told=told) if y.requires_grad else y
