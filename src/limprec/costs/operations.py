"""What one operator of PyTorch computes: multiply-adds of products, element-wise arithmetic."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor
from torch.utils.flop_counter import flop_registry

from ..errors import CostError

_MATRIX = {"mm": (0, 1), "bmm": (0, 1), "addmm": (1, 2), "baddbmm": (1, 2), "_scaled_mm": (0, 1)}
_VECTOR = {"mv": (0, 1), "addmv": (1, 2), "dot": (0, 1), "vdot": (0, 1)}
_CONVOLUTION = ("convolution", "_convolution", "convolution_overrideable")

_EXPONENTIAL = 8
"""Multiplications, and as many additions, of one exponential, error function or the like: a
polynomial of that degree. An assumption; hardware has tables too."""

ELEMENTWISE: dict[str, tuple[int, int]] = {
    # Moved, not computed.
    **dict.fromkeys(("clone", "copy", "_to_copy", "cat", "stack", "embedding", "index"), (0, 0)),
    **dict.fromkeys(("constant_pad_nd", "index_select", "gather", "fill", "zeros_like"), (0, 0)),
    **dict.fromkeys(
        ("new_empty", "empty_like", "ones_like", "bernoulli", "repeat", "roll", "flip"), (0, 0)
    ),
    **dict.fromkeys(("reflection_pad2d", "upsample_nearest2d", "nll_loss_forward"), (0, 0)),
    # Additions and comparisons.
    **dict.fromkeys(("add", "sub", "rsub", "neg", "abs", "relu", "threshold", "hardtanh"), (1, 0)),
    **dict.fromkeys(("clamp", "clamp_min", "maximum", "minimum", "where", "masked_fill"), (1, 0)),
    **dict.fromkeys(("sum", "mean", "amax", "max", "cumsum", "tril", "triu"), (1, 0)),
    **dict.fromkeys(("avg_pool2d", "_adaptive_avg_pool2d"), (1, 0)),
    **dict.fromkeys(("mul", "div", "square", "sqrt", "rsqrt", "reciprocal", "pow"), (0, 1)),
    # Mean, deviation, its square and their sum; then scaled, multiplied by weight, added to bias.
    **dict.fromkeys(("native_layer_norm", "native_batch_norm", "native_group_norm"), (4, 3)),
    **dict.fromkeys(("cudnn_batch_norm", "_native_batch_norm_legit", "batch_norm"), (4, 3)),
    **dict.fromkeys(("_batch_norm_with_update", "_batch_norm_no_update"), (4, 3)),
    "_fused_rms_norm": (1, 3),
    # Maximum, difference, exponential, sum; then divided (log_softmax: subtracted).
    **dict.fromkeys(("_softmax", "_safe_softmax"), (3 + _EXPONENTIAL, 1 + _EXPONENTIAL)),
    "_log_softmax": (4 + _EXPONENTIAL, _EXPONENTIAL),
    **dict.fromkeys(("exp", "log", "erf", "tanh", "sin", "cos"), (_EXPONENTIAL, _EXPONENTIAL)),
    **dict.fromkeys(("sigmoid", "softplus", "elu"), (1 + _EXPONENTIAL, 1 + _EXPONENTIAL)),
    **dict.fromkeys(("gelu", "silu", "mish"), (1 + _EXPONENTIAL, 3 + _EXPONENTIAL)),
}
"""Operator -> additions and multiplications per element of its largest floating-point tensor, going
forward. Roots, divisions and comparisons count as one multiplication or addition."""

OTHERS = (1, 1)
"""Of an operator that is not in the table."""


def product_of(func: Any, args: tuple[Any, ...], output: Any) -> tuple[int, Tensor, Tensor] | None:
    """Return multiply-adds, left and right operand of a product, or None for another operator.

    Args:
        func: an overload of an operator of ``torch.ops.aten``.
        args: what it was called with.
        output: what it returned.

    Raises:
        CostError: for a product that PyTorch's FLOP counter knows and this module does not.
    """
    name = base_name(func)
    if name in _MATRIX or name in _VECTOR:
        left, right = (args[i] for i in {**_MATRIX, **_VECTOR}[name])
        inner = left.shape[-1]
        return output.numel() * inner, left, right
    if name in _CONVOLUTION:
        x, weight, transposed = args[0], args[1], bool(args[6])
        # A transposed convolution spreads each input over a kernel, any other gathers one.
        per_place = math.prod(weight.shape[1:])
        return (x if transposed else output).numel() * per_place, x, weight
    if func.overloadpacket in flop_registry:
        raise CostError(
            "cost", f"no rule for the product {name}", "build the model from matmul and convolution"
        )
    return None


def base_name(func: Any) -> str:
    """Return the name of an operator without overload and without the mark of in-place ones."""
    name: str = func.overloadpacket.__name__
    return name if name.startswith("__") else name.rstrip("_")
