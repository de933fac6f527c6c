"""The precision plan: which role of which layer runs in which format and rounding."""

from __future__ import annotations

import difflib
import json
import tomllib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import nn

from .bounds import shortfall, widen
from .errors import GuidelineWarning, LimprecError, PlanError
from .files import write_text
from .formats import Format, Precision, parse_precision

VERSION = 1
LAYER_ROLES = ("weight", "activation", "error", "gradient", "bias")
"""Tensors of one layer: Qw, Qa, Qe and Qg of the design, and the bias."""
OPTIMIZER_ROLES = ("momentum", "compensation")
"""Tensors that the optimizer keeps beside a parameter."""
AUTO = "auto"
"""Asks the guideline for the bits; the classifier's ``error`` alone may say so."""

LAYER_TYPES: dict[type[nn.Module], str] = {nn.Linear: "Linear", nn.Conv2d: "Conv2d"}
"""Layers that a plan speaks of, with the type names that its rules use."""

Roles = Mapping[str, Precision | str]
FP32 = parse_precision("fp32")


@dataclass(frozen=True)
class Rule:
    """Precisions for the layers whose name and type match.

    Args:
        match: glob over the layer's dotted name, e.g. ``conv*`` or ``*.attn.*``.
        type: type name (``Linear``, ``Conv2d``), or None for any.
        roles: role -> precision; the roles that are left out keep what they had.
    """

    match: str
    type: str | None
    roles: Roles

    def matches(self, name: str, type_name: str) -> bool:
        """Whether the rule speaks of that layer."""
        return fnmatchcase(name, self.match) and self.type in (None, type_name)


@dataclass(frozen=True)
class LayerPlan:
    """What one layer of one model runs in: every role resolved."""

    name: str
    type: str
    weight: Precision
    activation: Precision
    error: Precision
    gradient: Precision
    bias: Precision

    def __getitem__(self, role: str) -> Precision:
        """Return the precision of a role."""
        precision: Precision = getattr(self, role)
        return precision


