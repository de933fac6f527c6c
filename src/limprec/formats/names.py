"""Short names: what ``str(format)`` prints, ``parse_format`` reads."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from ..errors import FormatError
from .base import Format
from .fixed import DynamicFixedPoint, FixedPoint
from .floating import NAMED_FLOATS, FloatingPoint, Specials
from .rounding import Rounding, parse_rounding

_FIXED = re.compile(r"(u?)fx(\d+)\.(-?\d+)(-wrap)?")
_DYNAMIC = re.compile(r"dfx(\d+)")
_FLOAT = re.compile(r"e(\d+)m(\d+)(?:b(-?\d+))?(ieee|fnuz|fn|fin)?(-nosub)?")
_OVERFLOW = re.compile(r"(.+)-(sat|ovf)")
_TAGS: dict[str, Specials] = {"ieee": "ieee", "fn": "fn", "fnuz": "fnuz", "fin": "finite"}

GRAMMAR = {
    "fxB.F": "fixed point, B bits, F of them fraction; ufxB.F unsigned; -wrap wraps around",
    "dfxB": "dynamic fixed point, B bits, one power-of-two scale per tensor",
    "eXmY": "floating point; bN sets the bias; fn, fnuz, fin, ieee the specials;"
    " -nosub drops subnormals; -sat or -ovf sets the overflow",
    "NAME:ROUNDING": "a format and a rounding: " + ", ".join(Rounding),
}
"""The grammar of short names, one line a family."""


@lru_cache(maxsize=1024)
def parse_format(name: str) -> Format:
    """Return the format of a short name, e.g. ``fx8.4``, ``dfx8``, ``e5m2``, ``bf16``.

    The inverse of ``str``: ``parse_format(str(f)) == f`` for every format. ``e8m7`` and ``bf16``
    are equal; ``e4m3`` is OCP's e4m3fn (peak 448), ``e4m3ieee`` the IEEE layout (peak 240).

    Raises:
        FormatError: for a name that is not of the grammar, or a format that cannot exist.
    """
    if not isinstance(name, str):
        raise FormatError("parse_format", f"{name!r} is no name", f"write e.g. {_EXAMPLES}")
    text = name.strip()
    if overflow := _OVERFLOW.fullmatch(text):
        base = parse_format(overflow[1])
        if isinstance(base, FloatingPoint):
            policy = "saturate" if overflow[2] == "sat" else "ieee"
            fields = {f: getattr(base, f) for f in base.__dataclass_fields__}
            return FloatingPoint(**{**fields, "overflow": policy})
    if text in NAMED_FLOATS:
        return NAMED_FLOATS[text]
    if fixed := _FIXED.fullmatch(text):
        overflow_fixed = "wrap" if fixed[4] else "saturate"
        return FixedPoint(int(fixed[2]), int(fixed[3]), not fixed[1], overflow_fixed)  # type: ignore[arg-type]  # a str of two literals
    if dynamic := _DYNAMIC.fullmatch(text):
        return DynamicFixedPoint(int(dynamic[1]))
    if floating := _FLOAT.fullmatch(text):
        base_name = f"e{floating[1]}m{floating[2]}"
        known = NAMED_FLOATS.get(base_name)
        tag = floating[4]
        specials = _TAGS[tag] if tag else known.specials if known else "ieee"
        bias = int(floating[3]) if floating[3] else None
        return FloatingPoint(int(floating[1]), int(floating[2]), bias, not floating[5], specials)
    hint = " (a rounding goes with parse_precision)" if ":" in text else ""
    raise FormatError("parse_format", f"unknown format {name!r}{hint}", f"write e.g. {_EXAMPLES}")


_EXAMPLES = "dfx8, fx8.4, e4m3, e5m2, e8m7, bf16, fp16 or fp32"


@dataclass(frozen=True)
class Precision:
    """A format and how values are rounded to it: what a plan gives to one role of one layer."""

    format: Format
    rounding: Rounding = Rounding.NEAREST

    def __str__(self) -> str:
        """``dfx8`` or ``dfx8:stochastic``; nearest goes unsaid."""
        if self.rounding is Rounding.NEAREST:
            return self.format.name
        return f"{self.format.name}:{self.rounding}"


def parse_precision(text: str | Format | Precision) -> Precision:
    """Return the precision of e.g. ``dfx8`` or ``e5m2:stochastic``; formats mean nearest.

    Raises:
        FormatError: as ``parse_format``, and for an unknown rounding.
    """
    if isinstance(text, Precision):
        return text
    if isinstance(text, Format):
        return Precision(text)
    if not isinstance(text, str):
        raise FormatError("parse_precision", f"{text!r} is no name", f"write e.g. {_EXAMPLES}")
    name, _, rounding = text.partition(":")
    mode = parse_rounding(rounding.strip()) if rounding else Rounding.NEAREST
    return Precision(parse_format(name), mode)
