"""Which way a layer's products take: the one that the model was converted for, where they can."""

from __future__ import annotations

import platform

import torch
from torch import Tensor

from ..kernels.matmul.operands import has_native
from .fitting import can
from .state import Compute, LayerState

_X86 = platform.machine().lower() in ("x86_64", "amd64")


def way_of(layer: LayerState, x: Tensor, *, integers: bool = True) -> Compute:
    """Return how a layer multiplies tensors like ``x``.

    ``fast`` is the first of these that the operands are exact in and this machine has: int8 codes
    (CPUs with a fused product of them, not in a graph that is compiled), bfloat16 (where it is
    multiplied faster than float32), the carrier.

    Args:
        layer: whose product it is.
        x: an operand.
        integers: whether the function at hand has an integer product.
    """
    asked = layer.model.compute
    if asked is Compute.EXACT:
        return asked
    if asked is Compute.REAL:
        return asked if integers and _can(asked, layer) else Compute.EXACT
    if integers and has_fast_integers(layer, x) and _can(Compute.REAL, layer):
        return Compute.REAL
    if has_fast_bfloat16(x.device) and _can(Compute.FAST, layer):
        return Compute.FAST
    return Compute.EXACT


def may_prove(layer: LayerState, x: Tensor) -> bool:
    """Whether products in the carrier may be computed on integers, if these give its bits."""
    model = layer.model
    exact = model.compute is Compute.EXACT and model.tell is None and layer.learner is None
    proves = exact and layer.plan.accumulator is None and _can(Compute.REAL, layer)
    return proves and has_fast_integers(layer, x)


def _can(way: Compute, layer: LayerState) -> bool:
    """``can`` of the layer's plan, asked once."""
    if torch.compiler.is_compiling():  # which would guard what is noted
        return can(way, layer.plan)
    known = layer.ways.get(way)
    if known is None:
        known = layer.ways[way] = can(way, layer.plan)
    return known


def has_fast_integers(layer: LayerState, x: Tensor) -> bool:
    """Whether int8 products are the fastest that there are."""
    if not x.is_cpu or x.dtype != torch.float32 or layer.model.scales is not None:
        return False
    return not torch.compiler.is_compiling() and has_native("codes_matmul")


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is multiplied faster than float32: on x86, by those that have AMX alone."""
    return device.type != "cpu" or not _X86 or torch.cpu._is_amx_tile_supported()
