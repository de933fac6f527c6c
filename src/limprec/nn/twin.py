"""A copy of a model without values."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .intercept import unplace


def meta_copy(model: nn.Module) -> nn.Module:
    """Copy a model, unconverted, each of its tensors replaced by one without values."""
    memo: dict[int, Any] = {}
    for parameter in model.parameters():  # their own copying does not pass by the mode below
        twin = nn.Parameter(_without_values(parameter), requires_grad=parameter.requires_grad)
        memo[id(parameter)] = twin
    with _CopyWithoutValues():
        copied = copy.deepcopy(model, memo)
    unplace(copied)
    return copied


class _CopyWithoutValues(TorchFunctionMode):
    """Within it ``copy.deepcopy`` of a tensor, however deep inside, gives one on meta."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Answer for ``__deepcopy__``, pass everything else on."""
        if func is not Tensor.__deepcopy__:
            return func(*args, **(kwargs or {}))
        tensor, memo = args
        return memo.setdefault(id(tensor), _without_values(tensor))


def _without_values(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device="meta")
