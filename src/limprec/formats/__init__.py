"""Number formats: frozen values, their names and an exact scalar oracle. No torch here."""

from .base import Format, ScalarFormat
from .fixed import DynamicFixedPoint, FixedPoint
from .floating import NAMED_FLOATS, FloatingPoint
from .names import GRAMMAR, Precision, parse_format, parse_precision
from .rounding import Rounding, parse_rounding

__all__ = [
    "GRAMMAR",
    "NAMED_FLOATS",
    "DynamicFixedPoint",
    "FixedPoint",
    "FloatingPoint",
    "Format",
    "Precision",
    "Rounding",
    "ScalarFormat",
    "parse_format",
    "parse_precision",
    "parse_rounding",
]
