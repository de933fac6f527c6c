"""Tensors in few bytes, as real bits in whole bytes: for integer products and what autograd saves.

Integers are kept as integer codes that count a power of two, floats as the narrowest dtype that
holds every value. ``widen(round_to_codes(x, precision, key))`` is ``round_to(x, precision, key)``,
bit for bit: fixed point has no negative zero, float dtypes have one. (``io.packing`` goes further
and leaves no bit unused; it is made for files, this for speed.)
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from ..formats import (
    DynamicFixedPoint,
    DynamicFloatingPoint,
    FixedPoint,
    FloatingPoint,
    Format,
    Microscaling,
    Precision,
    ScaledFormat,
)
from . import groups
from .carrier import dtype_format, holds
from .dispatch import Backend, round_to
from .elements import scale as times_power_of_two
from .following import Following
from .native import stored
from .random import Key
from .scaled import dynamic_exponent

_FLOATS = (torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16, torch.float16)
_INTEGERS = (torch.int8, torch.uint8, torch.int16)


class Codes(NamedTuple):
    """A rounded tensor in narrow storage; ``widen`` gives its values back.

    Args:
        codes: in the shape and memory order of the tensor; ``storable`` says which dtype. Of the
            tensor's own dtype, with a scale of 1, where the values are kept as they are: a format
            without narrow storage, or fixed point that meets a NaN.
        scale: float32 (float64 for a float64 tensor), powers of two: what one code stands for.
            Without axes for one scale, else one entry a group (see ``groups``). NaN where the group
            is NaN throughout; its codes are then 0. It is 1 for scalar floating point.
        format: the format that the values are of.
        dtype: what they widen to, the dtype of the rounded tensor.
    """

    codes: Tensor
    scale: Tensor
    format: Format
    dtype: torch.dtype

    @property
    def narrow(self) -> bool:
        """Whether the values are kept as codes, not as they were."""
        return self.codes.dtype == storable(self.format)

    @property
    def nbytes(self) -> int:
        """Bytes of codes and scales."""
        return self.codes.nbytes + self.scale.nbytes


@lru_cache(maxsize=1024)
def storable(fmt: Format) -> torch.dtype | None:
    """Return the dtype that keeps the codes of a format, None where none is narrow.

    Fixed point and dynamic fixed point (a scale per tensor, channel or block): int8 up to 8 bits
    (uint8 for 8 bits unsigned), int16 up to 16. Floating point: the first of float8_e4m3fn,
    float8_e5m2, bfloat16 and float16 that has every value. Microscaling and dynamic floating point:
    what the element takes.
    Affine integers and NVFP4, whose scales are no powers of two, and formats by table: none.
    """
    if isinstance(fmt, DynamicFixedPoint | DynamicFloatingPoint | Microscaling):
        return storable(fmt.element)
    if isinstance(fmt, FixedPoint):
        for dtype in _INTEGERS:
            info = torch.iinfo(dtype)
            if info.min <= fmt.code_min and fmt.code_max <= info.max:
                return dtype
    if isinstance(fmt, FloatingPoint):
        for dtype in _FLOATS:
            if _holds(fmt, dtype):
                return dtype
    return None


def round_to_codes(
    x: Tensor, precision: Precision, key: Key | None, *, backend: Backend = Backend.AUTO
) -> Codes:
    """Round a tensor straight to narrow storage; arguments are not checked, as for ``round_to``.

    Args:
        x: floating-point tensor of any layout whose dtype carries the format.
        precision: the format and the rounding.
        key: the random key; needed for ``stochastic``, else ignored.
        backend: ``REFERENCE`` for plain PyTorch, else the fastest that is there.

    Returns:
        Codes that ``widen`` to ``round_to`` of the same arguments, bit for bit; any NaN is as good
        as another. A NaN in a tensor of fixed point has no code: the values are then kept in the
        dtype of ``x``, and so are those of a format without narrow storage, and in a graph that
        ``torch.compile`` traces all those of fixed point.
    """
    x = x.detach()
    late = isinstance(precision, Following)  # its scale is no fact of the tensor
    codes = None if late else _straight(x, precision, key, backend)
    if codes is None:
        y = round_to(x, precision, key, out=torch.empty_like(x), backend=backend)
        codes = _reference(y, precision.format)
    return Codes(y, _one(y), precision.format, y.dtype) if codes is None else codes


def to_codes(y: Tensor, fmt: Format, *, backend: Backend = Backend.AUTO) -> Codes | None:
    """Return the codes of a tensor that holds values of a format already.

    Args:
        y: what ``round_to`` made, in any layout; elements that are no values of the format give
            codes without a meaning.
        fmt: the format.
        backend: as for ``round_to_codes``.

    Returns:
        What ``round_to_codes`` gives for the tensor that ``y`` was rounded from, since the scales
        of rounded values are those they were rounded with (or finer ones, under a given ``amax``).
        None for a format without narrow storage, and where ``round_to_codes`` keeps the values.
    """
    y = y.detach()
    return _straight(y, Precision(fmt), None, backend) or _reference(y, fmt)


def widen(codes: Codes, *, backend: Backend = Backend.AUTO) -> Tensor:
    """Return the values of codes; the very tensor where they are kept as they were."""
    words, factor, fmt, dtype = codes
    if not codes.narrow:
        return words
    own = backend is Backend.AUTO and not isinstance(fmt, DynamicFloatingPoint)
    if own and stored.can_widen(words, factor, dtype):
        return stored.widen(words, factor, dtype)
    if isinstance(fmt, FloatingPoint):
        return words.to(dtype)
    one = factor.new_ones(())
    if own and stored.can_widen(words, one, factor.dtype):
        wide = stored.widen(words, one, factor.dtype)
    else:
        wide = words.to(factor.dtype)
    return _times(wide, factor, fmt).to(dtype)


def _straight(x: Tensor, precision: Precision, key: Key | None, backend: Backend) -> Codes | None:
    """Return what the native kernels make of a tensor, None where that is for others."""
    fmt, dtype = precision.format, storable(precision.format)
    if backend is not Backend.AUTO or dtype is None or not stored.can_store(x, precision, dtype):
        return None
    fixed = isinstance(fmt, FixedPoint)
    if fixed and torch.compiler.is_compiling():
        return None
    words, factor = stored.round_to_codes(x, precision, key, dtype)
    if fixed and math.isnan(factor.item()):
        return None
    return Codes(words, factor, fmt, x.dtype)


def _reference(y: Tensor, fmt: Format) -> Codes | None:
    """Return the codes of rounded values: the semantics of all the rest."""
    dtype = storable(fmt)
    if dtype is None:
        return None
    if isinstance(fmt, FloatingPoint):
        return Codes(y.to(dtype), _one(y), fmt, y.dtype)
    if isinstance(fmt, FixedPoint) and (torch.compiler.is_compiling() or bool(y.isnan().any())):
        return None
    exponent, scaled = _exponents(y, fmt)
    wide = _one(y).dtype
    least, most = (-1074, 1022) if wide == torch.float64 else (-149, 126)
    exponent = exponent.clamp(min=least)  # y has no digits below
    factor = torch.where(scaled, _power_of_two(exponent), torch.nan).to(wide)
    first = (-exponent).clamp(max=most)  # one factor alone might be too large
    values = _times(y.to(wide), _power_of_two(first).to(wide), fmt)
    if torch.compiler.is_compiling() or bool((first != -exponent).any()):
        values = _times(values, _power_of_two(-exponent - first).to(wide), fmt)
    if torch.compiler.is_compiling() or not bool(scaled.all()):
        values = values.nan_to_num(nan=0.0)
    return Codes(torch.empty_like(y, dtype=dtype).copy_(values), factor, fmt, y.dtype)


def _times(x: Tensor, entries: Tensor, fmt: Format) -> Tensor:
    return groups.times(x, entries, fmt) if isinstance(fmt, ScaledFormat) else x * entries


def _power_of_two(exponent: Tensor) -> Tensor:
    return times_power_of_two(torch.ones_like(exponent, dtype=torch.float64), exponent)


def _one(y: Tensor) -> Tensor:
    dtype = torch.float64 if y.dtype == torch.float64 else torch.float32
    return torch.ones((), dtype=dtype, device=y.device)


def _exponents(y: Tensor, fmt: Format) -> tuple[Tensor, Tensor]:
    """Return the exponent of what one code of each group stands for, and where there is one."""
    if isinstance(fmt, FixedPoint):
        whole = torch.ones((), dtype=torch.bool, device=y.device)
        return whole.to(torch.int64) * -fmt.fraction_bits, whole
    assert isinstance(fmt, DynamicFixedPoint | DynamicFloatingPoint | Microscaling)
    top = groups.amax(y, fmt).to(torch.float64)
    if isinstance(fmt, DynamicFloatingPoint):
        return -dynamic_exponent(top, fmt, y.dtype), top.isfinite()
    exponent = torch.frexp(top).exponent.to(torch.int64)
    if isinstance(fmt, DynamicFixedPoint):
        exponent = torch.where(top > 0, exponent - fmt.bits + 1, 0)
    else:
        exponent = torch.where(top > 0, (exponent - 1 - fmt.max_exponent).clamp(-127, 127), -127)
        if isinstance(fmt.element, FixedPoint):
            exponent = exponent - fmt.element.fraction_bits
    return torch.where(top.isfinite(), exponent, 0), top.isfinite()


def _holds(fmt: FloatingPoint, dtype: torch.dtype) -> bool:
    """Whether a dtype has every value of a format, infinities included."""
    memory = dtype_format(dtype, "storage")
    infinite = fmt.has_infinity and fmt.overflow == "ieee"
    return holds(fmt, memory) and (memory.has_infinity or not infinite)
