"""Reading a checkpoint: checked as a whole before anything is changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ..errors import OptimizerError
from ..formats import Precision
from ..kernels.steps import Storage, WriteBack, carry_name
from ..kernels.steps.memory import write
from .kept import BLOCK, SCALE, Kept

if TYPE_CHECKING:
    from .base import WriteBackOptimizer

_OURS = "writeback"
"""An option that only the groups of this package have."""


class Checkpoint(NamedTuple):
    """What a checkpoint makes of an optimizer."""

    groups: list[dict[str, Any]]
    """The options of each group, without parameters."""
    kept: dict[Tensor, Kept]
    states: dict[Tensor, dict[str, Any]]


def read_checkpoint(optimizer: WriteBackOptimizer, state_dict: dict[str, Any]) -> Checkpoint:
    """Return what a checkpoint makes of an optimizer; neither is changed.

    Raises:
        OptimizerError: see ``WriteBackOptimizer.load_state_dict``.
    """
    name = type(optimizer).__name__
    saved_groups = state_dict["param_groups"]
    mine = [len(group["params"]) for group in optimizer.param_groups]
    theirs = [len(group["params"]) for group in saved_groups]
    if mine != theirs:
        raise OptimizerError(
            f"{name}.load_state_dict",
            f"groups of {theirs} parameters in the checkpoint, of {mine} here",
            "make the optimizer from the same groups of parameters",
        )
    result = Checkpoint([], {}, {})
    for group, saved in zip(optimizer.param_groups, saved_groups, strict=True):
        foreign = _OURS not in saved
        options = {k: v for k, v in saved.items() if k != "params"}
        merged = {**group, **options, "params": group["params"]}
        optimizer._check_group(merged)
        result.groups.append({k: v for k, v in merged.items() if k != "params"})
        for number, p in zip(saved["params"], group["params"], strict=True):
            kept = optimizer._keep(p, merged)
            result.kept[p] = kept
            state = state_dict["state"].get(number, {})
            carry = carry_name(WriteBack(merged[_OURS]))
            shape = _shapes(optimizer, p)
            read = _read_state(name, state, kept, carry, shape, p.device)
            if foreign or not state:
                read = dict(optimizer.state.get(p, {})) | read
                result.groups[-1]["steps"] = max(merged["steps"], read.get("step", 0))
            result.states[p] = read
    return result


def _shapes(optimizer: WriteBackOptimizer, p: Tensor) -> Callable[[str], torch.Size]:
    return lambda name: optimizer._state_shape(p, name)


def _read_state(
    optimizer: str,
    saved: dict[str, Any],
    kept: Kept,
    carry: str | None,
    shape: Callable[[str], torch.Size],
    device: torch.device,
) -> dict[str, Any]:
    """Return one parameter's state, its tensors new ones in their storages."""
    result: dict[str, Any] = {}
    storages = dict(kept.states)
    if carry is not None and kept.carry is not None:
        storages[carry] = kept.carry
    scales = {name + SCALE for name, storage in storages.items() if storage.in_blocks}
    for name, value in saved.items():
        if value is None or name in scales:
            continue
        if name == "step":
            result[name] = int(value)
        elif name not in storages:
            raise OptimizerError(
                f"{optimizer}.load_state_dict",
                f"a state {name!r} in the checkpoint",
                f"load a checkpoint of {optimizer}, which keeps {', '.join(storages) or 'none'}",
            )
        else:
            _check_shape(optimizer, name, value, carry, shape)
            # A carry stays where the checkpoint has it (main memory, if it is offloaded).
            place = value.device if name == carry and value.device.type == "cpu" else device
            result |= _load(name, value, saved.get(name + SCALE), storages[name], place)
    if saved and "step" not in result and storages.keys() & result.keys():
        result["step"] = 1  # torch.optim.SGD does not count; what matters is not to be the first
    return result


def _check_shape(
    optimizer: str, name: str, value: Tensor, carry: str | None, shape: Callable[[str], torch.Size]
) -> None:
    expected = shape(name)
    if value.shape != expected:
        raise OptimizerError(
            f"{optimizer}.load_state_dict",
            f"{name} of shape {tuple(value.shape)} for one of {tuple(expected)}",
            "load a checkpoint of the same model",
        )


def _load(
    name: str, value: Tensor, scale: Tensor | None, storage: Storage, device: torch.device
) -> dict[str, Tensor]:
    """Return a saved state in its storage: the same bits, or rounded to nearest from another."""
    if value.dtype == storage.dtype and (scale is not None) == storage.in_blocks:
        copied = {name: value.detach().to(device, copy=True)}
        return copied if scale is None else {**copied, name + SCALE: scale.to(device, copy=True)}
    kept = torch.zeros_like(value, dtype=storage.dtype, device=device)
    scales = None
    if storage.in_blocks:
        kept = kept.contiguous()
        scales = torch.zeros(-(-value.numel() // BLOCK), dtype=torch.uint8, device=device)
    nearest = replace(storage, precision=Precision(storage.format))
    write(kept, scales, value.detach().to(device, torch.float32), nearest, None)
    return {name: kept} if scales is None else {name: kept, name + SCALE: scales}
