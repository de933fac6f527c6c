"""Multiply-adds of a model, layer by layer, counted without computing anything."""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..errors import CostError

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)
LAYERS = (nn.Linear, *CONVOLUTIONS)
"""Layers whose multiply-adds are counted, with the classes derived from them."""
_BATCH = 2
"""Batch normalisation refuses to train on a single sample."""


@dataclass(frozen=True)
class LayerMacs:
    """Multiply-adds of one layer in the forward pass of one sample.

    Args:
        name: the layer's dotted name in the model.
        macs: multiplications, each with its addition; a bias adds none. Each of the two products
            of the backward pass, for the input and for the weight, has as many again.
    """

    name: str
    macs: int


def layer_macs(
    model: nn.Module, input_shape: Sequence[int], *, dtype: torch.dtype | None = None
) -> tuple[LayerMacs, ...]:
    """Count the multiply-adds of every Linear, Conv1d and Conv2d of a model.

    A copy of the model runs once on the meta device, where tensors have a shape and no values: no
    memory is taken, nothing is computed, and the model itself is not run at all. A model on the
    meta device is counted just so.

    Args:
        model: any module that takes one tensor, batch first, in the mode in which it stands.
        input_shape: shape of one sample, without the batch dimension: ``(1, 28, 28)``.
        dtype: of the input; None takes that of the model's first floating-point parameter.
            Models of tokens want ``torch.long``.

    Returns:
        The layers in module order. A layer that runs several times has the sum; one that does not
        run, and one whose weight is used by another module directly, has 0.

    Raises:
        CostError: if the shape is wrong for the model, or its forward needs values (its way
            depends on the data), or it cannot be copied.
    """
    shape = _shape(input_shape)
    counts = {name: 0 for name, module in model.named_modules() if isinstance(module, LAYERS)}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        try:
            twin = _meta_copy(model)
        except Exception as error:  # whatever a user's __deepcopy__ raises
            raise CostError(
                "count_macs",
                f"cannot copy {type(model).__name__}: {_one_line(error)}",
                "count the plain model, before hooks and wrappers are put on",
            ) from error
        for name, module in twin.named_modules():
            if name in counts:
                module.register_forward_hook(_counter(counts, name))
        try:
            with torch.device("meta"):
                twin(torch.empty(_BATCH, *shape, dtype=dtype or _input_dtype(model)))
        except Exception as error:  # whatever a user's forward raises
            raise CostError(
                "count_macs",
                f"{type(model).__name__} cannot run on samples of shape {shape}"
                f" without values: {_one_line(error)}",
                "check input_shape (without the batch) and dtype; the way through the model must"
                " not depend on the data",
            ) from error
    return tuple(LayerMacs(name, total // _BATCH) for name, total in counts.items())


def count_macs(
    model: nn.Module, input_shape: Sequence[int], *, dtype: torch.dtype | None = None
) -> dict[str, int]:
    """Return layer name -> multiply-adds in the forward pass of one sample.

    Arguments and errors are those of ``layer_macs``.
    """
    return {layer.name: layer.macs for layer in layer_macs(model, input_shape, dtype=dtype)}


def _counter(counts: dict[str, int], name: str) -> Callable[[nn.Module, Any, Tensor], None]:
    """Return a hook that adds what one call of a layer takes."""

    def count(module: nn.Module, inputs: Any, output: Tensor) -> None:
        if isinstance(module, nn.Linear):
            per_output = module.in_features
        else:
            assert isinstance(module, CONVOLUTIONS)
            per_output = module.in_channels // module.groups * math.prod(module.kernel_size)
        counts[name] += output.numel() * per_output

    return count


def _meta_copy(model: nn.Module) -> nn.Module:
    """Copy a model, each of its tensors replaced by one without values instead of copied."""
    memo: dict[int, Any] = {}
    for parameter in model.parameters():  # their own copying does not pass by the mode below
        memo[id(parameter)] = nn.Parameter(_without_values(parameter), requires_grad=False)
    with _CopyWithoutValues():
        return copy.deepcopy(model, memo)


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


def _shape(input_shape: Sequence[int]) -> tuple[int, ...]:
    try:
        shape = tuple(operator.index(size) for size in input_shape)
    except TypeError:
        shape = ()
    if not shape or min(shape) < 1:
        raise CostError(
            "count_macs",
            f"input_shape is {input_shape!r}",
            "give the sizes of one sample without the batch, e.g. (1, 28, 28)",
        )
    return shape


def _input_dtype(model: nn.Module) -> torch.dtype:
    dtypes = (p.dtype for p in model.parameters() if p.is_floating_point())
    return next(dtypes, torch.get_default_dtype())


def _one_line(error: Exception) -> str:
    """Return the first line of a message, at most 200 characters of it."""
    text = str(error).strip() or type(error).__name__
    line = text.splitlines()[0]
    return line if len(line) <= 200 else f"{line[:197]}..."
