"""Full-precision checkpoints: parameters with what lies beside them, in and out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..errors import OptimizerError
from ..kernels.steps import computing_dtype
from .shards import shard_of

if TYPE_CHECKING:
    from .base import WriteBackOptimizer


def save(optimizer: WriteBackOptimizer, model: nn.Module | None) -> dict[str, Tensor]:
    """See ``WriteBackOptimizer.full_precision_state_dict``."""
    result = {}
    if model is not None:
        result = {n: t.detach().clone() for n, t in model.state_dict().items()}
    return result | {name: optimizer.exact(p) for name, p in _named(optimizer, model)}


@torch.no_grad()
def load(
    optimizer: WriteBackOptimizer, state: Mapping[str, Tensor], model: nn.Module | None
) -> None:
    """See ``WriteBackOptimizer.load_full_precision_state_dict``."""
    named = dict(_named(optimizer, model))
    for name, p in named.items():
        if name not in state or state[name].shape != p.shape:
            found = f"of shape {tuple(state[name].shape)}" if name in state else "missing"
            raise OptimizerError(
                "load_full_precision_state_dict",
                f"{name} is {found}",
                f"give a checkpoint of this model, {name} of shape {tuple(p.shape)}",
            )
    if model is not None:
        others = {n: t for n, t in state.items() if n not in named}
        model.load_state_dict(others, strict=False)
    places = {p: (index, group) for index, p, group in optimizer._enumerate()}
    for name, p in named.items():
        index, group = places[p]
        shard = shard_of(p)
        value = shard.cut(state[name]).to(shard.local.device, computing_dtype(p))
        optimizer._store(p, value, group, index)


def _named(optimizer: WriteBackOptimizer, model: nn.Module | None) -> Iterable[tuple[str, Tensor]]:
    groups = optimizer.param_groups
    if model is not None:
        mine = {p for group in groups for p in group["params"]}
        return [(name, p) for name, p in model.named_parameters() if p in mine]
    if not all("param_names" in group for group in groups):
        raise OptimizerError(
            "full precision", "the parameters have no names", "pass the model they are of"
        )
    return [
        (name, p)
        for group in groups
        for name, p in zip(group["param_names"], group["params"], strict=True)
    ]
