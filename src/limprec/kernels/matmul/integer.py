"""Products of int8 matrices, exact to the last bit.

PyTorch's int8 product sums in 32 bits: a contraction that could overflow them is cut into chunks,
whose sums are added in 64 bits. Processors without a dot product of bytes (VNNI, SDOT) may sum
pairs of products in 16 bits and saturate there: whether this one does is found out on first use,
and then float32 products of short chunks, exact as well, take their place.
"""

from __future__ import annotations

import warnings
from functools import lru_cache

import torch
from torch import Tensor

from ...errors import KernelError
from ..native import SlowBackendWarning

PEAK = 128 * 128
"""The largest magnitude of a product of two int8 codes."""
SYMMETRIC_PEAK = 127 * 127
"""The same where no code is -128."""
INT32_MAX = 2**31 - 1
FLOAT32_WHOLE = 2**24
"""Up to here every integer is a float32 number."""


def integer_matmul(a: Tensor, b: Tensor, peak: int = PEAK) -> Tensor:
    """Return the exact product of two int8 matrices.

    Row-major and column-major operands are taken as they lie; others are copied.

    Args:
        a: (M, K) int8.
        b: (K, N) int8 on the same device.
        peak: no product of an element of ``a`` and one of ``b`` is larger in magnitude; less of it
            allows longer chunks.

    Returns:
        (M, N) int32; int64 where K * ``peak`` does not fit int32. Zeros where K is 0. Integers
        know neither NaN nor overflow.

    Raises:
        KernelError: for other dtypes, shapes that do not fit, or tensors without data (meta).
    """
    _check(a, b)
    length, terms = a.shape[1], INT32_MAX // peak
    if a.numel() == 0 or b.numel() == 0:
        return a.new_zeros(a.shape[0], b.shape[1], dtype=torch.int32)
    product = _chunk if is_exact(a.device) else _float_product
    if length <= terms:
        return product(a, b)
    total = torch.zeros(a.shape[0], b.shape[1], dtype=torch.int64, device=a.device)
    for start in range(0, length, terms):
        stop = min(start + terms, length)
        total += product(a[:, start:stop], b[start:stop])
    return total


def is_exact(device: torch.device) -> bool:
    """Return whether this device's int8 product is exact; asked once, the answer is kept.

    Warns with ``SlowBackendWarning`` if it is not.
    """
    index = device.index if device.type != "cpu" else None
    return _is_exact(device.type, index)


@lru_cache(maxsize=64)
def _is_exact(kind: str, index: int | None) -> bool:
    device = torch.device(kind) if index is None else torch.device(kind, index)
    try:
        good = all(_survives(m, k, n, device) for m, k, n in ((32, 512, 48), (1, 96, 33)))
        reason = "saturates"
    except (RuntimeError, NotImplementedError) as error:
        good, reason = False, f"fails ({str(error).splitlines()[0]})"
    if not good:
        warnings.warn(
            f"limprec: the int8 product of {device} {reason}; float32 products compute the same,"
            " several times slower. There is nothing to be done but another device.",
            SlowBackendWarning,
            stacklevel=3,
        )
    return good


def _survives(m: int, k: int, n: int, device: torch.device) -> bool:
    """Whether the largest codes of either sign come out right, in each layout."""
    row, column = torch.arange(m)[:, None], torch.arange(n)
    terms = torch.arange(k)
    # Runs of equal signs drive partial sums as far as they go, up in one element, down in another.
    a = torch.where((row + terms // 64) % 3 == 0, -128, 127).to(torch.int8)
    b = torch.where((column + terms[:, None] // 128) % 2 == 0, -128, 127).to(torch.int8)
    exact = a.to(torch.int64) @ b.to(torch.int64)
    a, b = a.to(device), b.to(device)
    return all(
        torch.equal(_chunk(x, y).cpu().to(torch.int64), exact)
        for x in (a, a.t().contiguous().t())
        for y in (b, b.t().contiguous().t())
    )


def _chunk(a: Tensor, b: Tensor) -> Tensor:
    """Return the product, int32, as the device's int8 kernels compute it."""
    a, b = _dense(a), _dense(b)
    if a.is_cuda:
        return _cuda_product(a, b)
    return torch._int_mm(a, b)


def _cuda_product(a: Tensor, b: Tensor) -> Tensor:
    """Return the product, padded to what cuBLASLt takes: M over 16, K and N multiples of 8."""
    (m, k), n = a.shape, b.shape[1]
    more_k = -k % 8
    if m <= 16 or more_k:
        a = torch.nn.functional.pad(a, (0, more_k, 0, max(0, 24 - m) if m <= 16 else 0))
    if more_k or n % 8:
        b = torch.nn.functional.pad(b, (0, -n % 8, 0, more_k))
    return torch._int_mm(a, b)[:m, :n]


def _float_product(a: Tensor, b: Tensor) -> Tensor:
    """Return the product, int32, from float32 sums so short that each is a whole number."""
    terms = FLOAT32_WHOLE // PEAK
    total = torch.zeros(a.shape[0], b.shape[1], dtype=torch.int32, device=a.device)
    for start in range(0, a.shape[1], terms):
        x, y = a[:, start : start + terms], b[start : start + terms]
        total += (x.to(torch.float32) @ y.to(torch.float32)).to(torch.int32)
    return total


def _dense(x: Tensor) -> Tensor:
    """Return ``x`` as a row-major or column-major matrix.

    A single row gets the stride of its length: PyTorch's product takes any other, which means
    nothing, for a leading dimension, and leaves the result unwritten (pytorch issue 195066).
    """
    rows, columns = x.stride()
    if columns == 1 and (rows >= x.shape[1] or x.shape[0] == 1):
        return x if rows >= x.shape[1] else x.as_strided(x.shape, (x.shape[1], 1))
    if rows == 1 and columns >= x.shape[0] > 1:
        return x
    copy = x.contiguous()
    return copy.as_strided(x.shape, (x.shape[1], 1))


def _check(a: Tensor, b: Tensor) -> None:
    shapes = f"{tuple(a.shape)} and {tuple(b.shape)}"
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0]:
        raise KernelError("integer_matmul", f"shapes {shapes}", "give (M, K) and (K, N)")
    if a.dtype != torch.int8 or b.dtype != torch.int8:
        raise KernelError("integer_matmul", f"dtypes {a.dtype} and {b.dtype}", "give int8 codes")
    if a.device != b.device or a.is_meta:
        raise KernelError(
            "integer_matmul",
            f"tensors on {a.device} and {b.device}",
            "give two tensors with data on one device",
        )
