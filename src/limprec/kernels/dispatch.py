"""Who computes: picks the backend for callers that have already checked their arguments."""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache

import torch
from torch import Tensor

from ..formats import Affine, DynamicFloatingPoint, Precision, ScaledFormat
from . import dynamic, native, reference, triton
from .carrier import is_identity
from .following import Following
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
    amax: Tensor | float | None = None,
    backend: Backend = Backend.AUTO,
) -> Tensor:
    """``quantize`` for callers that have already checked: the layers and the optimizers."""
    if isinstance(precision, Following) and precision.amax is not None:
        amax, precision = precision.amax(x), precision.plain
    if amax is None:
        return launch(x, precision, native_spec(precision, x.dtype), key, out, backend)
    with torch.no_grad():
        return _round_within(x, precision, key, amax, out, backend)


def launch(
    x: Tensor,
    precision: Precision,
    spec: int | None,
    key: Key | None,
    out: Tensor | None,
    backend: Backend,
) -> Tensor:
    """``round_to`` with ``native_spec`` already looked up for the dtype of ``x``."""
    if torch.is_grad_enabled() and (x.requires_grad or (out is not None and out.requires_grad)):
        with torch.no_grad():
            return launch(x, precision, spec, key, out, backend)
    if spec is not None and backend is Backend.AUTO and x.is_cpu and native.missing() is None:
        return native.launch(x, spec, precision, key, out)
    if isinstance(precision.format, DynamicFloatingPoint) and backend is not Backend.REFERENCE:
        return _round_scaled(x, precision, dynamic.largest(x), key, out, backend)
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


@lru_cache(maxsize=4096)
def native_spec(precision: Precision, dtype: torch.dtype) -> int | None:
    """Return the request to the native kernels; None if they are not what rounds this on a CPU."""
    fits = native.fits(dtype, precision.format) and not is_identity(precision.format, dtype)
    return native.pack(precision) if fits else None


def _round_scaled(
    x: Tensor,
    precision: Precision,
    amax: float,
    key: Key | None,
    out: Tensor | None,
    backend: Backend,
) -> Tensor:
    """Round to dynamic floating point: to a scalar float, once the scale is known."""
    scalar = dynamic.under(precision, amax, x.dtype)
    if scalar is None:
        return torch.empty_like(x).fill_(torch.nan) if out is None else out.fill_(torch.nan)
    return launch(x, scalar, native_spec(scalar, x.dtype), key, out, backend)


def _round_within(
    x: Tensor,
    precision: Precision,
    key: Key | None,
    amax: Tensor | float,
    out: Tensor | None,
    backend: Backend,
) -> Tensor:
    """Round with scales that follow ``amax``; where each group has its own, in the reference."""
    one = backend in (Backend.AUTO, Backend.NATIVE) and getattr(amax, "ndim", 0) == 0
    fmt, bits = precision.format, precision.random_bits
    if one and isinstance(fmt, DynamicFloatingPoint) and not (value := float(amax)) < 0:
        return _round_scaled(x, precision, value, key, out, backend)
    follows = isinstance(fmt, ScaledFormat) and not (isinstance(fmt, Affine) and fmt.zero != "none")
    if one and follows and native.can_round(x, precision) and not (value := float(amax)) < 0:
        return native.round_within(x, precision, key, value, out=out)
    y = reference.quantize(x, fmt, precision.rounding, key, random_bits=bits, amax=amax)
    return y if out is None else out.copy_(y)
