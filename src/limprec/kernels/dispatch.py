"""Who computes: picks the backend for callers that have already checked their arguments."""

from __future__ import annotations

from enum import StrEnum

import torch
from torch import Tensor

from ..formats import Precision
from . import native, reference, triton
from .carrier import is_identity
from .random import Key


class Backend(StrEnum):
    """Who computes. All of them give the same bits."""

    AUTO = "auto"
    """The fastest one that is there for the tensor at hand."""
    REFERENCE = "reference"
    """Plain PyTorch, any device: the semantics."""
    NATIVE = "native"
    """C++ on the CPU, all of PyTorch's threads."""
    TRITON = "triton"
    """Triton on the GPU."""


def round_to(
    x: Tensor,
    precision: Precision,
    key: Key | None,
    *,
    out: Tensor | None = None,
    backend: Backend = Backend.AUTO,
) -> Tensor:
    """``quantize`` for callers that have already checked: the layers and the optimizers."""
    if torch.is_grad_enabled():
        with torch.no_grad():
            return round_to(x, precision, key, out=out, backend=backend)
    if is_identity(precision.format, x.dtype):
        return x.clone() if out is None else out if out is x else out.copy_(x)
    if backend is Backend.AUTO and native.can_round(x, precision):
        backend = Backend.NATIVE
    if backend is Backend.NATIVE:
        return native.round_to(x, precision, key, out=out)
    if backend is Backend.AUTO and x.is_cuda and triton.can_round(x, precision):
        backend = Backend.TRITON
    if backend is Backend.TRITON:
        return triton.round_to(x, precision, key, out=out)
    y = reference.quantize(
        x, precision.format, precision.rounding, key, random_bits=precision.random_bits
    )
    return y if out is None else out.copy_(y)
