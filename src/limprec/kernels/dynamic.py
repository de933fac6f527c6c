"""Dynamic floating point by way of the scalar kernels: the scale goes into the float's bias."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from ..formats import DynamicFloatingPoint, Precision
from .carrier import exponents_within


def largest(x: Tensor) -> float:
    """Return the largest magnitude of a tensor, NaN where it holds one, 0 if it is empty."""
    if not x.numel():
        return 0.0
    if not x.is_contiguous():  # a reduction over strided memory is many times slower
        x = x.permute(sorted(range(x.ndim), key=x.stride, reverse=True))
    low, high = torch.aminmax(x.detach())
    return max(-low.item(), high.item()) if not high.isnan() else math.nan


def under(precision: Precision, amax: float, dtype: torch.dtype) -> Precision | None:
    """Return the precision of the scalar float that dynamic floating point is for an ``amax``.

    None if ``amax`` is not finite: there is no scale then.
    """
    fmt = precision.format
    assert isinstance(fmt, DynamicFloatingPoint)
    if not math.isfinite(amax):
        return None
    low, high = exponents_within(fmt, dtype)
    return _at(precision, min(max(fmt.exponent(amax), low), high))


@lru_cache(maxsize=4096)
def _at(precision: Precision, k: int) -> Precision:
    fmt = precision.format
    assert isinstance(fmt, DynamicFloatingPoint)
    return replace(precision, format=fmt.at(k))
