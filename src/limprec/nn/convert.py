"""Putting a model under a plan, and taking it out again."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import Tensor, nn

from ..errors import ConversionError
from ..plan import DELAYED, Plan, classifier_of, find_kinds
from .discover import Trace, discover
from .fitting import check_dtype, check_way
from .intercept import place, unplace
from .place import PLACE, Place
from .random_state import RandomState
from .report import warn_left
from .scales import PREFIX
from .state import Compute, ModelState, Saved

Model = TypeVar("Model", bound=nn.Module)
Choice = TypeVar("Choice", Compute, Saved)
STATE_KEY = "_limprec.random"
"""The key that a converted model adds to its ``state_dict``: int64 (seed, step)."""


def convert(
    model: Model,
    plan: Plan,
    *,
    example_inputs: Any = None,
    compute: str | Compute = Compute.EXACT,
    saved: str | Saved = Saved.CARRIER,
    seed: int = 0,
) -> Model:
    """Put a model under a plan, in place, and return it.

    Whatever its modules call is converted: linear layers, convolutions, embeddings, recurrent
    layers, attention, matrix products, and normalisations, softmax, cross entropy and sums where
    the plan speaks of them. The model keeps its source, its classes, its parameters (the very same
    tensors, so an optimizer that was made before still holds) and the keys of its ``state_dict``;
    one key, ``_limprec.random``, is added for the random state (and one ``_limprec.scales.*`` for
    the history of each delayed scale), and a checkpoint without them loads.
    No parameter is rounded: the optimizer does that, and keeps what the rounding took.

    Where a layer rounds: y = op(Qa(x), Qw(w)) + Qb(b); going back, e = Qe(dL/dy) feeds
    dL/dx = op'(e, Qw(w)), Qg(op'(e, Qa(x))) and the bias' sum.

    Args:
        model: any module.
        plan: the precisions.
        example_inputs: what the model is called with: a tensor, a tuple of arguments or a dict of
            keyword arguments. A copy of the model without values runs on them once, which finds
            the functions that it calls (``path/linear#0``): rules on them are checked, their
            parameters known to the optimizer, and the layer that multiplies last is the
            classifier. Without, functions are found as they are called.
        compute: ``exact``, ``fast`` (bfloat16 products) or ``real`` (int8 products); see
            ``docs/conversion.md``.
        saved: how rounded operands wait for the backward pass: ``carrier``, or ``narrow``, in real
            bits where their format has a dtype that keeps them (a fourth of the memory in 8 bits).
            ``real`` always saves codes.
        seed: owns every stochastic rounding of the model; 0 to 2^63 - 1.

    Warns ``ConversionWarning`` of what cannot be converted, with ``example_inputs`` now, otherwise
    after the first forward pass; ``conversion_report`` names it too.

    Raises:
        ConversionError: if the model is converted already, it cannot run on ``example_inputs``, or
            a layer has a format that ``compute`` cannot multiply.
        PlanError: if the plan does not fit the model (see ``Plan.resolve``).
        FormatError: if a format does not fit the dtype of its layer; the message names both.
    """
    if not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise ConversionError("convert", f"seed is {seed!r}", "give an integer from 0 to 2^63 - 1")
    way, saving = _choice("compute", Compute, compute), _choice("saved", Saved, saved)
    if way is Compute.REAL and plan.scaling.tensors == DELAYED:
        raise ConversionError(
            "convert",
            "delayed scales with compute='real'",
            "use tensors = 'current' in [scaling], or compute='exact'",
        )
    for name, module in model.named_modules():
        if hasattr(module, PLACE):
            raise ConversionError(
                "convert", f"{name or 'the model'} is converted already", "lp.restore(model) first"
            )
    trace = Trace() if example_inputs is None else discover(model, plan, example_inputs)
    plans = plan.resolve(model, trace.calls, trace.last)
    modules = {name: module for name, module, _ in find_kinds(model)}
    last = trace.last or classifier_of(model)
    for name, layer in plans.items():
        if name in modules:
            check_dtype(modules[name], layer)
        check_way(way, layer, is_last=name == last)
    state = ModelState(plan, RandomState(seed), way, saving)
    state.left.update(trace.left)
    place(model, state, plans)
    parameters = dict(model.named_parameters())
    for name, weights in trace.weights.items():
        for weight in weights:
            state.tag(state.layers[name], parameters[weight])
    root: Place = getattr(model, PLACE)
    root.handles = (
        model.register_state_dict_post_hook(_save_random),  # type: ignore[no-untyped-call]
        model.register_load_state_dict_pre_hook(_load_random),  # type: ignore[no-untyped-call]
    )
    if state.left:
        warn_left(state.left)
    return model


def restore(model: Model) -> Model:
    """Undo ``convert`` in place and return the model, with the parameters it has now.

    Raises:
        ConversionError: if the model is not converted, or only a part of a converted one.
    """
    root: Place | None = getattr(model, PLACE, None)
    if root is None or not root.is_root:
        raise ConversionError(
            "restore", "the model is not converted", "call it on what lp.convert returned"
        )
    for handle in root.handles:
        handle.remove()
    root.model.tags.remove()
    unplace(model)
    return model


def _choice(option: str, kind: type[Choice], name: str) -> Choice:
    try:
        return kind(name)
    except ValueError:
        raise ConversionError(
            "convert", f"unknown {option} {name!r}", "use one of " + ", ".join(kind)
        ) from None


def _save_random(
    module: nn.Module, state: dict[str, Any], prefix: str, local_metadata: dict[str, Any]
) -> None:
    place: Place = getattr(module, PLACE)
    state[prefix + STATE_KEY] = place.model.random.tensor.clone()
    if (scales := place.model.scales) is not None:
        state.update({prefix + key: history for key, history in scales.state_dict().items()})


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
    """Take our keys where there are any, out of sight of the strict check."""
    place: Place = getattr(module, PLACE)
    saved: Tensor | None = state.pop(prefix + STATE_KEY, None)
    mine = [key for key in state if key.startswith(prefix + PREFIX)]
    histories = {key.removeprefix(prefix): state.pop(key) for key in mine}
    if (scales := place.model.scales) is not None:
        scales.load_state_dict(histories)
    if saved is not None:
        place.model.random.set(*(int(v) for v in saved.tolist()))
