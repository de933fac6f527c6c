"""The Triton backend: rounding on a GPU.

Triton is imported, and a kernel compiled, when it is first needed. Where Triton is missing this
package still imports, and says why on request. Under ``TRITON_INTERPRET=1``, set before the first
use, the kernels run on the CPU, slowly: that is how they are tested without a GPU.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from ...errors import KernelError
from ...formats import Precision, Rounding
from ..native import SlowBackendWarning
from ..random import Key
from .ops import ROUND, ROUND_IN_PLACE, ROUND_TO_OUT
from .spec import is_supported, text_of

__all__ = ["can_round", "missing", "round_to"]

REMEDY = "run `pip install triton` (CUDA builds of PyTorch for Linux bring theirs), or use AUTO"

_loaded: tuple[bool, str | None] | None = None
_warned = False


def loaded() -> tuple[bool, str | None]:
    """Import the kernels once; return whether they are interpreted, or why they are not there."""
    global _loaded
    if _loaded is None:
        try:
            from .launch import INTERPRETED

            _loaded = (INTERPRETED, None)
        except ImportError as error:
            _loaded = (False, str(error))
    return _loaded


def missing() -> str | None:
    """Return why Triton cannot be used, None if it can."""
    return loaded()[1]


def can_round(x: Tensor, precision: Precision) -> bool:
    """Return whether the Triton kernels take this tensor and format.

    CPU tensors only in the interpreter. Warns once, with ``SlowBackendWarning``, if a GPU's tensor
    would fit but Triton is missing.
    """
    if not is_supported(precision.format, x.dtype):
        return False
    interpreted, problem = loaded()
    if problem is not None:
        if x.is_cuda:
            warn_once(problem)
        return False
    return x.is_cuda or (interpreted and x.is_cpu)


def round_to(
    x: Tensor, precision: Precision, key: Key | None, *, out: Tensor | None = None
) -> Tensor:
    """Round as ``reference.quantize`` does, to the same bits.

    Args:
        x: a tensor of any layout whose dtype holds every value of the format, on a GPU.
        precision: the format and the rounding.
        key: the random key; needed for ``stochastic``, else ignored.
        out: where to write, of the shape and dtype of ``x``; may be ``x`` itself or overlap it.

    Raises:
        KernelError: if Triton is missing, there is no kernel for the tensor or the format, or the
            key is lacking.
    """
    problem = missing()
    if problem is not None:
        raise KernelError("triton backend", f"Triton is missing ({problem})", REMEDY)
    if not can_round(x, precision):
        problem = f"no kernel for {precision.format} in {x.dtype} on {x.device}"
        raise KernelError("triton backend", problem, "use Backend.AUTO")
    text = text_of(precision)
    arguments: tuple[int, ...] = ()
    if precision.rounding is Rounding.STOCHASTIC:
        if key is None:
            raise KernelError("triton backend", "stochastic rounding without a key", "pass Key(0)")
        arguments = key.arguments
    if out is None:
        return ROUND(x, text, *arguments)  # type: ignore[no-any-return]
    if out is x:
        ROUND_IN_PLACE(x, text, *arguments)
    else:
        ROUND_TO_OUT(x, out, text, *arguments)
    if not torch.compiler.is_compiling():  # else the compiler keeps account of what was written
        torch.autograd.graph.increment_version(out)
    return out


def warn_once(problem: str) -> None:
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(
            f"limprec: Triton is missing ({problem}); the reference computes the same, slower. To"
            f" get the kernels, {REMEDY}.",
            SlowBackendWarning,
            stacklevel=2,
        )
