"""The native backend: rounding in C++ on the CPU, on PyTorch's own threads.

The extension ``_C`` is built ahead of time by ``setup.py``; importing it registers the operators
``torch.ops.limprec.*``. Where it is missing this package still imports, and says why on request.
"""

from __future__ import annotations

import importlib
import warnings
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...errors import KernelError
from ...formats import Format, Precision, Rounding, ScaledFormat
from ..groups import group_shape
from ..random import Key
from .spec import Simd, has_kernel, pack

__all__ = [
    "Simd",
    "SlowBackendWarning",
    "best_simd",
    "can_round",
    "fits",
    "launch",
    "missing",
    "pack",
    "round_to",
    "round_within",
]

REMEDY = (
    "install a C++17 compiler and run `pip install --no-build-isolation --no-cache-dir"
    " --force-reinstall --no-deps limprec` where PyTorch 2.10 or later is installed"
)
_DTYPES = frozenset({torch.float32, torch.bfloat16, torch.float16, torch.float64})


class SlowBackendWarning(UserWarning):
    """The native kernels are missing, so the reference computes: same bits, many times slower."""


def _load() -> tuple[int, str | None]:
    """Import the extension; return its best instruction set, or why it is not there."""
    try:
        extension = importlib.import_module("._C", __name__)
    except ImportError as error:
        return Simd.AUTO, str(error)
    here = Path(__file__).parent
    requests = b"".join((here / name).read_bytes() for name in ("spec.py", "steps.py", "stored.py"))
    if getattr(extension, "STAMP", None) != zlib.crc32(requests):
        return Simd.AUTO, "it was built from other sources than these"
    return int(extension.SIMD), None


_BEST, _MISSING = _load()
_warned = False


def missing() -> str | None:
    """Return why the extension cannot be used, None if it can."""
    return _MISSING


def best_simd() -> Simd:
    """Return the instruction set that ``Simd.AUTO`` stands for on this CPU."""
    return Simd(_BEST)


def can_round(x: Tensor, precision: Precision) -> bool:
    """Return whether the native kernels take this tensor and format.

    Warns once, with ``SlowBackendWarning``, if they would but the extension is missing.
    """
    taken = x.is_cpu and fits(x.dtype, precision.format)
    if taken and _MISSING is not None:
        warn_once()
        return False
    return taken


def fits(dtype: torch.dtype, fmt: Format) -> bool:
    """Return whether there are kernels for a format in CPU tensors of a dtype."""
    return dtype in _DTYPES and has_kernel(fmt)


def round_to(
    x: Tensor,
    precision: Precision,
    key: Key | None,
    *,
    out: Tensor | None = None,
    simd: Simd = Simd.AUTO,
) -> Tensor:
    """Round as ``reference.quantize`` does, to the same bits.

    Args:
        x: a CPU tensor of any layout whose dtype holds every value of the format.
        precision: the format and the rounding.
        key: the random key; needed for ``stochastic``, else ignored.
        out: where to write; may be ``x`` itself or overlap it.
        simd: the instruction set.

    Raises:
        KernelError: if the extension is missing, has no kernel for the tensor or the format, or
            lacks the key.
    """
    return launch(x, pack(precision, simd), precision, key, out)


def round_within(
    x: Tensor, precision: Precision, key: Key | None, amax: float, *, out: Tensor | None = None
) -> Tensor:
    """Round as ``reference.quantize`` does when it is given one ``amax`` for all groups.

    Args:
        x: as for ``round_to``.
        precision: of a format with scales.
        key: as for ``round_to``.
        amax: what the scales follow, not negative.
        out: as for ``round_to``.

    Raises:
        KernelError: as ``round_to``.
    """
    out = torch.empty_like(x) if out is None else out
    return launch(x, pack(precision), precision, key, out, amax)


def launch(
    x: Tensor,
    spec: int,
    precision: Precision,
    key: Key | None,
    out: Tensor | None,
    amax: float | None = None,
) -> Tensor:
    """``round_to`` with the request already packed. An ``amax`` wants an ``out``."""
    if _MISSING is not None:
        raise KernelError("native backend", f"the extension is missing ({_MISSING})", REMEDY)
    operators = _PLAIN
    arguments: tuple[int, ...] = (spec,)
    if precision.rounding is Rounding.STOCHASTIC:
        if key is None:
            raise KernelError("native backend", "stochastic rounding without a key", "pass Key(0)")
        operators = _KEYED
        arguments = (spec, *key.arguments)
    try:
        if out is None:
            return operators.fresh(x, *arguments)  # type: ignore[no-any-return]
        if amax is not None:
            operators.within(x, out, amax, *arguments)
        elif out is x:
            operators.in_place(x, *arguments)
        else:
            operators.into(x, out, *arguments)
    except (NotImplementedError, RuntimeError) as error:
        if can_round(x, precision):
            if isinstance(precision.format, ScaledFormat):
                group_shape(x.shape, precision.format)  # says what is wrong with the axis
            raise
        problem = f"no kernel for {precision.format} in {x.dtype} on {x.device}"
        raise KernelError("native backend", problem, "use Backend.AUTO") from error
    if not torch.compiler.is_compiling():  # else the compiler keeps account of what was written
        torch.autograd.graph.increment_version(out)
    return out


def warn_once() -> None:
    """Warn, the first time, that the reference computes for want of the extension."""
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(
            f"limprec: the native kernels are missing ({_MISSING}); the reference computes the"
            f" same, many times slower. To get them, {REMEDY}.",
            SlowBackendWarning,
            stacklevel=2,
        )


def _register_fakes() -> None:
    """Tell the compiler and the meta device what the operators return."""

    def fresh(x: Tensor, *arguments: int, **named: int) -> Tensor:
        return torch.empty_like(x)

    def nothing(*arguments: object, **named: object) -> None:
        return None

    for key in ("", ".keyed"):
        torch.library.register_fake(f"limprec::round_to{key}", fresh)
        for name in ("round_to_", "round_to_out", "round_within"):
            torch.library.register_fake(f"limprec::{name}{key}", nothing)
    torch.library.register_fake("limprec::step_", nothing)


class _Operators(NamedTuple):
    fresh: Any
    in_place: Any
    into: Any
    within: Any


def _operators(overload: str) -> _Operators:
    names = ("round_to", "round_to_", "round_to_out", "round_within")
    return _Operators(*(getattr(getattr(torch.ops.limprec, name), overload) for name in names))


_PLAIN = _KEYED = _Operators(None, None, None, None)
if _MISSING is None:
    _register_fakes()
    _PLAIN, _KEYED = _operators("default"), _operators("keyed")
