"""The native kernel: C++ on the CPU, on PyTorch's own threads, the bits of ``reference``."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from ...formats import Precision
from .. import native as room
from ..native.spec import Simd, pack
from .reference import Request

REMEDY = room.REMEDY
_ADDERS = ("sequential", "kahan", "tree", "aligned")


def missing() -> str | None:
    """Return why the kernel cannot be used, None if it can."""
    reason = room.missing()
    if reason is None and not hasattr(torch.ops.limprec, "matmul_at_precision"):
        return "the extension was built without it"
    return reason


def is_there() -> bool:
    """Return whether the kernel can be used.

    Warns once, with ``SlowBackendWarning``, if the extension is missing.
    """
    if room.missing() is not None:
        room.warn_once()
    return missing() is None


def matmul(a: Tensor, b: Tensor, request: Request, simd: Simd = Simd.AUTO) -> Tensor:
    """Return the product of CPU tensors (B, M, K) and (B, K, N) of one dtype.

    Args:
        a: float64 as the door has checked it, or any narrower carrier.
        b: the same.
        request: what to compute.
        simd: the instruction set; all give the same bits.
    """
    carrier = torch.float64 if a.dtype == torch.float64 else torch.float32
    out = torch.empty(a.shape[0], a.shape[1], b.shape[2], dtype=carrier)
    torch.ops.limprec.matmul_at_precision.default(
        a.to(carrier).contiguous(), b.to(carrier).contiguous(), out, *_pack(request, simd)
    )
    return out


@lru_cache(maxsize=256)
def _pack(r: Request, simd: Simd) -> tuple[int, ...]:
    accumulator = pack(Precision(r.accumulator, r.rounding), simd)
    product = -1 if r.product is None else pack(Precision(r.product, r.rounding), simd)
    assert accumulator is not None
    assert product is not None
    adder = _ADDERS.index("kahan" if r.kahan else r.adder.kind)
    seed = r.seed if r.seed < 2**63 else r.seed - 2**64
    return accumulator, product, adder, r.chunk or 0, r.adder.ways, r.adder.extra, seed
