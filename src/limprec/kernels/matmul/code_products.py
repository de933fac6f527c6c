"""Products of int8 codes that leave as values: each sum exact, times a scale, rounded once."""

from __future__ import annotations

import torch
from torch import Tensor

from .integer import FLOAT32_WHOLE, INT32_MAX, PEAK, integer_matmul
from .operands import has_native, to_values

_MOST_TERMS = INT32_MAX // PEAK


def multiply_codes(
    a: Tensor,
    b: Tensor,
    scale: float | Tensor,
    dtype: torch.dtype,
    peak: int = PEAK,
    bias: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Return ``(a @ b) * scale + bias`` of matrices, or of batches of matrices, of int8 codes.

    Where the extension is there and the CPU has AVX-512 VNNI the sums become values as they leave
    the registers. Elsewhere a matrix times a matrix is PyTorch's int8 product, and batches are
    products in float32, or in float64 where sums of so many terms might be no float32 numbers.

    Args:
        a: (..., M, K) int8.
        b: (..., K, N) int8, with the leading axes of ``a``, on its device.
        scale: what a unit of the sums is worth; NaN makes all NaN.
        dtype: of the result; float64 keeps the product as it is.
        peak: no product of an element of ``a`` and one of ``b`` is larger in magnitude.
        bias: (N,), added in float32 after the product is rounded to it, or None.
        out: where the result goes, in ``dtype``, with rows without gaps; None for new memory.

    Returns:
        (..., M, N), row-major unless ``out`` lies otherwise; 0 * scale, plus the bias, where K is
        0.
    """
    if is_fused("codes_matmul", a, scale, dtype, a.shape[-1]):
        if dtype == torch.float32:
            return _fused(a, b, scale, bias, out=out)
        y = _fused(a, b, scale, bias).to(dtype)
    elif a.ndim == 2:
        y = to_values(integer_matmul(a, b, peak), scale, dtype, bias)
    else:
        wide = torch.float32 if a.shape[-1] * peak <= FLOAT32_WHOLE else torch.float64
        y = to_values(a.to(wide) @ b.to(wide), scale, dtype, bias)
    return y if out is None else out.copy_(y)


def multiply_and_sum(
    a: Tensor, b: Tensor, scale: float | Tensor, dtype: torch.dtype, peak: int = PEAK
) -> tuple[Tensor, Tensor]:
    """Return ``multiply_codes`` of two matrices, and the sums of the codes of each row of ``a``.

    Returns:
        (M, N) in ``dtype``; (M,) int32, or int64 where so many codes might not fit.
    """
    if b.shape[-1] and is_fused("codes_matmul", a, scale, dtype, a.shape[-1]):
        sums = torch.empty(a.shape[0], dtype=torch.int32)
        return _fused(a, b, scale, None, sums).to(dtype), sums
    ones = a.new_ones(a.shape[1], 1)
    return multiply_codes(a, b, scale, dtype, peak), integer_matmul(a, ones, 128)[:, 0]


def is_fused(
    operator: str, codes: Tensor, scale: float | Tensor, dtype: torch.dtype, terms: int
) -> bool:
    """Return whether an operator whose 32-bit sums leave as float32 takes such codes.

    Args:
        operator: its name; it is there on CPUs with AVX-512 VNNI.
        codes: a factor.
        scale: what a product is worth; a tensor (on a GPU) is not taken.
        dtype: of the result; float64 wants the product as it is.
        terms: of a sum, as many as 32 bits hold at most.
    """
    fits = codes.is_cpu and isinstance(scale, float) and dtype != torch.float64
    return fits and terms <= _MOST_TERMS and has_native(operator)


def _fused(
    a: Tensor,
    b: Tensor,
    scale: float | Tensor,
    bias: Tensor | None = None,
    sums: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    if out is None:
        out = torch.empty(*a.shape[:-1], b.shape[-1], dtype=torch.float32)
    addend = None if bias is None else bias.to(torch.float32).contiguous()
    torch.ops.limprec.codes_matmul.default(_dense(a), _dense(b), out, scale, addend, sums)
    return out


def _dense(x: Tensor) -> Tensor:
    """Return codes whose rows or columns are without gaps."""
    row, column = x.stride()[-2:]
    good = row == 1 or column == 1 or min(x.shape[-2:]) <= 1
    return x if good else x.contiguous()