@dataclass(frozen=True)
class Plan:
    """A frozen plan. Of two rules the more specific wins: layer over classifier over default.

    Args:
        default: roles of every layer; a role left out is fp32.
        classifier: roles of the last layer that replace the default's; ``error = "auto"`` widens
            the default error to what the guideline advises for the number of classes and the
            error's rounding.
        layers: rules by name and type; two of them that give one role of one layer different
            precisions are an error.
        optimizer: precisions of ``momentum`` and ``compensation``; a role left out takes the
            parameter's format.
        num_classes: classes of the softmax for ``auto``; None takes the classifier's outputs.
        name: a short name for tables and reports.
        description: one or two sentences, with the source of the plan.

    Raises:
        PlanError: for unknown roles, or ``auto`` where it has no meaning.
    """

    default: Roles = field(default_factory=dict)
    classifier: Roles = field(default_factory=dict)
    layers: tuple[Rule, ...] = ()
    optimizer: Mapping[str, Precision] = field(default_factory=dict)
    num_classes: int | None = None
    name: str = "plan"
    description: str = ""

    def __post_init__(self) -> None:
        """Parse the names of formats and freeze the mappings."""
        clean = {
            "default": _parse_roles("[default]", self.default, LAYER_ROLES),
            "classifier": _parse_roles("[classifier]", self.classifier, LAYER_ROLES, auto=True),
            "optimizer": _parse_roles("[optimizer]", self.optimizer, OPTIMIZER_ROLES),
            "layers": tuple(
                replace(r, roles=_parse_roles(f"[[layer]] {r.match!r}", r.roles, LAYER_ROLES))
                for r in self.layers
            ),
        }
        for key, value in clean.items():
            object.__setattr__(self, key, value)
        if self.num_classes is not None and (
            not isinstance(self.num_classes, int) or self.num_classes < 2
        ):
            raise PlanError("plan", f"num_classes is {self.num_classes!r}", "give 2 or more")

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
        **roles: str | Format | Precision,
    ) -> Plan:
        """Give every layer one format.

        Args:
            fmt: format of weights, activations, errors, gradients, momentum and compensation.
            classifier: None for the same as the others, ``auto`` to widen its error by the
                guideline, or a precision for all its roles, e.g. ``fp32``.
            num_classes: see ``Plan``.
            **roles: single roles that differ, e.g. ``error="dfx8:stochastic"``; biases are fp32
                unless ``bias=`` says otherwise.

        Raises:
            PlanError: for an unknown role.
            FormatError: for an unknown format or rounding.
        """
        _known_roles("Plan.uniform", roles, LAYER_ROLES + OPTIMIZER_ROLES)
        precision = parse_precision(fmt)
        given = {role: roles.get(role, precision) for role in LAYER_ROLES if role != "bias"}
        if "bias" in roles:
            given["bias"] = roles["bias"]
        last: dict[str, Any] = {}
        if classifier == AUTO:
            last = {"error": AUTO}
        elif classifier is not None:
            last = dict.fromkeys(LAYER_ROLES, classifier)
        return cls(
            default=given,  # type: ignore[arg-type]  # parsed in __post_init__
            classifier=last,
            optimizer={role: roles.get(role, precision) for role in OPTIMIZER_ROLES},  # type: ignore[misc]
            num_classes=num_classes,
            name=str(precision),
        )

    def resolve(self, model: nn.Module) -> dict[str, LayerPlan]:
        """Return the precision of every role of every layer, in module order.

        Warns (``GuidelineWarning``) if the last layer's error is narrower than the guideline's
        least for its classes; a last layer that feeds no softmax may ignore that.

        Raises:
            PlanError: if the model has no layer to speak of, a rule matches none, two rules
                contradict each other, or ``auto`` finds no number of classes.
        """
        layers = find_layers(model)
        if not layers:
            known = ", ".join(LAYER_TYPES.values())
            raise PlanError("plan", "the model has no layer to convert", f"it needs one of {known}")
        for rule in self.layers:
            if not any(rule.matches(name, kind_of(layer)) for name, layer in layers.items()):
                wanted = f"type {rule.type} " if rule.type else ""
                raise PlanError(
                    "plan",
                    f"rule {rule.match!r} {wanted}matches no layer",
                    "the layers are " + ", ".join(_shorten(list(layers))),
                )
        last = list(layers)[-1]
        plans = {name: self._layer(name, layer, name == last) for name, layer in layers.items()}
        self._warn(plans[last], layers[last])
        return plans

    def _warn(self, plan: LayerPlan, layer: nn.Module) -> None:
        """Warn if the last layer's error has fewer bits than its classes need."""
        classes = self.num_classes or outputs_of(layer)
        if classes < 2 or not (short := shortfall(plan.error, classes)):
            return
        warnings.warn(
            f"plan {self.name}: the error of {plan.name!r}, the last layer, loses half of the"
            f' softmax\'s gradient: {short}; set error = "auto" in [classifier], or round it'
            " stochastically",
            GuidelineWarning,
            stacklevel=3,
        )

    def _layer(self, name: str, layer: nn.Module, is_last: bool) -> LayerPlan:
        roles: dict[str, Precision | str] = {**dict.fromkeys(LAYER_ROLES, FP32), **self.default}
        if is_last:
            roles.update(self.classifier)
        given: dict[str, Rule] = {}
        for rule in self.layers:
            if not rule.matches(name, kind_of(layer)):
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
        if roles["error"] == AUTO:
            base = self.default.get("error", FP32)
            assert isinstance(base, Precision)
            classes = self.num_classes or outputs_of(layer)
            roles["error"] = widen(base, classes)
        return LayerPlan(name, kind_of(layer), **roles)  # type: ignore[arg-type]

    def table(self, model: nn.Module) -> str:
        """Return, as text, layer by layer what runs in what."""
        rows: list[tuple[str, ...]] = [("layer", "type", *LAYER_ROLES)]
        rows += [
            (layer.name, layer.type, *(str(layer[r]) for r in LAYER_ROLES))
            for layer in self.resolve(model).values()
        ]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
        kept = (f"{r} {self.optimizer.get(r, 'as the parameter')}" for r in OPTIMIZER_ROLES)
        return "\n".join(line.rstrip() for line in [*lines, f"optimizer: {', '.join(kept)}"])

    def to_toml(self) -> str:
        """Return the text that ``save`` writes and ``from_toml`` reads."""
        lines = [f"version = {VERSION}", f"name = {_quoted(self.name)}"]
        if self.description:
            lines.append(f"description = {_quoted(self.description)}")
        if self.num_classes is not None:
            lines.append(f"num_classes = {self.num_classes}")
        for section in ("default", "classifier", "optimizer"):
            if roles := getattr(self, section):
                lines += ["", f"[{section}]", *(f'{r} = "{p}"' for r, p in roles.items())]
        for rule in self.layers:
            lines += ["", "[[layer]]", f"match = {_quoted(rule.match)}"]
            lines += [f"type = {_quoted(rule.type)}"] if rule.type else []
            lines += [f'{r} = "{p}"' for r, p in rule.roles.items()]
        return "\n".join(lines) + "\n"

    @classmethod
    def from_toml(cls, text: str, source: str = "plan") -> Plan:
        """Read a plan from TOML text; ``source`` names it in errors.

        Raises:
            PlanError: for bad TOML, another version, or unknown keys, roles and formats.
        """
        try:
            raw = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise PlanError(source, f"not TOML: {error}", "mend the line it names") from None
        if raw.get("version") != VERSION:
            raise PlanError(
                source, f"version is {raw.get('version')!r}", f"write version = {VERSION} on top"
            )
        try:
            return cls._from_dict(raw)
        except LimprecError as error:
            raise PlanError(source, f"{error.operation}: {error.problem}", error.remedy) from None

    @classmethod
    def _from_dict(cls, raw: dict[str, Any]) -> Plan:
        keys = (
            "version", "name", "description", "num_classes",
            "default", "classifier", "optimizer", "layer",
        )  # fmt: skip
        _known("key", raw, keys, "plan")
        for section in ("default", "classifier", "optimizer"):
            if not isinstance(raw.get(section, {}), dict):
                remedy = f"write [{section}] over its roles"
                raise PlanError("plan", f"{section} is no table", remedy)
        rules = raw.get("layer", [])
        if not isinstance(rules, list) or not all(isinstance(r, dict) for r in rules):
            raise PlanError("plan", "layer is no list of tables", "write [[layer]] over each rule")
        layers = []
        for rule in rules:
            _known("key", rule, ("match", "type", *LAYER_ROLES), "[[layer]]")
            roles = {k: v for k, v in rule.items() if k in LAYER_ROLES}
            kind = rule.get("type")
            if kind is not None and kind not in LAYER_TYPES.values():
                raise PlanError(
                    "[[layer]]", f"unknown type {kind!r}", "use " + ", ".join(LAYER_TYPES.values())
                )
            layers.append(Rule(str(rule.get("match", "*")), kind, roles))
        return cls(
            default=raw.get("default", {}),
            classifier=raw.get("classifier", {}),
            layers=tuple(layers),
            optimizer=raw.get("optimizer", {}),
            num_classes=raw.get("num_classes"),
            name=str(raw.get("name", "plan")),
            description=str(raw.get("description", "")),
        )

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


