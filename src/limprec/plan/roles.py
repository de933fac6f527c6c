"""The sections of a plan: role -> precision, checked and parsed."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from types import MappingProxyType

from ..errors import LimprecError, PlanError
from ..formats import Precision, parse_precision
from .accumulator import Accumulator, parse_accumulator
from .kinds import ACCUMULATOR

AUTO = "auto"
"""Asks the guideline for the bits; the classifier's ``error`` alone may say so."""
FP32 = parse_precision("fp32")

Roles = Mapping[str, Precision | Accumulator | str]


def parse_roles(
    place: str, roles: Roles, known: Collection[str], *, auto: bool = False
) -> Mapping[str, Precision | Accumulator | str]:
    """Check the names of roles and parse what they get, in the order of ``known``.

    Raises:
        PlanError: for an unknown role, ``auto`` where it has no meaning (``auto`` says where it
            has), or a format that cannot be read; the message names the place.
    """
    check_known("role", roles, known, place)
    parsed: dict[str, Precision | Accumulator | str] = {}
    for role in (r for r in known if r in roles):
        if roles[role] == AUTO:
            if not (auto and role == "error"):
                raise PlanError(
                    place, f"{role} = 'auto'", "only the error of [classifier] can be 'auto'"
                )
            parsed[role] = AUTO
            continue
        try:
            given = roles[role]
            if role == ACCUMULATOR:
                parsed[role] = parse_accumulator(given)  # type: ignore[arg-type]  # refuses others
            else:
                parsed[role] = parse_precision(given)  # type: ignore[arg-type]  # likewise
        except LimprecError as error:
            raise PlanError(f"{place} {role}", error.problem, error.remedy) from None
    return MappingProxyType(parsed)


def check_known(what: str, given: Collection[str], known: Collection[str], place: str) -> None:
    """Refuse names that are not known, with the nearest one that is.

    Raises:
        PlanError: for the first unknown name.
    """
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(key, list(known), 1)
            hint = f"did you mean {near[0]!r}?" if near else "use " + ", ".join(known)
            raise PlanError(place, f"unknown {what} {key!r}", hint)
