"""The trace of a model: one training step, found on the meta device.

A copy of the model runs once forward on tensors that have a shape and no values: no memory is
taken and nothing is computed. Every operator that PyTorch dispatches is seen, whoever called it,
and what autograd saves for the backward pass is counted as it is saved. The backward pass follows:
each product has one more for every operand that needs a gradient.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import CostError
from ..nn import called, follow, meta_copy
from ..plan import Plan
from .recorder import Recorder
from .work import Parameter, Trace

Loss = Callable[[Any], Tensor]
LOSS = "(loss)"
"""Layer name of what the loss computes."""


def cross_entropy(logits: Tensor) -> Tensor:
    """Return the mean cross entropy of logits whose last axis holds the classes: a ready loss.

    Args:
        logits: (..., classes); the labels are 0, which no cost depends on.
    """
    labels = torch.zeros(logits.shape[:-1], dtype=torch.long, device=logits.device)
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten())


def trace(
    model: nn.Module,
    input_shape: Sequence[int],
    batch: int = 1,
    *,
    dtype: torch.dtype | None = None,
    loss: Loss | None = None,
    fused_attention: bool = True,
    recompute: Sequence[str] = (),
    plan: Plan | None = None,
) -> Trace:
    """Find what one training step of a model computes and keeps.

    Args:
        model: any module that takes one tensor, batch first, in the mode in which it stands; it
            may be on the meta device, and converted or not. It is not run and not changed.
        input_shape: shape of one sample, without the batch dimension: ``(1, 28, 28)``.
        batch: samples of the step.
        dtype: of the input; None means ``torch.long`` if an embedding comes first, else the dtype
            of the model's first floating-point parameter.
        loss: called with the model's output; None leaves the loss out.
        fused_attention: whether ``scaled_dot_product_attention`` keeps its scores on the chip and
            computes them again going back, as fused kernels do; else they are kept in memory.
        recompute: patterns of module names whose insides are computed again in the backward pass
            (activation checkpointing); only their inputs are kept.
        plan: says which element-wise functions are layers too.

    Raises:
        CostError: if the shape is wrong for the model, or its forward needs values (its way
            depends on the data), or it cannot be copied, or a pattern matches no module.
    """
    shape, batch = _shape(input_shape), _batch(batch)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        try:
            twin = meta_copy(model)
        except Exception as error:  # whatever a user's __deepcopy__ raises
            raise CostError(
                "cost",
                f"cannot copy {type(model).__name__}: {_one_line(error)}",
                "give the plain model, before hooks and wrappers are put on",
            ) from error
        state = follow(twin, plan or Plan.uniform("fp32"))
        recorder = Recorder(twin, recompute, state)
        x = torch.empty(batch, *shape, dtype=dtype or _input_dtype(model), device="meta")
        recorder.depends_on_input(x)
        with torch.device("meta"), recorder.running(fused_attention):
            try:
                output = twin(x)
            except CostError:
                raise
            except Exception as error:  # whatever a user's forward raises
                raise CostError(
                    "cost",
                    f"{type(model).__name__} cannot run on {batch} samples of shape {shape}"
                    f" without values: {_one_line(error)}",
                    "check input_shape (without the batch), batch and dtype; the way through the"
                    " model must not depend on the data",
                ) from error
            if loss is not None:
                try:
                    with recorder.inside(LOSS):
                        loss(output)
                except Exception as error:  # likewise
                    raise CostError(
                        "cost",
                        f"the loss cannot take the model's output: {_one_line(error)}",
                        "give a loss for what the model returns, or None",
                    ) from error
    functions = called(twin, state)
    return Trace(
        tuple(recorder.products),
        tuple(recorder.elementwise),
        recorder.kept(recorder.saved),
        tuple(recorder.kept(block) for block in recorder.blocks.values()),
        _parameters(twin),
        sum(b.numel() * b.element_size() for b in twin.buffers()),
        _float_dtype(model),
        functions.calls,
        functions.last,
    )


def _parameters(model: nn.Module) -> tuple[Parameter, ...]:
    return tuple(
        Parameter(name, name.rpartition(".")[0], tuple(p.shape), p.requires_grad)
        for name, p in model.named_parameters()
    )


def _shape(input_shape: Sequence[int]) -> tuple[int, ...]:
    try:
        shape = tuple(operator.index(size) for size in input_shape)
    except TypeError:
        shape = ()
    if not shape or min(shape) < 1:
        raise CostError(
            "cost",
            f"input_shape is {input_shape!r}",
            "give the sizes of one sample without the batch, e.g. (1, 28, 28)",
        )
    return shape


def _batch(batch: int) -> int:
    if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
        raise CostError("cost", f"batch is {batch!r}", "give 1 or more samples")
    return batch


def _input_dtype(model: nn.Module) -> torch.dtype:
    leaves = (m for m in model.modules() if next(m.parameters(recurse=False), None) is not None)
    return torch.long if isinstance(next(leaves, None), nn.Embedding) else _float_dtype(model)


def _float_dtype(model: nn.Module) -> torch.dtype:
    dtypes = (p.dtype for p in model.parameters() if p.is_floating_point())
    return next(dtypes, torch.get_default_dtype())


def _one_line(error: Exception) -> str:
    """Return the first line of a message, at most 200 characters of it."""
    text = str(error).strip() or type(error).__name__
    line = text.splitlines()[0]
    return line if len(line) <= 200 else f"{line[:197]}..."
