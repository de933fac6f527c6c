"""Train deep neural networks in limited precision, and know how many bits are enough.

The public names; everything is imported when it is first used, so that ``import limprec`` is fast.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import diagnosis, optim, schedule
    from .accumulation import AccumulatorBits, accumulator_bits
    from .bounds import Guideline, guideline
    from .errors import LimprecError
    from .formats import (
        DynamicFixedPoint,
        FixedPoint,
        FloatingPoint,
        Format,
        Precision,
        Rounding,
        parse_format,
        parse_precision,
    )
    from .kernels import Backend, matmul, quantize, quantize_
    from .nn import convert, restore
    from .plan import Plan

__version__ = version("limprec")

_HOME = {
    "Guideline": "bounds",
    "guideline": "bounds",
    "LimprecError": "errors",
    "DynamicFixedPoint": "formats",
    "FixedPoint": "formats",
    "FloatingPoint": "formats",
    "Format": "formats",
    "Precision": "formats",
    "Rounding": "formats",
    "parse_format": "formats",
    "parse_precision": "formats",
    "AccumulatorBits": "accumulation",
    "accumulator_bits": "accumulation",
    "Backend": "kernels",
    "matmul": "kernels",
    "quantize": "kernels",
    "quantize_": "kernels",
    "convert": "nn",
    "restore": "nn",
    "Plan": "plan",
}
_ROOMS = ("diagnosis", "optim", "schedule")

__all__ = [
    "AccumulatorBits",
    "Backend",
    "DynamicFixedPoint",
    "FixedPoint",
    "FloatingPoint",
    "Format",
    "Guideline",
    "LimprecError",
    "Plan",
    "Precision",
    "Rounding",
    "accumulator_bits",
    "convert",
    "diagnosis",
    "guideline",
    "matmul",
    "optim",
    "parse_format",
    "parse_precision",
    "quantize",
    "quantize_",
    "restore",
    "schedule",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its room on first use."""
    if name in _ROOMS:
        return import_module(f".{name}", __name__)
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return sorted([*__all__, "__version__"])
