"""The door to the kernels for people: checks every argument."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from ..errors import KernelError
from ..formats import Format, Precision, Rounding, ScaledFormat, parse_precision, with_rounding
from .autograd import parse_estimator, round_through
from .carrier import check_carrier
from .dispatch import Backend, launch, native_spec, round_to
from .random import Key


def quantize(
    x: Tensor,
    fmt: str | Format | Precision,
    rounding: str | Rounding | None = None,
    *,
    seed: int | None = None,
    stream: int = 0,
    step: int = 0,
    offset: int = 0,
    amax: Tensor | float | None = None,
    out: Tensor | None = None,
    gradient: str | None = None,
    backend: Backend = Backend.AUTO,
) -> Tensor:
    """Round every element to a format; the result keeps the shape and dtype of ``x``.

    Args:
        x: float32, float64, bfloat16 or float16 tensor of any shape, empty and non-contiguous
            ones included.
        fmt: a format, a precision or a short name, e.g. ``e5m2`` or ``dfx8:stochastic``.
        rounding: the rounding mode; None takes the one in ``fmt``, else ``nearest``;
            ``stochastic16`` takes 16 random bits an element instead of 32.
        seed: for ``stochastic``, 0 to 2^64 - 1: the bits are a function of seed, stream, step and
            row-major element index alone.
        stream: one number a tensor and role, so that tensors under one seed differ.
        step: the training step.
        offset: index of the first element of ``x`` in the whole tensor that it is a shard of.
        amax: for a format with scales, the magnitude that they follow in place of the largest of
            ``x`` (a delayed scale, say): one number, or a tensor with one for each group. What
            lies beyond saturates. One for each group is computed by the reference.
        out: where to write; same shape, dtype and device as ``x``, may be ``x`` itself.
        gradient: None lets no gradient through, since rounding is flat almost everywhere;
            ``straight_through`` takes its derivative as 1, ``clipped`` as 1 inside the format's
            range and 0 beyond. Not with ``out``.
        backend: who computes.

    Returns:
        ``out``, or a new tensor. NaN stays NaN. Infinities and overflow follow the format's
        policy.

    Raises:
        FormatError: for an unknown name, or a format that the dtype of ``x`` cannot carry.
        KernelError: for a wrong dtype, a mismatched ``out``, or ``stochastic`` without a seed.
    """
    precision, spec = _checked(x, fmt, rounding)
    if (
        out is not None
        and out is not x
        and (out.shape, out.dtype, out.device) != (x.shape, x.dtype, x.device)
    ):
        raise KernelError(
            "quantize",
            f"out is {out.dtype} {tuple(out.shape)} on {out.device},"
            f" x is {x.dtype} {tuple(x.shape)} on {x.device}",
            "give an out that matches x",
        )
    key = _key(precision, seed, stream, step, offset)
    if amax is not None:
        if gradient is not None or not isinstance(precision.format, ScaledFormat):
            raise KernelError(
                "quantize",
                f"amax with {'gradient' if gradient else precision.format}",
                "give it for a format with scales, e.g. dfx8, and without gradient",
            )
        return round_to(x, precision, key, out=out, amax=amax, backend=backend)
    if gradient is not None:
        if out is not None or backend is not Backend.AUTO:
            raise KernelError("quantize", "gradient with out or backend", "leave them out")
        return round_through(x, precision, key, estimator=parse_estimator(gradient))
    return launch(x, precision, spec, key, out, backend)


def quantize_(
    x: Tensor,
    fmt: str | Format | Precision,
    rounding: str | Rounding | None = None,
    *,
    seed: int | None = None,
    stream: int = 0,
    step: int = 0,
    offset: int = 0,
    backend: Backend = Backend.AUTO,
) -> Tensor:
    """Round ``x`` in place and return it; arguments and errors as for ``quantize``."""
    precision, spec = _checked(x, fmt, rounding)
    key = _key(precision, seed, stream, step, offset)
    return launch(x, precision, spec, key, x, backend)


def resolve(fmt: str | Format | Precision, rounding: str | Rounding | None) -> Precision:
    """Join a format and an optional rounding into one precision."""
    precision = parse_precision(fmt)
    return precision if rounding is None else with_rounding(precision, rounding)


def _checked(
    x: Tensor, fmt: str | Format | Precision, rounding: str | Rounding | None
) -> tuple[Precision, int | None]:
    """Return what is asked for, if ``x`` can carry it, and its ``native_spec``."""
    if not isinstance(x, Tensor):
        raise KernelError("quantize", f"{type(x).__name__} is no tensor", "give a torch.Tensor")
    try:
        return _request(fmt, rounding, x.dtype)
    except TypeError:  # not hashable, so no name, format or precision: say so
        return resolve(fmt, rounding), None


@lru_cache(maxsize=4096)
def _request(
    fmt: str | Format | Precision, rounding: str | Rounding | None, dtype: torch.dtype
) -> tuple[Precision, int | None]:
    precision = resolve(fmt, rounding)
    check_carrier(precision.format, dtype, "quantize")
    return precision, native_spec(precision, dtype)


def _key(precision: Precision, seed: int | None, stream: int, step: int, offset: int) -> Key | None:
    """Return the random key, None where the rounding needs none."""
    if precision.rounding is not Rounding.STOCHASTIC:
        return None
    if seed is None:
        raise KernelError("quantize", "stochastic rounding without a seed", "pass seed=0, say")
    return Key(seed, stream, step, offset)
