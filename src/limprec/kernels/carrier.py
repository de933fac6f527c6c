"""Which dtypes can carry which formats: a carrier must hold every value exactly."""

from __future__ import annotations

import math
import operator
from functools import lru_cache

import torch

from ..errors import FormatError, KernelError
from ..formats import DynamicFloatingPoint, FloatingPoint, Format, ScalarFormat, parse_format

STORAGE_FORMATS: dict[torch.dtype, FloatingPoint] = {
    dtype: fmt
    for dtype, name in {
        torch.float64: "fp64",
        torch.float32: "fp32",
        torch.bfloat16: "bf16",
        torch.float16: "fp16",
    }.items()
    if isinstance(fmt := parse_format(name), FloatingPoint)
}
"""The format that a dtype stores; each of these dtypes is also a carrier."""

_DTYPE_FORMATS: dict[torch.dtype, FloatingPoint] = STORAGE_FORMATS | {
    dtype: fmt
    for dtype, name in {torch.float8_e4m3fn: "e4m3", torch.float8_e5m2: "e5m2"}.items()
    if isinstance(fmt := parse_format(name), FloatingPoint)
}


def storage_format(dtype: torch.dtype, operation: str) -> FloatingPoint:
    """Return the format of a dtype.

    Raises:
        KernelError: if the dtype is no carrier.
    """
    try:
        return STORAGE_FORMATS[dtype]
    except KeyError:
        raise KernelError(
            operation,
            f"{dtype} carries no formats",
            "use float32, float64, bfloat16 or float16",
        ) from None


def dtype_format(dtype: torch.dtype, operation: str) -> FloatingPoint:
    """Return the format of what a dtype keeps in memory: a carrier's, or that of a float8 dtype.

    Raises:
        KernelError: for another dtype.
    """
    try:
        return _DTYPE_FORMATS[dtype]
    except KeyError:
        raise KernelError(
            operation,
            f"{dtype} keeps no format",
            "use float32, float64, bfloat16, float16, float8_e4m3fn or float8_e5m2",
        ) from None


def check_carrier(fmt: Format, dtype: torch.dtype, operation: str) -> None:
    """Refuse a carrier that cannot hold every value of a format.

    Raises:
        FormatError: if ``fmt`` has more significant bits, larger or smaller values than ``dtype``.
        KernelError: if the dtype is no carrier at all.
    """
    storage_format(dtype, operation)
    check_holds(fmt, dtype, operation)


@lru_cache(maxsize=1024)
def check_holds(fmt: Format, dtype: torch.dtype, operation: str) -> None:
    """Refuse a dtype that cannot keep every value of a format; as ``check_carrier``, and float8."""
    carrier = dtype_format(dtype, operation)
    short = str(dtype).removeprefix("torch.")
    problem = None
    if fmt.significant_bits > carrier.significant_bits:
        needs, has = fmt.significant_bits, carrier.significant_bits
        problem = f"{fmt} has {needs} significant bits, {short} carries {has}"
    elif isinstance(fmt, ScalarFormat):
        if max(fmt.max, -fmt.min) > carrier.max:
            problem = f"{fmt} reaches {max(fmt.max, -fmt.min):.4g}, {short} only {carrier.max:.4g}"
        elif fmt.smallest < carrier.smallest:
            problem = f"{fmt} starts at {fmt.smallest:.4g}, {short} at {carrier.smallest:.4g}"
    elif isinstance(fmt, DynamicFloatingPoint) and operator.gt(*_exponents(fmt, carrier)):
        problem = f"{fmt} spans more than {short}, whatever its scale"
    if problem:
        wider = [
            str(d).removeprefix("torch.")
            for d in (torch.float32, torch.float64)
            if d != dtype and holds(fmt, STORAGE_FORMATS[d])
        ]
        remedy = f"use a {wider[0]} carrier" if wider else "choose a narrower format"
        raise FormatError(operation, problem, remedy)


def exponents_within(fmt: DynamicFloatingPoint, dtype: torch.dtype) -> tuple[int, int]:
    """Return the least and the largest k for which a dtype has every value of ``fmt.at(k)``."""
    return _exponents(fmt, STORAGE_FORMATS[dtype])


@lru_cache(maxsize=1024)
def _exponents(fmt: DynamicFloatingPoint, carrier: FloatingPoint) -> tuple[int, int]:
    least = -DynamicFloatingPoint(carrier).exponent(fmt.element.max)
    return least, math.frexp(fmt.element.smallest)[1] - math.frexp(carrier.smallest)[1]


def is_identity(fmt: Format, dtype: torch.dtype) -> bool:
    """Whether rounding to ``fmt`` leaves every value of ``dtype`` as it is."""
    carrier = STORAGE_FORMATS.get(dtype)
    return (
        carrier is not None
        and isinstance(fmt, FloatingPoint)
        and fmt.overflow == "ieee"
        and fmt.has_infinity
        and fmt.has_negative_zero
        and fmt.subnormals
        and fmt.mantissa_bits >= carrier.mantissa_bits
        and fmt.max >= carrier.max
        and fmt.smallest <= carrier.smallest
    )


def holds(fmt: Format, carrier: FloatingPoint) -> bool:
    """Whether a carrier has every finite value of ``fmt``, but for the range of shared scales."""
    if fmt.significant_bits > carrier.significant_bits:
        return False
    if isinstance(fmt, DynamicFloatingPoint):
        least, most = _exponents(fmt, carrier)
        return least <= most
    if not isinstance(fmt, ScalarFormat):
        return True
    reach = max(fmt.max, -fmt.min)
    return math.isfinite(reach) and reach <= carrier.max and fmt.smallest >= carrier.smallest