def ready_plans() -> dict[str, Path]:
    """Return name -> file of the plans that come with the package."""
    return {p.stem: p for p in sorted((Path(__file__).parent / "plans").glob("*.toml"))}


def find_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return name -> layer of the layers that a plan speaks of, in module order."""
    return {n: m for n, m in model.named_modules() if any(isinstance(m, t) for t in LAYER_TYPES)}


def kind_of(layer: nn.Module) -> str:
    """Return the type name by which rules call a layer."""
    return next(name for kind, name in LAYER_TYPES.items() if isinstance(layer, kind))


def outputs_of(layer: nn.Module) -> int:
    """Return how many outputs (classes, at the classifier) a layer has."""
    return layer.out_features if isinstance(layer, nn.Linear) else int(layer.out_channels)  # type: ignore[arg-type]


def _parse_roles(
    place: str, roles: Roles, known: tuple[str, ...], *, auto: bool = False
) -> Mapping[str, Precision | str]:
    """Check the role names and parse the precisions, in the order of ``known``."""
    _known_roles(place, roles, known)
    parsed: dict[str, Precision | str] = {}
    for role in (r for r in known if r in roles):
        if roles[role] == AUTO:
            if not (auto and role == "error"):
                raise PlanError(
                    place, f"{role} = 'auto'", "only the error of [classifier] can be 'auto'"
                )
            parsed[role] = AUTO
            continue
        try:
            parsed[role] = parse_precision(roles[role])
        except LimprecError as error:
            raise PlanError(f"{place} {role}", error.problem, error.remedy) from None
    return MappingProxyType(parsed)


def _known_roles(place: str, roles: Mapping[str, Any], known: tuple[str, ...]) -> None:
    _known("role", roles, known, place)


def _known(what: str, given: Mapping[str, Any], known: tuple[str, ...], place: str) -> None:
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else "use " + ", ".join(known)
            raise PlanError(place, f"unknown {what} {key!r}", hint)


def _quoted(text: str) -> str:
    """Return a TOML basic string: JSON's escapes, and the one control that JSON leaves."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _shorten(names: list[str], most: int = 12) -> list[str]:
    return names if len(names) <= most else [*names[:most], f"and {len(names) - most} more"]
