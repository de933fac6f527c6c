"""Launching the kernels: memory layout, grid and arguments. Imports triton."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
import triton
from torch import Tensor

from ..random import elements_a_block
from .rounding import LARGEST_PARTS, largest, round_elements
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
    with torch.cuda.device(x.device) if x.is_cuda else nullcontext():
        _launch(source, target, make_spec(text), seed, stream, step, offset)
    if not direct:
        out.copy_(target)


def _launch(
    x: Tensor, out: Tensor, spec: Spec, seed: int, stream: int, step: int, offset: int
) -> None:
    count, carrier = x.numel(), CARRIERS[x.dtype]
    x, out = (t.view(_BITS[t.element_size()]) for t in (x, out))
    top = torch.zeros(1 if spec.kind is Kind.DYNAMIC else 0, dtype=torch.int32, device=x.device)
    if spec.kind is Kind.DYNAMIC:
        programs = triton.cdiv(count, BLOCK * LARGEST_PARTS.value)
        largest[(programs,)](x, top, count, CARRIER=carrier, BLOCK=BLOCK)
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


def _same_memory(a: Tensor, b: Tensor) -> bool:
    """Whether two contiguous tensors of one shape are the same elements."""
    return a.data_ptr() == b.data_ptr()


def _share_memory(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors may overlap: they are parts of one allocation."""
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
