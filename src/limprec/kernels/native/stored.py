"""Narrow storage in C++ on the CPU: straight to codes and back, ReLU with a bit an element."""

from __future__ import annotations

import torch
from torch import Tensor

from ...formats import DynamicFixedPoint, FixedPoint, FloatingPoint, Precision, Rounding
from ..random import Key
from . import missing, warn_once
from .spec import Simd, pack

_CARRIERS = frozenset({torch.float32, torch.bfloat16, torch.float16})
_CODES = frozenset(
    {
        torch.int8,
        torch.int16,
        torch.float8_e4m3fn,
        torch.float8_e5m2,
        torch.bfloat16,
        torch.float16,
    }
)


def can_store(x: Tensor, precision: Precision, dtype: torch.dtype) -> bool:
    """Return whether the native kernels round this tensor straight to codes of a dtype."""
    fmt = precision.format
    one_scale = isinstance(fmt, DynamicFixedPoint) and fmt.per_tensor
    kind = one_scale or isinstance(fmt, FixedPoint | FloatingPoint)
    return kind and dtype in _CODES and can_mask(x)


def can_widen(codes: Tensor, scale: Tensor, dtype: torch.dtype) -> bool:
    """Return whether the native kernels widen these codes to a dtype."""
    fits = codes.is_cpu and codes.dtype in _CODES and dtype in _CARRIERS and scale.ndim == 0
    return fits and _there()


def can_mask(x: Tensor) -> bool:
    """Return whether the native kernels take a tensor: for masks this is all they ask."""
    return x.is_cpu and x.dtype in _CARRIERS and _there()


def round_to_codes(
    x: Tensor, precision: Precision, key: Key | None, dtype: torch.dtype, simd: Simd = Simd.AUTO
) -> tuple[Tensor, Tensor]:
    """Return codes and scale as ``stored.round_to_codes`` does; ``can_store`` of the arguments.

    The scale is NaN where fixed point met a NaN: the codes are then good for nothing.
    """
    codes, scale = _lying_as(x, dtype), x.new_empty((), dtype=torch.float32)
    spec = pack(precision, simd)
    if precision.rounding is not Rounding.STOCHASTIC:
        torch.ops.limprec.round_to_codes.default(x, codes, scale, spec)
        return codes, scale
    assert key is not None, "stochastic rounding needs a key"
    torch.ops.limprec.round_to_codes.keyed(x, codes, scale, spec, *key.arguments)
    return codes, scale


def can_store_part(x: Tensor, precision: Precision) -> bool:
    """Return whether ``round_part`` takes a tensor: of formats whose scale one magnitude gives."""
    fmt = precision.format
    dynamic = isinstance(fmt, DynamicFixedPoint) and fmt.per_tensor and fmt.bits <= 8
    return dynamic and type(precision) is Precision and can_mask(x)


def magnitude(x: Tensor, precision: Precision) -> int:
    """Return the bits of the largest magnitude of a dense tensor, more than any number's for a NaN.

    ``can_store_part`` of the arguments; of several parts, the largest of these is that of all.
    """
    most: int = torch.ops.limprec.magnitude.default(x, pack(precision))
    return most


def round_part(
    x: Tensor, codes: Tensor, scale: Tensor, precision: Precision, key: Key | None, most: int
) -> None:
    """Round a dense part of a larger tensor to its codes, as ``round_to_codes`` of all of it does.

    Args:
        x: the part.
        codes: int8, where it goes: a view of those of the whole, which are dense and row-major and
            begin where their storage does.
        scale: float32, no axes; overwritten.
        precision: ``can_store_part`` of it.
        key: needed for ``stochastic``; that of the whole.
        most: ``magnitude`` of the whole.
    """
    *stream, offset = (key or _NO_KEY).arguments
    torch.ops.limprec.round_part_to_codes.default(
        x, codes, scale, pack(precision), most, *stream, offset + codes.storage_offset()
    )


_NO_KEY = Key(0)


def _lying_as(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return empty memory whose axes lie in the order of those of ``x``, without its gaps."""
    out = torch.empty_like(x, dtype=dtype)
    strides = x.stride()
    if out.stride() == strides or 0 in strides:
        return out
    order = sorted(range(x.ndim), key=lambda axis: -strides[axis])
    dense = torch.empty([x.shape[axis] for axis in order], dtype=dtype, device=x.device)
    return dense.permute([order.index(axis) for axis in range(x.ndim)])


def widen(codes: Tensor, scale: Tensor, dtype: torch.dtype, simd: Simd = Simd.AUTO) -> Tensor:
    """Return the values of codes under one scale; ``can_widen`` of the arguments."""
    out = torch.empty_like(codes, dtype=dtype)
    torch.ops.limprec.widen_codes.default(codes, scale, out, int(simd))
    return out


def relu_with_mask(
    x: Tensor, ceiling: float | None, simd: Simd = Simd.AUTO, out: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return what ``masks.relu_with_mask`` does; ``can_mask`` of the tensor."""
    y = torch.empty_like(x) if out is None else out
    mask = x.new_empty(((x.numel() + 7) // 8,), dtype=torch.uint8)
    x = x if x.stride() == y.stride() else torch.empty_like(y).copy_(x)
    top = float("nan") if ceiling is None else ceiling
    torch.ops.limprec.relu_with_mask.default(x, y, mask, top, int(simd))
    return y, mask


def masked(grad: Tensor, mask: Tensor, stride: tuple[int, ...], simd: Simd = Simd.AUTO) -> Tensor:
    """Return what ``masks.masked`` does; ``can_mask`` of the gradient."""
    out = torch.empty_strided(grad.shape, stride, dtype=grad.dtype)
    grad = grad if grad.stride() == out.stride() else torch.empty_like(out).copy_(grad)
    torch.ops.limprec.masked.default(grad, mask, out, int(simd))
    return out


def _there() -> bool:
    if missing() is not None:
        warn_once()
    return missing() is None


def _nothing(*arguments: object, **named: object) -> None:
    """Tell the compiler that an operator returns nothing."""


if missing() is None:
    for _name in ("round_to_codes", "round_to_codes.keyed", "widen_codes"):
        torch.library.register_fake(f"limprec::{_name}", _nothing)
    for _name in ("relu_with_mask", "masked"):
        torch.library.register_fake(f"limprec::{_name}", _nothing)
