"""The native backend: rounding in C++ on the CPU, on PyTorch's own threads.

The extension ``_C`` is built ahead of time by ``setup.py``; importing it registers the operators
``torch.ops.limprec.*``. Where it is missing this package still imports, and says why on request.
"""

from __future__ import annotations

import importlib

import torch
from torch import Tensor

from ...errors import KernelError
from ...formats import Precision
from ..random import Key
from .spec import Simd, pack

__all__ = ["Simd", "best_simd", "can_round", "missing", "round_to"]

REMEDY = "build it with `pip install --no-build-isolation limprec` and a C++17 compiler"

_DTYPES = frozenset({torch.float32, torch.bfloat16, torch.float16, torch.float64})


def _load() -> tuple[int, str | None]:
    """Import the extension; return its best instruction set, or why it is not there."""
    try:
        extension = importlib.import_module("._C", __name__)
    except ImportError as error:
        return 0, str(error)
    return int(extension.SIMD), None


_BEST, _MISSING = _load()


def missing() -> str | None:
    """Return why the extension cannot be used, None if it can."""
    return _MISSING


def best_simd() -> Simd:
    """Return the instruction set that ``Simd.AUTO`` stands for on this CPU."""
    return Simd(_BEST)


def can_round(x: Tensor, precision: Precision) -> bool:
    """Whether the extension is there and has a kernel for this tensor and format."""
    return (
        _MISSING is None
        and x.is_cpu
        and x.dtype in _DTYPES
        and pack(precision) is not None
    )


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
        x: a tensor for which ``can_round`` is true.
        precision: the format and the rounding.
        key: the random key; needed for ``stochastic``, else ignored.
        out: where to write; may be ``x`` itself or overlap it.
        simd: the instruction set.

    Raises:
        KernelError: if the extension is missing, or has no kernel for the tensor or format.
    """
    packed = pack(precision, simd)
    if _MISSING is not None:
        raise KernelError("native backend", f"not there ({_MISSING})", REMEDY)
    if packed is None:
        raise KernelError("native backend", f"no kernel for {precision}", "use Backend.AUTO")
    arguments = (packed,) if key is None else (packed, *_integers(key))
    if out is None:
        return torch.ops.limprec.round_to.default(x, *arguments)  # type: ignore[no-any-return]
    if out is x:
        torch.ops.limprec.round_to_.default(x, *arguments)
    else:
        torch.ops.limprec.round_to_out.default(x, out, *arguments)
    if not torch.compiler.is_compiling():
        torch.autograd.graph.increment_version(out)
    return out


def _integers(key: Key) -> tuple[int, int, int, int]:
    """Return the key as the operators take it; the seed as a signed 64-bit integer."""
    seed = key.seed if key.seed < 2**63 else key.seed - 2**64
    return seed, key.stream, key.step, key.offset


def _register_fakes() -> None:
    """Tell the compiler and the meta device what the operators return."""

    def fresh(x: Tensor, *arguments: int, **named: int) -> Tensor:
        return torch.empty_like(x)

    def nothing(*arguments: Tensor | int, **named: int) -> None:
        return None

    torch.library.register_fake("limprec::round_to", fresh)
    torch.library.register_fake("limprec::round_to_", nothing)
    torch.library.register_fake("limprec::round_to_out", nothing)


if _MISSING is None:
    _register_fakes()
