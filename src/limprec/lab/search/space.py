"""The plans that a search may choose from: a level for each role of each layer."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

from ...bounds import shortfall
from ...errors import LabError
from ...formats import Precision, parse_format
from ...plan import (
    ACCUMULATOR,
    TENSOR_ROLES,
    Group,
    LayerPlan,
    Plan,
    Rule,
    classifier_of,
    outputs_of,
)
from ...plan.roles import Roles

ROLES = ("weight", "activation", "error", "gradient")
"""What is searched; biases and the optimizer's tensors stay the reference's."""

Levels = tuple[int, ...]
"""A place in every variable's choices, in the order of ``Space.variables``."""


@dataclass(frozen=True)
class Variable:
    """One role of one layer.

    Args:
        layer: dotted name.
        role: of ``ROLES``.
        choices: the precisions it may take, narrowest first.
        start: place of the reference's precision in them.
    """

    layer: str
    role: str
    choices: tuple[Precision, ...]
    start: int

    @property
    def name(self) -> str:
        """How a study calls it."""
        return f"{self.layer}/{self.role}"


class Space:
    """The choices for one model.

    Each variable may take the formats in its reference's rounding, and the reference's own
    precision. The error of the classifier takes none that the guideline calls too narrow for the
    classes, see ``limprec.bounds.shortfall``.

    Args:
        model: not converted; it is left as it is.
        reference: the plan to start from.
        formats: names of formats.

    Raises:
        PlanError: if the plan does not fit the model.
        FormatError: for an unknown format.
        LabError: if there is nothing to choose.
    """

    def __init__(self, model: nn.Module, reference: Plan, formats: Sequence[str]) -> None:
        self.reference = reference
        self._layers = reference.resolve(model)
        last = classifier_of(model)
        outputs = 0 if last is None else outputs_of(model.get_submodule(last))
        classes = reference.num_classes or outputs
        menu = [parse_format(name) for name in formats]
        variables = []
        for name, plan in self._layers.items():
            if plan.kind.group is not Group.PRODUCT:
                continue
            for role in (r for r in ROLES if r in plan.kind.roles):
                own = plan[role]
                choices = {Precision(f, own.rounding, own.random_bits) for f in menu}
                if (name, role) == (last, "error") and classes > 1:
                    choices = {p for p in choices if not shortfall(p, classes)}
                ordered = sorted(choices | {own}, key=lambda p: (p.format.bits, str(p)))
                variables.append(Variable(name, role, tuple(ordered), ordered.index(own)))
        if all(len(variable.choices) == 1 for variable in variables):
            raise LabError("search", "the formats leave nothing to choose", "name more formats")
        self.variables = tuple(variables)
        self._menu = menu

    @property
    def start(self) -> Levels:
        """The reference."""
        return tuple(variable.start for variable in self.variables)

    def uniform(self) -> list[Levels]:
        """Return the plans of one format each, widest first.

        A variable that cannot take the format takes the next wider one it can.
        """
        plans = []
        for fmt in sorted(self._menu, key=lambda f: (-f.bits, str(f))):
            levels = []
            for variable in self.variables:
                formats = [p.format for p in variable.choices]
                if fmt in formats:
                    levels.append(formats.index(fmt))
                else:
                    wider = (i for i, f in enumerate(formats) if f.bits >= fmt.bits)
                    levels.append(next(wider, len(formats) - 1))
            plans.append(tuple(levels))
        return list(dict.fromkeys(plans))

    def precisions(self, levels: Levels) -> dict[tuple[str, str], Precision]:
        """Return (layer, role) -> precision."""
        pairs = zip(self.variables, levels, strict=True)
        return {(v.layer, v.role): v.choices[level] for v, level in pairs}

    def plan(self, levels: Levels) -> Plan:
        """Return the plan of a place: a rule for each layer, all else as in the reference."""
        if levels == self.start:
            return self.reference
        chosen = self.precisions(levels)
        rules = tuple(_rule(layer, chosen) for layer in self._layers.values())
        text = ";".join(f"{r.match} {dict(r.roles)}" for r in rules)
        return replace(
            self.reference,
            default={},
            classifier={},
            layers=rules,
            name="plan-" + hashlib.sha256(text.encode()).hexdigest()[:8],
            description=f"Found by limprec search, from {self.reference.name}.",
        )


def _rule(layer: LayerPlan, chosen: Mapping[tuple[str, str], Precision]) -> Rule:
    own = [role for role in TENSOR_ROLES if role in layer.kind.roles]
    roles: Roles = {role: chosen.get((layer.name, role), layer[role]) for role in own}
    if layer.accumulator is not None:
        roles = {**roles, ACCUMULATOR: layer.accumulator}
    return Rule(glob.escape(layer.name), layer.type, roles)


def is_narrower(one: Levels, other: Levels) -> bool:
    """Whether one plan is nowhere wider than another; true of a plan and itself."""
    return all(a <= b for a, b in zip(one, other, strict=True))


def neighbours(levels: Levels) -> list[Levels]:
    """Return the plans with one variable narrowed by one choice."""
    return [
        (*levels[:i], level - 1, *levels[i + 1 :]) for i, level in enumerate(levels) if level > 0
    ]
