"""Changing the forward bits of a converted model while it trains."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from ..errors import ConversionError
from ..plan import LayerPlan
from .contracting import is_blocked
from .fitting import check_dtype, check_way, fits
from .learning import Learner
from .place import PLACE, Place
from .state import Compute, LayerState, ModelState


def set_bits(model: nn.Module, bits: int | Mapping[str, int] | None) -> int:
    """Run weights and activations of a converted model in so many bits from now on.

    Layers whose weights or activations are dynamic fixed point or affine integers change, errors
    and gradients never do. Parameters stay as they are stored: their format is the optimizer's.

    Args:
        model: what ``lp.convert`` returned.
        bits: of the forward pass; None for those of the plan. Or layer -> bits, and the other
            layers stay as they are.

    Returns:
        How many layers run in them. Functions that are called for the first time later follow too,
        unless ``bits`` names the layers.

    Raises:
        ConversionError: if the model is not converted, no layer has such a format, a name is of no
            such layer, or a layer's products are not computed in that many bits
            (``compute="real"`` takes up to 8).
        FormatError: for bits that a format cannot have, or the dtype of a layer cannot hold.
    """
    state, moving = _moving("set_bits", model)
    if isinstance(bits, Mapping):
        if unknown := sorted(bits.keys() - moving.keys()):
            raise ConversionError(
                "set_bits",
                f"layer {unknown[0]!r} has no forward bits to change",
                "the layers are " + ", ".join(map(repr, moving)),
            )
        each: dict[str, int | None] = dict(bits)
    else:
        each = dict.fromkeys(moving, bits)
    changed = {name: own for name, own in each.items() if moving[name].bits != own}
    modules = dict(model.named_modules()) if changed else {}
    for name, own in changed.items():
        if own is None:
            continue
        moved = moving[name].planned.at_bits(own)
        if name in modules:
            check_dtype(modules[name], moved)
        if fits(state.compute, moving[name].planned):
            check_way(state.compute, moved, is_last=False)
    if not isinstance(bits, Mapping):
        state.bits = bits
    for name, own in changed.items():
        moving[name].set_bits(own)
    return len(each)


def learnable_layers(model: nn.Module) -> dict[str, LayerPlan]:
    """Return the layers of a converted model whose forward bits can be learned, by name.

    Raises:
        ConversionError: if the model is not converted, no layer has forward bits, or the rounding
            of one is hidden from autograd: integer or bfloat16 products, accumulators, blocks along
            the sums, delayed scales, operands that are kept in real bits.
    """
    state, moving = _moving("LearnedBits", model)
    for layer in moving.values():
        if why := _why_not(state, layer.planned):
            raise ConversionError("LearnedBits", f"layer {layer.name!r} has {why[0]}", why[1])
    return {name: layer.planned for name, layer in moving.items()}


def learn_bits(model: nn.Module, betas: Tensor, span: int) -> None:
    """Let a model's roundings pass gradients to numbers that its bits follow, see ``Learner``.

    The bits stay what they are: whoever calls it moves them with ``set_bits``. A second call takes
    the place of the first.

    Args:
        model: what ``learnable_layers`` took.
        betas: float leaf, one a layer, in the order of ``learnable_layers``.
        span: bits from 0 to 1 of such a number.
    """
    _, moving = _moving("LearnedBits", model)
    for index, layer in enumerate(moving.values()):
        layer.learner = Learner(betas, index, span)


def _moving(operation: str, model: nn.Module) -> tuple[ModelState, dict[str, LayerState]]:
    """Return what a model shares, and its layers that have forward bits to change."""
    place: Place | None = getattr(model, PLACE, None)
    if place is None or not place.is_root:
        raise ConversionError(operation, "the model is not converted", "lp.convert it first")
    moving = {n: layer for n, layer in place.model.layers.items() if layer.planned.has_bits}
    if not moving:
        raise ConversionError(
            operation,
            "no layer has forward bits to change",
            "give weights and activations in dynamic fixed point or affine integers (and convert"
            " with example_inputs, if functions alone have them)",
        )
    return place.model, moving


def _why_not(state: ModelState, plan: LayerPlan) -> tuple[str, str] | None:
    """Return why no gradient comes to a layer's bits, and what to do; None if it does."""
    if state.compute is not Compute.EXACT:
        return f"compute={str(state.compute)!r}", "convert with compute='exact' to learn bits"
    if state.saves_codes:
        return "operands saved in real bits", "convert with saved='carrier' to learn bits"
    if state.scales is not None:
        return "delayed scales", "use tensors = 'current' in [scaling] to learn bits"
    if plan.accumulator is not None:
        return f"the accumulator {plan.accumulator}", "leave it out to learn bits"
    for role in ("weight", "activation"):
        if is_blocked(plan[role]):
            remedy = "use one scale a tensor or channel to learn bits"
            return f"{role} {plan[role]} in blocks along its sums", remedy
    return None
