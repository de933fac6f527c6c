"""Finding the functions that a model calls: one forward pass without values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from ..errors import ConversionError, LimprecError
from ..plan import Call, LayerPlan, Plan, can_classify, find_kinds
from .intercept import place
from .leftovers import Leftovers
from .state import ModelState, RandomState
from .twin import meta_copy


@dataclass(frozen=True)
class Trace:
    """What a forward pass called.

    Args:
        calls: functions, in the order in which they first ran.
        last: the layer with a weight that multiplied last, None if there was none.
        weights: function -> names of the model's parameters that it multiplied.
        left: what cannot be converted -> why.
    """

    calls: tuple[Call, ...] = ()
    last: str | None = None
    weights: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    left: Mapping[str, str] = field(default_factory=dict)


def discover(model: nn.Module, plan: Plan, example_inputs: Any) -> Trace:
    """Run a copy of a model without values and return what it called; the model is not touched.

    Args:
        model: the model, in the mode in which it stands.
        plan: says which element-wise functions are of interest.
        example_inputs: a tensor, a sequence of arguments or a mapping of keyword arguments.

    Raises:
        ConversionError: if the copy cannot run: the shapes do not fit, or its way depends on
            values.
        PlanError: if two rules contradict each other on a function.
    """
    args, kwargs = _arguments(example_inputs)
    twin = meta_copy(model)
    state = ModelState(plan, RandomState(0))
    state.rounds, state.order = False, []
    static = {name: kind for name, _, kind in find_kinds(twin)}
    place(twin, state, {name: LayerPlan(name, kind.name) for name, kind in static.items()})
    state.was_seen = True
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"), Leftovers(state):
            twin(*args, **kwargs)
    except LimprecError:
        raise
    except Exception as error:  # whatever a user's forward raises
        line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ConversionError(
            "convert",
            f"{type(model).__name__} cannot run on example_inputs without values: {line[:200]}",
            "check their shapes; leave them out if the model's way depends on values",
        ) from error
    calls = tuple(
        Call(name, layer.plan.kind, state.outputs.get(name, 0))
        for name, layer in state.layers.items()
        if name not in static
    )
    names = {id(p): name for name, p in twin.named_parameters()}
    weights = {
        name: tuple(names[id(p)] for p in found if id(p) in names)
        for name, found in state.weights.items()
    }
    last = None
    for name in state.order:
        if can_classify(state.layers[name].plan.kind) and (name in static or name in weights):
            last = name
    return Trace(calls, last, weights, dict(state.left))


def _arguments(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    bare = tree_map_only(Tensor, lambda t: t.detach().to("meta"), example_inputs)
    if isinstance(bare, Tensor):
        return (bare,), {}
    if isinstance(bare, Mapping):
        return (), {k: _bare(v) for k, v in bare.items()}
    if isinstance(bare, tuple | list):
        return tuple(bare), {}
    raise ConversionError(
        "convert",
        f"example_inputs is a {type(example_inputs).__name__}",
        "give a tensor, a tuple of arguments or a dict of keyword arguments",
    )


def _bare(value: Any) -> Any:
    return value.detach().to("meta") if isinstance(value, Tensor) else value
