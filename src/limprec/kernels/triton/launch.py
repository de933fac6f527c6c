"""Launching the kernels: memory layout, grid and arguments. Imports triton."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
import triton
from torch import Tensor

from ...formats import NVFP4, ScaledFormat, parse_precision
from ..random import elements_a_block
from .grouped import extremes_of_runs, round_runs
from .rounding import LARGEST_PARTS, largest, round_elements
from .runs import Runs, runs_of
from .spec import CARRIERS, Kind, Mode, Spec, make_spec

BLOCK = 1024
"""Elements of one program, a multiple of 8: 8 to a thread of 4 warps."""

INTERPRETED: bool = triton.knobs.runtime.interpret
"""Whether ``TRITON_INTERPRET=1`` was set when the kernels were made: they then run on the CPU."""

_BITS = {2: torch.int16, 4: torch.int32}


def round_into(
    x: Tensor, out: Tensor, text: str, seed: int, stream: int, step: int, offset: int
) -> None:
    """Round ``x`` into ``out``, both of one shape and dtype; they may overlap."""
    if x.numel() == 0:
        return
    source = x.contiguous()
    direct = out.is_contiguous() and (_same_memory(source, out) or not _share_memory(source, out))
    target = out if direct else torch.empty_like(source)
    fmt, spec = parse_precision(text).format, make_spec(text)
    with torch.cuda.device(x.device) if x.is_cuda else nullcontext():
        if isinstance(fmt, ScaledFormat) and (spec.kind is not Kind.DYNAMIC or not fmt.per_tensor):
            runs = runs_of(x.shape, fmt)
            _launch_runs(source, target, spec, runs, fmt, (seed, step, stream, offset))
        else:
            _launch(source, target, spec, seed, stream, step, offset)
    if not direct:
        out.copy_(target)


def _launch(
    x: Tensor, out: Tensor, spec: Spec, seed: int, stream: int, step: int, offset: int
) -> None:
    count, carrier = x.numel(), CARRIERS[x.dtype]
    x, out = (t.view(_BITS[t.element_size()]) for t in (x, out))
    top = x
    if spec.kind is Kind.DYNAMIC:
        top = _largest(x, carrier)
    neighbours = elements_a_block(spec.random_bits)
    constants = compiled_for(spec, carrier, offset % neighbours)
    programs = triton.cdiv(count + constants["PHASE"], BLOCK)
    first = offset // neighbours
    round_elements[(programs,)](x, out, top, count, seed, step, stream, first, **constants)


def compiled_for(spec: Spec, carrier: str, phase: int) -> dict[str, Any]:
    """Return the constants of ``round_elements``: there is one kernel for each set of them."""
    return {
        **spec.constants,
        "CARRIER": carrier,
        "RANDOM_BITS": spec.random_bits,
        "PHASE": phase if spec.mode is Mode.STOCHASTIC else 0,
        "BLOCK": BLOCK,
    }


def _largest(bits: Tensor, carrier: str) -> Tensor:
    """Return the largest magnitude of a carrier's bits, a float32's in int32, of shape (1,)."""
    top = torch.zeros(1, dtype=torch.int32, device=bits.device)
    programs = triton.cdiv(bits.numel(), BLOCK * LARGEST_PARTS.value)
    largest[(programs,)](bits, top, bits.numel(), CARRIER=carrier, BLOCK=BLOCK)
    return top


def _launch_runs(
    x: Tensor, out: Tensor, spec: Spec, runs: Runs, fmt: ScaledFormat, key: tuple[int, ...]
) -> None:
    carrier = CARRIERS[x.dtype]
    x, out = (t.view(_BITS[t.element_size()]) for t in (x, out))
    constants = compiled_for_runs(spec, carrier, runs, offset=key[-1])
    shape = {name: constants[name] for name in ("CARRIER", "KIND", "GROUPS", "WIDTH")}
    grid = (triton.cdiv(runs.count, runs.groups) * runs.parts,)
    where = (runs.count, runs.size, runs.length, runs.blocks, runs.stride, runs.parts, runs.entries)
    extremes = scale = x
    if not runs.whole:
        both = spec.kind in (Kind.ZERO_POINT, Kind.FROM_LEAST)
        size, none = runs.entries * (1 + both), -(2**31) if both else 0
        extremes = torch.full((size,), none, dtype=torch.int32, device=x.device)
        extremes_of_runs[grid](x, extremes, *where, **shape)
    if isinstance(fmt, NVFP4):
        top = _largest(x, carrier).view(torch.float32)
        scale = top / torch.full_like(top, fmt.element.max * fmt.scale.max)
        scale = torch.where(top.isfinite(), scale, torch.nan)
    round_runs[grid](x, out, extremes, scale, *where, *key, **constants, enable_fp_fusion=False)


def compiled_for_runs(spec: Spec, carrier: str, runs: Runs, offset: int) -> dict[str, Any]:
    """Return the constants of ``round_runs``: there is one kernel for each set of them."""
    neighbours = elements_a_block(spec.random_bits)
    aligned = offset % neighbours == 0 and runs.opens_blocks(neighbours)
    return {
        **spec.constants,
        "CARRIER": carrier,
        "PEAK": spec.peak,
        "RANDOM_BITS": spec.random_bits,
        "OPENS_BLOCKS": aligned and spec.mode is Mode.STOCHASTIC,
        "WHOLE": runs.whole,
        "GROUPS": runs.groups,
        "WIDTH": runs.width,
    }


def _same_memory(a: Tensor, b: Tensor) -> bool:
    """Whether two contiguous tensors of one shape are the same elements."""
    return a.data_ptr() == b.data_ptr()


def _share_memory(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors may overlap: they are parts of one allocation."""
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
