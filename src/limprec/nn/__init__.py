"""Converting modules: convert, restore, and what looks into a converted model."""

from .bits import learn_bits, learnable_layers, set_bits
from .convert import convert, restore
from .discover import called, follow
from .report import ConversionReport, conversion_report
from .state import Compute, ModelState
from .tags import plan_of
from .twin import meta_copy
from .watch import RoundingEvent, layer_plan, tells, watch_roundings, without_rounding

__all__ = [
    "Compute",
    "ConversionReport",
    "ModelState",
    "RoundingEvent",
    "called",
    "conversion_report",
    "convert",
    "follow",
    "layer_plan",
    "learn_bits",
    "learnable_layers",
    "meta_copy",
    "plan_of",
    "restore",
    "set_bits",
    "tells",
    "watch_roundings",
    "without_rounding",
]
