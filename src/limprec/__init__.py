"""Train deep neural networks in limited precision, and know how many bits are enough.

The public names; everything is imported when it is first used, so that ``import limprec`` is fast.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import costs, diagnosis, optim, schedule
    from .accumulation import AccumulatorBits, accumulator_bits
    from .bounds import Guideline, guideline
    from .costs import Cost, cost
    from .diagnosis import Diagnosis, diagnose
    from .errors import LimprecError
    from .formats import (
        NVFP4,
        Affine,
        DynamicFixedPoint,
        DynamicFloatingPoint,
        FixedPoint,
        FloatingPoint,
        Format,
        Logarithmic,
        Microscaling,
        Posit,
        Precision,
        Rounding,
        TableFormat,
        parse_format,
        parse_precision,
    )
    from .io import Packed, pack, unpack
    from .kernels import Backend, DelayedScale, matmul, quantize, quantize_
    from .nn import ConversionReport, conversion_report, convert, restore
    from .optim import loss_scaler
    from .plan import Plan

__version__ = version("limprec")

_HOME = {
    "Guideline": "bounds",
    "guideline": "bounds",
    "LimprecError": "errors",
    **dict.fromkeys(("DynamicFixedPoint", "DynamicFloatingPoint"), "formats"),
    "FixedPoint": "formats",
    "FloatingPoint": "formats",
    "Format": "formats",
    **dict.fromkeys(("Affine", "Logarithmic", "Microscaling", "NVFP4", "Posit"), "formats"),
    "TableFormat": "formats",
    "Precision": "formats",
    "Rounding": "formats",
    "parse_format": "formats",
    "parse_precision": "formats",
    **dict.fromkeys(("Cost", "cost"), "costs"),
    **dict.fromkeys(("Diagnosis", "diagnose"), "diagnosis"),
    "AccumulatorBits": "accumulation",
    "accumulator_bits": "accumulation",
    "Backend": "kernels",
    "DelayedScale": "kernels",
    **dict.fromkeys(("Packed", "pack", "unpack"), "io"),
    "matmul": "kernels",
    "quantize": "kernels",
    "quantize_": "kernels",
    **dict.fromkeys(("ConversionReport", "conversion_report", "convert", "restore"), "nn"),
    "loss_scaler": "optim",
    "Plan": "plan",
}
_ROOMS = ("costs", "diagnosis", "optim", "schedule")

__all__ = [
    "NVFP4",
    "AccumulatorBits",
    "Affine",
    "Backend",
    "ConversionReport",
    "Cost",
    "DelayedScale",
    "Diagnosis",
    "DynamicFixedPoint",
    "DynamicFloatingPoint",
    "FixedPoint",
    "FloatingPoint",
    "Format",
    "Guideline",
    "LimprecError",
    "Logarithmic",
    "Microscaling",
    "Packed",
    "Plan",
    "Posit",
    "Precision",
    "Rounding",
    "TableFormat",
    "accumulator_bits",
    "conversion_report",
    "convert",
    "cost",
    "costs",
    "diagnose",
    "diagnosis",
    "guideline",
    "loss_scaler",
    "matmul",
    "optim",
    "pack",
    "parse_format",
    "parse_precision",
    "quantize",
    "quantize_",
    "restore",
    "schedule",
    "unpack",
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
