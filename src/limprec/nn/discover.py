"""Finding the functions that a model calls: one forward pass of a copy."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from ..errors import ConversionError, LimprecError
from ..plan import Call, LayerPlan, Plan, can_classify, find_kinds
from .intercept import place
from .leftovers import Leftovers
from .random_state import RandomState
from .state import ModelState
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
    """Run a copy of a model and return what it called; the model itself is not touched.

    The copy has no values; where its way depends on them (a mask that is looked into), one that
    has takes its place.

    Args:
        model: the model, in the mode in which it stands.
        plan: says which element-wise functions are of interest.
        example_inputs: a tensor, a sequence of arguments or a mapping of keyword arguments.

    Raises:
        ConversionError: if neither copy can run: the shapes do not fit, say.
        PlanError: if two rules contradict each other on a function.
    """
    args, kwargs = _arguments(example_inputs)
    try:
        bare = tree_map_only(Tensor, lambda t: t.detach().to("meta"), (args, kwargs))
        with torch.device("meta"):
            return _trace(meta_copy(model), plan, *bare)
    except LimprecError:
        raise
    except Exception as error:  # whatever a user's forward raises
        without = error
    found = tree_leaves((args, kwargs, list(model.parameters()), list(model.buffers())))
    tensors = [leaf for leaf in found if isinstance(leaf, Tensor)]
    if any(tensor.is_meta for tensor in tensors):
        raise _cannot_run(model, without, " without values") from without
    try:
        own = tree_map_only(Tensor, lambda t: t.detach().clone(), (args, kwargs))
        return _trace(copy.deepcopy(model), plan, *own)
    except LimprecError:
        raise
    except Exception as error:
        raise _cannot_run(model, error) from error


def _trace(twin: nn.Module, plan: Plan, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Trace:
    state = follow(twin, plan)
    devices = {p.device for p in twin.parameters() if p.is_cuda}
    with torch.random.fork_rng(devices=devices), Leftovers(state):
        twin(*args, **kwargs)
    return called(twin, state)


def follow(twin: nn.Module, plan: Plan) -> ModelState:
    """Get a copy of a model ready for one forward pass in which its layers are named, not rounded.

    While it runs, ``running`` of the result is the layer that multiplies; after it, ``called``
    tells what there was.
    """
    state = ModelState(plan, RandomState(0))
    state.rounds, state.order = False, []
    layers = {name: LayerPlan(name, kind.name) for name, _, kind in find_kinds(twin)}
    place(twin, state, layers)
    state.was_seen = True
    return state


def called(twin: nn.Module, state: ModelState) -> Trace:
    """Return what a copy called in the forward pass since ``follow``."""
    static = {name for name, *_ in find_kinds(twin)}
    assert state.order is not None
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
    if isinstance(example_inputs, Tensor):
        return (example_inputs,), {}
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    if isinstance(example_inputs, tuple | list):
        return tuple(example_inputs), {}
    raise ConversionError(
        "convert",
        f"example_inputs is a {type(example_inputs).__name__}",
        "give a tensor, a tuple of arguments or a dict of keyword arguments",
    )


def _cannot_run(model: nn.Module, error: Exception, how: str = "") -> ConversionError:
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return ConversionError(
        "convert",
        f"{type(model).__name__} cannot run on example_inputs{how}: {line[:200]}",
        "check their number, shapes and types",
    )
