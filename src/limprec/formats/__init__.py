"""Number formats: frozen values, their names and an exact scalar oracle. No torch here."""

from .affine import Affine
from .base import Format, ScalarFormat
from .dynamic import DynamicFloatingPoint
from .fixed import DynamicFixedPoint, FixedPoint
from .floating import NAMED_FLOATS, FloatingPoint
from .groups import ScaledFormat
from .microscaling import MX_ELEMENTS, NVFP4, Microscaling
from .names import GRAMMAR, NAMED_FORMATS, Precision, parse_format, parse_precision, with_rounding
from .rounding import MAX_RANDOM_BITS, Rounding, parse_rounding
from .scale import E8M0
from .table import ListedFormat, Logarithmic, Posit, TableFormat

__all__ = [
    "E8M0",
    "GRAMMAR",
    "MAX_RANDOM_BITS",
    "MX_ELEMENTS",
    "NAMED_FLOATS",
    "NAMED_FORMATS",
    "NVFP4",
    "Affine",
    "DynamicFixedPoint",
    "DynamicFloatingPoint",
    "FixedPoint",
    "FloatingPoint",
    "Format",
    "ListedFormat",
    "Logarithmic",
    "Microscaling",
    "Posit",
    "Precision",
    "Rounding",
    "ScalarFormat",
    "ScaledFormat",
    "TableFormat",
    "parse_format",
    "parse_precision",
    "parse_rounding",
    "with_rounding",
]
