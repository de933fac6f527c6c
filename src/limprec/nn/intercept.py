"""Seeing every function that a converted model calls.

Each module of a converted model runs through ``Forward``. The first that runs turns on a
``TorchFunctionMode``, through which every function on tensors passes until that module returns;
the others keep the list of running modules, by which functions are named. A module that is called
by itself (a recomputed block under activation checkpointing, a part of the model) turns it on too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.overrides import TorchFunctionMode

from ..errors import ConversionError, PlanError
from ..plan import Group, LayerPlan
from .handlers import HANDLERS
from .leftovers import Leftovers
from .place import PLACE, Place
from .report import warn_left
from .state import Frame, LayerState, ModelState, function_index


class Interceptor(TorchFunctionMode):
    """Within it, functions that conversion knows round their operands."""

    def __init__(self, model: ModelState) -> None:
        super().__init__()
        self.model = model

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Hand a function to its handler, or pass it on."""
        handler = HANDLERS.get(func)
        if handler is None:
            if func is Tensor.unflatten and torch.compiler.is_compiling():
                func = torch.unflatten  # the method calls its super, which no compiler follows here
            return func(*args, **(kwargs or {}))
        if torch._C._is_any_autocast_enabled() and self.model.rounds:
            _refuse_autocast()
        self.model.inside += 1
        try:
            return handler(self, func, args, kwargs or {})
        finally:
            self.model.inside -= 1


def _refuse_autocast() -> None:
    if torch.compiler.is_compiling():
        from .uncompiled import refuse_autocast

        refuse_autocast()
    raise ConversionError(
        "forward",
        "torch.autocast is on, and would cast what the plan has rounded",
        'leave autocast out: the plan says what runs in what, and compute="fast" multiplies in'
        " bfloat16",
    )


class Forward:
    """A module's forward within a converted model; the module's own is ``__wrapped__``."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.own = module.__dict__.get("forward")
        """Another one that the module carried already."""

    @property
    def __wrapped__(self) -> Any:
        return self.own or MethodType(type(self.module).forward, self.module)

    @property
    def __code__(self) -> Any:
        return getattr(self.__wrapped__, "__code__", None)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module, seen."""
        place: Place = getattr(self.module, PLACE)
        frames = place.model.frames
        if not frames and place.model.is_idle(self.module):
            return self.__wrapped__(*args, **kwargs)
        frame = Frame(place.name, self.module, place.layer)
        if frames:
            return self._run(frames, frame, args, kwargs)
        if place.is_root:
            frame.given = (*args, *kwargs.values())
        _begin(place.model, place.is_root, self.module.training)
        with Interceptor(place.model):
            if place.model.was_seen or not place.is_root or torch.compiler.is_compiling():
                return self._run(frames, frame, args, kwargs)
            with Leftovers(place.model):
                output = self._run(frames, frame, args, kwargs)
        _check_seen(place.model)
        return output

    def _run(self, frames: list[Frame], frame: Frame, args: Any, kwargs: Any) -> Any:
        frames.append(frame)
        try:
            if self.own is not None:
                return self.own(*args, **kwargs)
            return type(self.module).forward(self.module, *args, **kwargs)
        finally:
            frames.pop()


class Repr:
    """A module's ``extra_repr`` within a converted model: its own facts, then every precision."""

    def __init__(self, module: nn.Module, layer: LayerState) -> None:
        self.module, self.layer = module, layer

    def __call__(self) -> str:
        """Return one line."""
        plan = self.layer.plan
        roles = (f"{role}={plan.shown(role)}" for role in plan.kind.roles)
        own = type(self.module).extra_repr(self.module)
        return ", ".join(filter(None, (own, *(r for r in roles if not r.endswith("=-")))))


def place(model: nn.Module, state: ModelState, plans: Mapping[str, LayerPlan]) -> None:
    """Put every module of a model in its place; ``plans`` also has functions that are known."""
    modules = dict(model.named_modules())
    ordered = sorted(plans.values(), key=lambda p: p.kind.group is not Group.PRODUCT)
    for index, plan in enumerate(p for p in ordered if p.name in modules):
        state.add(plan, index)
    for plan in plans.values():
        if plan.name not in modules:
            state.add(plan, function_index(plan.name))
    for name, module in modules.items():
        if isinstance(module, torch.jit.ScriptModule):
            state.left[name] = "a TorchScript module: convert it before it is scripted"
            continue
        layer = state.layers.get(name)
        setattr(module, PLACE, Place(name, state, layer, module is model))
        module.forward = Forward(module)
        if layer is not None:
            module.extra_repr = Repr(module, layer)
            if layer.plan.is_planned:
                for parameter in own_parameters(module):
                    state.tag(layer, parameter)


def own_parameters(module: nn.Module) -> Iterator[nn.Parameter]:
    """Yield a layer's parameters, those that it is parametrized by among them."""
    yield from module.parameters(recurse=False)
    if is_parametrized(module):
        yield from module.parametrizations.parameters()  # type: ignore[union-attr]


def unplace(model: nn.Module) -> None:
    """Undo ``place``."""
    for module in model.modules():
        if hasattr(module, PLACE):
            delattr(module, PLACE)
            forward = module.__dict__.pop("forward")
            module.__dict__.pop("extra_repr", None)
            if forward.own is not None:
                module.forward = forward.own


def _check_seen(model: ModelState) -> None:
    """After the first pass: rules on functions that were never called, and what was left."""
    model.was_seen = True
    kinds = {name: layer.plan.kind for name, layer in model.layers.items()}
    for rule in model.plan.unmatched(kinds):
        raise PlanError(
            "plan",
            f"{rule} matches no layer",
            "the functions are " + (", ".join(n for n in kinds if "#" in n) or "none"),
        )
    if model.left:
        warn_left(model.left)


def _begin(model: ModelState, is_root: bool, is_training: bool) -> None:
    """Get ready for a pass: of the whole model, or of a part of it that is called by itself."""
    if is_root and is_training and model.rounds:
        model.random.advance()
    if not torch.compiler.is_compiling() and not is_root and _in_backward():
        _check_recomputed(model)
    if model.scales is not None:
        model.scales.learns = is_training and model.rounds and (is_root or _in_backward())
    model.calls, model.repeated = {}, set()  # new ones: a compiler would guard what is in the old


def _in_backward() -> bool:
    return torch._C._current_graph_task_id() != -1


def _check_recomputed(model: ModelState) -> None:
    """Refuse to recompute what would round otherwise than before."""
    again = [
        name
        for name in sorted(model.repeated)
        if model.scales is not None or model.layers[name].is_random_forward
    ]
    if again:
        names = ", ".join(repr(name) for name in again)
        raise ConversionError(
            "convert",
            f"a recomputed forward cannot tell which call of {names} it repeats",
            "checkpoint a part that calls its layers once, or round weights and activations to"
            " nearest, without delayed scales",
        )
