"""Optimizer steps: update rules, how states are kept, and how updates are written back.

``rules``, ``memory`` and ``writeback`` are the semantics, ``reference`` puts them together, ``api``
is the door.
"""

from .api import step
from .batch import Batch
from .reference import Slots, computing_dtype
from .rules import SECOND_MOMENTS, states
from .spec import (
    BLOCK_DTYPES,
    STREAMS_PER_PARAMETER,
    ULP_DTYPES,
    Flag,
    Rule,
    StepKey,
    StepSpec,
    Storage,
    WriteBack,
    carry_key,
    first_stream,
)
from .writeback import carry_name, exact, first_rounding, wide

__all__ = [
    "BLOCK_DTYPES",
    "SECOND_MOMENTS",
    "STREAMS_PER_PARAMETER",
    "ULP_DTYPES",
    "Batch",
    "Flag",
    "Rule",
    "Slots",
    "StepKey",
    "StepSpec",
    "Storage",
    "WriteBack",
    "carry_key",
    "carry_name",
    "computing_dtype",
    "exact",
    "first_rounding",
    "first_stream",
    "states",
    "step",
    "wide",
]
