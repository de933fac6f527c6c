"""Changing the forward bits of a converted model while it trains."""

from __future__ import annotations

from torch import nn

from ..errors import ConversionError
from .fitting import check_dtype, check_way, fits
from .place import PLACE, Place


def set_bits(model: nn.Module, bits: int | None) -> int:
    """Run weights and activations of a converted model in so many bits from now on.

    Layers whose weights or activations are dynamic fixed point or affine integers change, errors
    and gradients never do. Parameters stay as they are stored: their format is the optimizer's.

    Args:
        model: what ``lp.convert`` returned.
        bits: of the forward pass; None for those of the plan.

    Returns:
        How many layers changed. Functions that are called for the first time later follow too.

    Raises:
        ConversionError: if the model is not converted, no layer has such a format, or a layer's
            products are not computed in that many bits (``compute="real"`` takes up to 8).
        FormatError: for bits that a format cannot have, or the dtype of a layer cannot hold.
    """
    place: Place | None = getattr(model, PLACE, None)
    if place is None or not place.is_root:
        raise ConversionError("set_bits", "the model is not converted", "lp.convert it first")
    state = place.model
    moving = [layer for layer in state.layers.values() if layer.planned.has_bits]
    if not moving:
        raise ConversionError(
            "set_bits",
            "no layer has forward bits to change",
            "give weights and activations in dynamic fixed point or affine integers (and convert"
            " with example_inputs, if functions alone have them)",
        )
    if bits is not None:
        modules = dict(model.named_modules())
        for layer in moving:
            moved = layer.planned.at_bits(bits)
            if layer.name in modules:
                check_dtype(modules[layer.name], moved)
            if fits(state.compute, layer.planned):
                check_way(state.compute, moved, is_last=False)
    state.bits = bits
    for layer in moving:
        layer.set_bits(bits)
    return len(moving)
