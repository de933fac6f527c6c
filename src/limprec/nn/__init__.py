"""Converting modules: convert, restore, and what looks into a converted model."""

from .convert import convert, restore
from .report import ConversionReport, conversion_report
from .state import Compute
from .tags import plan_of
from .twin import meta_copy
from .watch import RoundingEvent, layer_plan, tells, watch_roundings, without_rounding

__all__ = [
    "Compute",
    "ConversionReport",
    "RoundingEvent",
    "conversion_report",
    "convert",
    "layer_plan",
    "meta_copy",
    "plan_of",
    "restore",
    "tells",
    "watch_roundings",
    "without_rounding",
]
