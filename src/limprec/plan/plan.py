"""The precision plan: which role of which layer runs in which format and rounding."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from ..bounds import shortfall, widen
from ..errors import GuidelineWarning, LimprecError, PlanError
from ..files import write_text
from ..formats import Format, Precision, parse_precision
from . import toml
from .accumulator import Accumulator
from .kinds import (
    ACCUMULATOR,
    KINDS,
    LAYER_ROLES,
    TENSOR_ROLES,
    Group,
    Kind,
    can_classify,
    find_kinds,
    outputs_of,
)
from .layer import STORED, Call, LayerPlan, Rule
from .roles import AUTO, FP32, Roles, check_known, parse_roles
from .scaling import DELAYED, Scaling

BESIDE_ROLES = ("momentum", "compensation")
"""Tensors that the optimizer keeps beside a parameter."""
OPTIMIZER_ROLES = (STORED, *BESIDE_ROLES)
"""What a plan says of the optimizer."""


@dataclass(frozen=True)
class Plan:
    """A frozen plan.

    Of two entries the more specific wins: rule over classifier over first over default. The
    sections ``default``, ``first`` and ``classifier`` speak of what multiplies or looks up (linear
    layers, convolutions, embeddings, recurrent layers, attention, matrix products), ``norm`` of
    normalisations; what no entry speaks of is fp32, which leaves float32 as it is.

    Args:
        default: roles of every layer; a role left out is fp32.
        first: roles of the first layer that replace the default's.
        classifier: roles of the last layer that replace the default's; ``error = "auto"`` widens
            the default error to what the guideline advises for the number of classes and the
            error's rounding.
        norm: roles of normalisations.
        layers: rules by name and type; two of them that give one role of one layer different
            precisions are an error.
        optimizer: precisions of ``momentum`` and ``compensation``, which take the parameter's
            format where they are left out, and of ``parameter``: how weights that the plan rounds
            are kept between steps, left out as ``weight`` says.
        scaling: scales of the loss and of tensors.
        hadamard: size of the blocks, a power of two, in which both operands of a weight gradient's
            product are multiplied by one random orthogonal matrix of +-1 before block formats
            round them (the product stays, outliers are spread); 0 for not.
        num_classes: classes of the softmax for ``auto``; None takes the classifier's outputs.
        name: a short name for tables and reports.
        description: one or two sentences, with the source of the plan.

    Raises:
        PlanError: for unknown roles or types, or ``auto`` where it has no meaning.
    """

    default: Roles = field(default_factory=dict)
    classifier: Roles = field(default_factory=dict)
    layers: tuple[Rule, ...] = ()
    optimizer: Mapping[str, Precision] = field(default_factory=dict)
    num_classes: int | None = None
    name: str = "plan"
    description: str = ""
    first: Roles = field(default_factory=dict)
    norm: Roles = field(default_factory=dict)
    scaling: Scaling = field(default_factory=Scaling)
    hadamard: int = 0

    def __post_init__(self) -> None:
        """Parse the names of formats and freeze the mappings."""
        clean: dict[str, Any] = {
            "default": parse_roles("[default]", self.default, LAYER_ROLES),
            "first": parse_roles("[first]", self.first, LAYER_ROLES),
            "classifier": parse_roles("[classifier]", self.classifier, LAYER_ROLES, auto=True),
            "norm": parse_roles("[norm]", self.norm, TENSOR_ROLES),
            "optimizer": parse_roles("[optimizer]", self.optimizer, OPTIMIZER_ROLES),
            "layers": tuple(
                replace(r, roles=parse_roles(f"[[layer]] {r.match!r}", r.roles, LAYER_ROLES))
                for r in self.layers
            ),
        }
        for key, value in clean.items():
            object.__setattr__(self, key, value)
        for rule in self.layers:
            if rule.type is not None:
                check_known("type", [rule.type], KINDS, "[[layer]]")
        if self.num_classes is not None and (
            not isinstance(self.num_classes, int) or self.num_classes < 2
        ):
            raise PlanError("plan", f"num_classes is {self.num_classes!r}", "give 2 or more")
        size = self.hadamard
        if not isinstance(size, int) or size < 0 or size & (size - 1) or size == 1:
            raise PlanError("plan", f"hadamard is {size!r}", "give 0 or a power of two from 2 up")

    def __hash__(self) -> int:
        """Hash by the text that ``save`` writes."""
        return hash(self.to_toml())

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        """Pickle as TOML: frozen mappings do not pickle."""
        return Plan.from_toml, (self.to_toml(),)

    def __deepcopy__(self, memo: object) -> Plan:
        """A frozen value is its own copy."""
        return self

    @classmethod
    def uniform(
        cls,
        fmt: str | Format | Precision,
        *,
        classifier: str | None = None,
        num_classes: int | None = None,
        **roles: str | Format | Precision | Accumulator,
    ) -> Plan:
        """Give every layer one format.

        Args:
            fmt: format of weights, activations, errors, gradients, momentum and compensation.
            classifier: None for the same as the others, ``auto`` to widen its error by the
                guideline, or a precision for all its tensors, e.g. ``fp32``.
            num_classes: see ``Plan``.
            **roles: single roles that differ, e.g. ``error="dfx8:stochastic"``; biases are fp32,
                sums PyTorch's and parameters kept as ``weight`` says unless ``bias=``,
                ``accumulator=`` and ``parameter=`` say otherwise.

        Raises:
            PlanError: for an unknown role.
            FormatError: for an unknown format or rounding.
        """
        check_known("role", roles, LAYER_ROLES + OPTIMIZER_ROLES, "Plan.uniform")
        precision = parse_precision(fmt)
        given = {role: roles.get(role, precision) for role in TENSOR_ROLES if role != "bias"}
        given |= {role: roles[role] for role in ("bias", ACCUMULATOR) if role in roles}
        kept = {role: roles.get(role, precision) for role in BESIDE_ROLES}
        kept |= {STORED: roles[STORED]} if STORED in roles else {}
        last: dict[str, Any] = {}
        if classifier == AUTO:
            last = {"error": AUTO}
        elif classifier is not None:
            last = dict.fromkeys(TENSOR_ROLES, classifier)
        return cls(
            default=given,  # type: ignore[arg-type]  # parsed in __post_init__
            classifier=last,
            optimizer=kept,  # type: ignore[arg-type]  # likewise
            num_classes=num_classes,
            name=str(precision),
        )

    def resolve(
        self, model: nn.Module, calls: Sequence[Call] = (), last: str | None = None
    ) -> dict[str, LayerPlan]:
        """Return the precision of every role of every layer: modules in their order, then calls.

        Warns (``GuidelineWarning``) if the last layer's error is narrower than the guideline's
        least for its classes; a last layer that feeds no softmax may ignore that.

        Args:
            model: converted or not; it is not run.
            calls: functions that it calls, from a trace; without them only modules are spoken of,
                and rules on names with a ``/`` are not held against them.
            last: name of the classifier; None takes the last linear or convolution module.

        Raises:
            PlanError: if the model has no layer to speak of, a rule on a name matches none (one on
                a type alone may), a rule names a role that none of its layers has, two rules
                contradict each other, or ``auto`` finds no number of classes.
        """
        found = {name: (kind, outputs_of(module)) for name, module, kind in find_kinds(model)}
        found |= {call.name: (call.kind, call.outputs) for call in calls}
        products = [n for n, (kind, _) in found.items() if kind.group is Group.PRODUCT]
        if not products and not (found and (self.norm or self.layers)):
            raise PlanError(
                "plan",
                "the model has no layer to convert",
                "it needs a module that multiplies, or give example_inputs to find its functions",
            )
        last = last or next((n for n in reversed(products) if can_classify(found[n][0])), None)
        self._check_rules({name: kind for name, (kind, _) in found.items()}, bool(calls))
        plans = {}
        for name, (kind, outputs) in found.items():
            sections = [self.norm] if kind.group is Group.NORM else []
            if kind.group is Group.PRODUCT:
                sections = [self.default]
                sections += [self.first] if name == products[0] else []
                sections += [self.classifier] if name == last else []
            plans[name] = self._layer(name, kind, outputs, sections)
        if last is not None:
            self._warn(plans[last], found[last][1])
        return plans

    def layer(self, call: Call) -> LayerPlan:
        """Return what a function runs in that was first seen in a forward pass.

        Raises:
            PlanError: if two rules contradict each other.
        """
        sections = {Group.PRODUCT: [self.default], Group.NORM: [self.norm]}
        return self._layer(call.name, call.kind, call.outputs, sections.get(call.kind.group, []))

    def unmatched(self, names: Mapping[str, Kind]) -> list[Rule]:
        """Return the rules on names that match none of these layers."""
        named = (rule for rule in self.layers if rule.is_named)
        return [r for r in named if not any(r.matches(n, k) for n, k in names.items())]

    def _check_rules(self, found: Mapping[str, Kind], with_calls: bool) -> None:
        for rule in self.unmatched(found):
            if "/" in rule.match and not with_calls:
                continue  # judged once the functions are known
            if near := [n for n, k in found.items() if Rule(rule.match, k.name, {}).matches(n, k)]:
                kinds = dict.fromkeys(found[n].name for n in near)
                remedy = f"{near[0]!r} is of type " + ", ".join(kinds) + ": add type to the rule"
            else:
                remedy = "the layers are " + ", ".join(_shorten(list(found)))
                if not with_calls:
                    remedy += "; give example_inputs if it speaks of a function"
            raise PlanError("plan", f"{rule} matches no layer", remedy)
        for rule in self.layers:
            matched = {n: k for n, k in found.items() if rule.matches(n, k)}
            for role in rule.roles if matched else ():
                if not any(role in kind.roles for kind in matched.values()):
                    name, kind = next(iter(matched.items()))
                    raise PlanError(
                        "plan",
                        f"{rule} gives {role} to {name!r}, and {kind.name} has none",
                        "it has " + ", ".join(kind.roles),
                    )

    def _warn(self, plan: LayerPlan, outputs: int) -> None:
        """Warn if the last layer's error has fewer bits than its classes need."""
        classes = self.num_classes or outputs
        if classes < 2 or not (short := shortfall(plan.error, classes)):
            return
        warnings.warn(
            f"plan {self.name}: the error of {plan.name!r}, the last layer, loses half of the"
            f' softmax\'s gradient: {short}; set error = "auto" in [classifier], or round it'
            " stochastically",
            GuidelineWarning,
            stacklevel=3,
        )

    def _layer(self, name: str, kind: Kind, outputs: int, sections: list[Roles]) -> LayerPlan:
        roles: dict[str, Precision | Accumulator | str] = {}
        for section in sections:
            roles.update(section)
        given: dict[str, Rule] = {}
        for rule in self.layers:
            if not rule.matches(name, kind):
                continue
            for role, precision in rule.roles.items():
                if role in given and given[role].roles[role] != precision:
                    raise PlanError(
                        "plan",
                        f"layer {name!r} gets {role} {given[role].roles[role]} from"
                        f" {given[role].match!r} and {precision} from {rule.match!r}",
                        "narrow one of the two rules",
                    )
                given[role] = rule
                roles[role] = precision
        if roles.get("error") == AUTO:
            base = self.default.get("error", FP32)
            assert isinstance(base, Precision)
            roles["error"] = widen(self.scaling.of(base), self.num_classes or outputs)
        own = {
            role: self.scaling.of(p) if isinstance(p, Precision) else p
            for role, p in roles.items()
            if role in kind.roles
        }
        return LayerPlan(name, kind.name, **own)  # type: ignore[arg-type]  # precisions by role

    def table(self, model: nn.Module, calls: Sequence[Call] = (), last: str | None = None) -> str:
        """Return, as text, layer by layer what runs in what; arguments as for ``resolve``.

        ``-`` stands for a role that the kind of layer does not have, and for PyTorch's own sums.
        """
        return format_table(self, self.resolve(model, calls, last))

    def to_toml(self) -> str:
        """Return the text that ``save`` writes and ``from_toml`` reads."""
        return toml.write(self)

    @classmethod
    def from_toml(cls, text: str, source: str = "plan") -> Plan:
        """Read a plan from TOML text; ``source`` names it in errors.

        Raises:
            PlanError: for bad TOML, another version, or unknown keys, roles and formats.
        """
        raw = toml.read(text, source)
        try:
            return cls(**toml.arguments(raw))
        except LimprecError as error:
            raise PlanError(source, f"{error.operation}: {error.problem}", error.remedy) from None

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read a plan from a TOML file, or a ready plan by its bare name, e.g. ``dfx8``.

        Raises:
            PlanError: if the file is missing or wrong; the message names it.
        """
        ready = ready_plans()
        if str(path) in ready:
            path = ready[str(path)]
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not a text file"
            remedy = "give a TOML file or a ready plan: " + ", ".join(ready)
            raise PlanError("plan", f"cannot read {path}: {reason}", remedy) from None
        return cls.from_toml(text, str(path))

    def save(self, path: str | Path) -> None:
        """Write the plan as TOML, whole or not at all."""
        write_text(path, self.to_toml())


def format_table(plan: Plan, layers: Mapping[str, LayerPlan]) -> str:
    """Return resolved layers as a table, with a column for each role that a layer differs in."""
    roles = list(TENSOR_ROLES)
    roles += [ACCUMULATOR] if any(p.accumulator for p in layers.values()) else []
    rows: list[tuple[str, ...]] = [("layer", "type", *roles)]
    rows += [(p.name or ".", p.type, *map(p.shown, roles)) for p in layers.values()]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
    kept = [f"parameter {plan.optimizer[STORED]}"] if STORED in plan.optimizer else []
    kept += [f"{r} {plan.optimizer.get(r, 'as the parameter')}" for r in BESIDE_ROLES]
    lines.append(f"optimizer: {', '.join(kept)}")
    if plan.scaling != Scaling():
        scaling = plan.scaling
        late = f" by {scaling.history} forwards" if scaling.tensors == DELAYED else ""
        lines.append(f"scaling: loss {scaling.loss}, tensors {scaling.tensors}{late}")
    if plan.hadamard:
        lines.append(f"rotations: Hadamard, in blocks of {plan.hadamard}")
    return "\n".join(line.rstrip() for line in lines)


def ready_plans() -> dict[str, Path]:
    """Return name -> file of the plans that come with the package."""
    return {p.stem: p for p in sorted((Path(__file__).parents[1] / "plans").glob("*.toml"))}


def _shorten(names: list[str], most: int = 12) -> list[str]:
    return names if len(names) <= most else [*names[:most], f"and {len(names) - most} more"]
