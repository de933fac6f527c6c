"""Products of 16-bit tensors computed in float32, for processors that are slow at 16 bits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

_PRODUCTS = {F.linear, F.conv2d, F.scaled_dot_product_attention, torch.matmul, torch.bmm, torch.mm}
_NARROW = (torch.bfloat16, torch.float16)


class WideProducts(TorchFunctionMode):
    """Inside the context, linear layers, convolutions and attention widen their operands.

    Operands of bfloat16 or float16 become float32 and the result is rounded to the dtype of the
    first, going forward and back. Products of two such values are exact in float32, so a linear
    layer or a convolution computes what hardware with 16-bit operands and a float32 accumulator
    computes, up to the order of the sums; attention keeps its weights in float32 inside, which
    hardware may round. Parameters, activations, gradients and everything else keep their 16 bits.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Widen the operands of a product, and leave every other function alone."""
        kwargs = kwargs or {}
        if func not in _PRODUCTS or args[0].dtype not in _NARROW:
            return func(*args, **kwargs)
        wide = (_widen(a) for a in args)
        return func(*wide, **{k: _widen(a) for k, a in kwargs.items()}).to(args[0].dtype)


def _widen(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype in _NARROW else value
