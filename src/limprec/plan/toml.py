"""Plans as TOML text, both ways."""

from __future__ import annotations

import json
import tomllib
from typing import TYPE_CHECKING, Any

from ..errors import PlanError
from .kinds import LAYER_ROLES
from .layer import Rule
from .roles import check_known
from .scaling import Scaling

if TYPE_CHECKING:
    from .plan import Plan

VERSION = 1
_SECTIONS = ("default", "first", "classifier", "norm", "optimizer")
_KEYS = (
    "version",
    "name",
    "description",
    "num_classes",
    "hadamard",
    *_SECTIONS,
    "scaling",
    "layer",
)
_SCALING = ("loss", "tensors", "history")


def write(plan: Plan) -> str:
    """Return a plan's text, from which ``read`` and ``arguments`` make an equal plan."""
    lines = [f"version = {VERSION}", f"name = {_quoted(plan.name)}"]
    if plan.description:
        lines.append(f"description = {_quoted(plan.description)}")
    if plan.num_classes is not None:
        lines.append(f"num_classes = {plan.num_classes}")
    if plan.hadamard:
        lines.append(f"hadamard = {plan.hadamard}")
    for section in _SECTIONS:
        if roles := getattr(plan, section):
            lines += ["", f"[{section}]", *(f'{r} = "{p}"' for r, p in roles.items())]
    if plan.scaling != (usual := Scaling()):
        lines += ["", "[scaling]"]
        for key in _SCALING:
            if (value := getattr(plan.scaling, key)) != getattr(usual, key):
                lines.append(f"{key} = {json.dumps(value)}")
    for rule in plan.layers:
        lines += ["", "[[layer]]", f"match = {_quoted(rule.match)}"]
        lines += [f"type = {_quoted(rule.type)}"] if rule.type else []
        lines += [f'{r} = "{p}"' for r, p in rule.roles.items()]
    return "\n".join(lines) + "\n"


def read(text: str, source: str) -> dict[str, Any]:
    """Return what TOML text says of a plan, unchecked but for its version.

    Raises:
        PlanError: for bad TOML or another version; ``source`` names the text.
    """
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PlanError(source, f"not TOML: {error}", "mend the line it names") from None
    if raw.get("version") != VERSION:
        raise PlanError(
            source, f"version is {raw.get('version')!r}", f"write version = {VERSION} on top"
        )
    return raw


def arguments(raw: dict[str, Any]) -> dict[str, Any]:
    """Return what was read as arguments of ``Plan``.

    Raises:
        PlanError: for unknown keys, or something else where a table should be.
    """
    check_known("key", raw, _KEYS, "plan")
    for section in (*_SECTIONS, "scaling"):
        if not isinstance(raw.get(section, {}), dict):
            raise PlanError("plan", f"{section} is no table", f"write [{section}] over its entries")
    rules = raw.get("layer", [])
    if not isinstance(rules, list) or not all(isinstance(r, dict) for r in rules):
        raise PlanError("plan", "layer is no list of tables", "write [[layer]] over each rule")
    layers = []
    for rule in rules:
        check_known("key", rule, ("match", "type", *LAYER_ROLES), "[[layer]]")
        roles = {k: v for k, v in rule.items() if k in LAYER_ROLES}
        layers.append(Rule(str(rule.get("match", "*")), rule.get("type"), roles))
    scaling = raw.get("scaling", {})
    check_known("key", scaling, _SCALING, "[scaling]")
    return {
        **{section: raw.get(section, {}) for section in _SECTIONS},
        "layers": tuple(layers),
        "scaling": Scaling(**scaling),
        "hadamard": raw.get("hadamard", 0),
        "num_classes": raw.get("num_classes"),
        "name": str(raw.get("name", "plan")),
        "description": str(raw.get("description", "")),
    }


def _quoted(text: str) -> str:
    """Return a TOML basic string: JSON's escapes, and the one control that JSON leaves."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
