"""Where updates and gradients get lost."""

from .findings import Finding, Row
from .frozen import FrozenMeter, FrozenParameter
from .report import Report
from .updates import UpdateMeter
from .watching import Diagnosis, diagnose

__all__ = [
    "Diagnosis",
    "Finding",
    "FrozenMeter",
    "FrozenParameter",
    "Report",
    "Row",
    "UpdateMeter",
    "diagnose",
]
