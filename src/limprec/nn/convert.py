"""Putting a model under a plan, and taking it out again."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..errors import ConversionError
from ..kernels.carrier import check_carrier
from ..plan import LAYER_ROLES, OPTIMIZER_ROLES, LayerPlan, Plan, find_layers
from .layers import CONVERTED, ConvertedLayer, LayerState, RandomState
from .tags import ParameterPlan, tag, untag

Model = TypeVar("Model", bound=nn.Module)
_ATTRIBUTE = "_limprec_root"
STATE_KEY = "_limprec.random"
"""The one key that a converted model adds to its ``state_dict``: int64 (seed, step)."""


def convert(model: Model, plan: Plan, *, seed: int = 0) -> Model:
    """Put a model's layers under a plan, in place, and return it.

    The model keeps its source, its parameters (the very same tensors, so an optimizer that was
    made before still holds) and the keys of its ``state_dict``; one key, ``_limprec.random``, is
    added for the random state, and a checkpoint without it loads. No parameter is rounded: the
    optimizer does that, and keeps what the rounding took.

    Args:
        model: any module; its ``nn.Linear`` and ``nn.Conv2d`` layers are converted, the rest
            computes in the carrier, the dtype that the model has.
        plan: the precisions.
        seed: owns every stochastic rounding of the model; 0 to 2^63 - 1.

    Raises:
        ConversionError: if the model is converted already, or a layer's class has a forward of
            its own that conversion would replace.
        PlanError: if the plan does not fit the model (see ``Plan.resolve``).
        FormatError: if a format does not fit the dtype of its layer; the message names both.
    """
    if not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise ConversionError("convert", f"seed is {seed!r}", "give an integer from 0 to 2^63 - 1")
    for name, module in model.named_modules():
        if isinstance(module, ConvertedLayer) or hasattr(module, _ATTRIBUTE):
            raise ConversionError(
                "convert", f"{name or 'the model'} is converted already", "lp.restore(model) first"
            )
    layers, plans = find_layers(model), plan.resolve(model)
    for name, layer in layers.items():
        _check_layer(name, layer, plans[name])
    random = RandomState(seed)
    kept = {role: plan.optimizer.get(role) for role in OPTIMIZER_ROLES}
    for index, (name, layer) in enumerate(layers.items()):
        layer._limprec = LayerState(plans[name], index, random)  # type: ignore[assignment]  # no tensor
        layer.__class__ = CONVERTED[type(layer)]
        for role in ("weight", "bias"):
            tensor = getattr(layer, role)
            if tensor is not None:
                roles = plans[name]
                tag(tensor, ParameterPlan(roles[role], roles.gradient, **kept))
    setattr(
        model,
        _ATTRIBUTE,
        (
            random,
            (
                model.register_forward_pre_hook(_count_step),
                model.register_state_dict_post_hook(_save_random),  # type: ignore[no-untyped-call]
                model.register_load_state_dict_pre_hook(_load_random),  # type: ignore[no-untyped-call]
            ),
        ),
    )
    return model


def restore(model: Model) -> Model:
    """Undo ``convert`` in place and return the model, with the parameters it has now.

    Raises:
        ConversionError: if the model is not converted, or only a part of a converted one.
    """
    if not hasattr(model, _ATTRIBUTE):
        raise ConversionError(
            "restore", "the model is not converted", "call it on what lp.convert returned"
        )
    _, hooks = getattr(model, _ATTRIBUTE)
    for hook in hooks:
        hook.remove()
    delattr(model, _ATTRIBUTE)
    originals = {after: before for before, after in CONVERTED.items()}
    for layer in find_layers(model).values():
        layer.__class__ = originals[type(layer)]
        del layer._limprec
        for parameter in layer.parameters(recurse=False):
            untag(parameter)
    return model


def _check_layer(name: str, layer: nn.Module, plan: LayerPlan) -> None:
    if type(layer) not in CONVERTED:
        kinds = ", ".join(kind.__name__ for kind in CONVERTED)
        raise ConversionError(
            "convert",
            f"layer {name!r} is a {type(layer).__name__}, whose forward conversion would replace",
            f"build it from one of {kinds} themselves",
        )
    dtype = layer.weight.dtype
    assert isinstance(dtype, torch.dtype)
    for role in LAYER_ROLES:
        check_carrier(plan[role].format, dtype, f"convert: {role} of layer {name!r}")


def _count_step(module: nn.Module, args: Any) -> None:
    """Advance the random state, once a training forward of the whole model."""
    if module.training:
        getattr(module, _ATTRIBUTE)[0].step += 1


def _save_random(
    module: nn.Module, state: dict[str, Any], prefix: str, local_metadata: dict[str, Any]
) -> None:
    random: RandomState = getattr(module, _ATTRIBUTE)[0]
    state[prefix + STATE_KEY] = torch.tensor([random.seed, random.step], dtype=torch.int64)


def _load_random(
    module: nn.Module,
    state: dict[str, Any],
    prefix: str,
    local_metadata: dict[str, Any],
    strict: bool,
    missing: list[str],
    unexpected: list[str],
    errors: list[str],
) -> None:
    """Take our key where there is one, out of sight of the strict check."""
    saved: Tensor | None = state.pop(prefix + STATE_KEY, None)
    if saved is not None:
        random: RandomState = getattr(module, _ATTRIBUTE)[0]
        random.seed, random.step = (int(v) for v in saved.tolist())
