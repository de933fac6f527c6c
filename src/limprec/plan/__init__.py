"""Plans: which role of which layer runs in which format and rounding."""

from .accumulator import Accumulator, parse_accumulator
from .kinds import (
    ACCUMULATOR,
    KINDS,
    LAYER_ROLES,
    TENSOR_ROLES,
    Group,
    Kind,
    can_classify,
    classifier_of,
    find_kinds,
    find_layers,
    kind_of,
    outputs_of,
)
from .layer import STORED, Call, LayerPlan, Rule
from .plan import BESIDE_ROLES, OPTIMIZER_ROLES, Plan, format_table, ready_plans
from .roles import AUTO, FP32
from .scaling import DELAYED, DYNAMIC, Scaling

__all__ = [
    "ACCUMULATOR",
    "AUTO",
    "BESIDE_ROLES",
    "DELAYED",
    "DYNAMIC",
    "FP32",
    "KINDS",
    "LAYER_ROLES",
    "OPTIMIZER_ROLES",
    "STORED",
    "TENSOR_ROLES",
    "Accumulator",
    "Call",
    "Group",
    "Kind",
    "LayerPlan",
    "Plan",
    "Rule",
    "Scaling",
    "can_classify",
    "classifier_of",
    "find_kinds",
    "find_layers",
    "format_table",
    "kind_of",
    "outputs_of",
    "parse_accumulator",
    "ready_plans",
]
