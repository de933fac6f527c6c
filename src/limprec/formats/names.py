"""Short names: what ``str(format)`` prints, ``parse_format`` reads."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from ..errors import FormatError
from .affine import Affine, ZeroPoint
from .base import Format
from .dynamic import DynamicFloatingPoint
from .fixed import DynamicFixedPoint, FixedPoint
from .floating import NAMED_FLOATS, FloatingPoint, Specials
from .groups import GROUP_PATTERN
from .microscaling import MX_ELEMENTS, NVFP4, Microscaling
from .rounding import MAX_RANDOM_BITS, Rounding, parse_rounding
from .scale import E8M0
from .table import Logarithmic, Posit, TableFormat

_FIXED = re.compile(r"(u?)fx(\d+)\.(-?\d+)(-wrap)?")
_DYNAMIC = re.compile(rf"dfx(\d+){GROUP_PATTERN}")
_FLOAT = re.compile(r"e(\d+)m(\d+)(?:b(-?\d+))?(ieee|fnuz|fn|fin|p3109)?(-nosub)?")
_BINARY = re.compile(r"binary(\d+)p(\d+)")
_OVERFLOW = re.compile(r"(.+)-(sat|ovf)")
_TAGS: dict[str, Specials] = {
    "ieee": "ieee",
    "fn": "fn",
    "fnuz": "fnuz",
    "fin": "finite",
    "p3109": "p3109",
}
_BLOCKS = re.compile(rf"({'|'.join(MX_ELEMENTS)}|nvfp4){GROUP_PATTERN}")
_AFFINE = re.compile(rf"int(\d+)([sm]?){GROUP_PATTERN}")
_ZEROS: dict[str, ZeroPoint] = {"": "integer", "s": "none", "m": "real"}
_POSIT = re.compile(r"posit(\d+)(?:es(\d))?")
_LOGARITHMIC = re.compile(r"log(\d+)\.(\d+)")
_STOCHASTIC = re.compile(r"stochastic(\d{1,3})")
_TABLE = re.compile(r"(\w+)\{(.*)\}")

GRAMMAR = {
    "fxB.F": "fixed point, B bits, F of them fraction; ufxB.F unsigned; -wrap wraps around",
    "dfxB": "dynamic fixed point, B bits, one power-of-two scale per tensor;"
    " c0 a scale per index of axis 0 (channel), b32 one per block of 32 (b32a0 along axis 0)",
    "eXmY": "floating point; bN sets the bias; fn, fnuz, fin, p3109, ieee the specials;"
    " -nosub drops subnormals; -sat or -ovf sets the overflow",
    "deXmY": "dynamic floating point: any float, one power-of-two scale per tensor (de4m3, dfp16)",
    "binaryKpP": "floating point of IEEE P3109, K bits, precision P (binary8p3)",
    "mx..., nvfp4": "blocks under one scale: " + ", ".join(MX_ELEMENTS) + ", nvfp4;"
    " b16 sets the block, a0 the axis",
    "intB": "affine integers, B bits, a float32 scale and a zero point; intBs symmetric,"
    " intBm from minimum to maximum; c0, b32 as for dfxB",
    "positB": "posit of B bits with 2 exponent bits; es1 sets those",
    "logB.F": "logarithmic numbers, B bits, F fraction bits of the logarithm",
    "LABEL{...}": "a format of one's own by its values: ternary{-1,0,1}",
    "NAME:ROUNDING": "a format and a rounding: "
    + ", ".join(Rounding)
    + "; stochastic16 with 16 random bits",
}
"""The grammar of short names, one line a family."""


def parse_format(name: str) -> Format:
    """Return the format of a short name, e.g. ``fx8.4``, ``dfx8``, ``e5m2``, ``mxfp8_e4m3``.

    The inverse of ``str``: ``parse_format(str(f)) == f`` for every format. ``e8m7`` and ``bf16``
    are equal; ``e4m3`` is OCP's e4m3fn (peak 448), ``e4m3ieee`` the IEEE layout (peak 240).

    Raises:
        FormatError: for a name that is not of the grammar, or a format that cannot exist.
    """
    if not isinstance(name, str):
        raise FormatError("parse_format", f"{name!r} is no name", f"write e.g. {_EXAMPLES}")
    return _parse(name)


@lru_cache(maxsize=1024)
def _parse(name: str) -> Format:
    text = name.strip()
    if len(text) > 1000 or not text.isascii():
        raise _unknown(text)
    if overflow := _OVERFLOW.fullmatch(text):
        base = _parse(overflow[1]) if not _OVERFLOW.fullmatch(overflow[1]) else None
        if isinstance(base, FloatingPoint):
            policy = "saturate" if overflow[2] == "sat" else "ieee"
            fields = {f: getattr(base, f) for f in base.__dataclass_fields__}
            return FloatingPoint(**{**fields, "overflow": policy})
        if isinstance(base, DynamicFloatingPoint):
            return DynamicFloatingPoint(_parse(text[1:]))  # type: ignore[arg-type]  # a float again
    if (found := _parse_plain(text)) is not None:
        return found
    raise _unknown(text)


def _parse_plain(text: str) -> Format | None:
    return _parse_float(text) or _parse_integer(text) or _parse_other(text)


def _unknown(text: str) -> FormatError:
    """Return the error for a name of no format, with the name that may have been meant."""
    shown = text if len(text) <= 40 else f"{text[:40]}..."
    hint = " (a rounding goes with parse_precision)" if ":" in text else ""
    remedy = f"write {_meant(text) or f'e.g. {_EXAMPLES}'}"
    return FormatError("parse_format", f"unknown format {shown!r}{hint}", remedy)


def _meant(text: str) -> str | None:
    """Return the short name of what another spelling names, if it is one."""
    lowered = text.lower().removeprefix("torch.")
    if lowered in _ELSEWHERE:
        return _ELSEWHERE[lowered]
    if re.fullmatch(r"u?fx\d+", lowered):
        return f"{lowered}.4 for 4 fraction bits"
    try:
        return lowered if lowered != text and _parse_plain(lowered) is not None else None
    except FormatError:
        return None


def _parse_float(text: str) -> Format | None:
    if text in NAMED_FLOATS:
        return NAMED_FLOATS[text]
    if text == "e8m0":
        return E8M0()
    if binary := _BINARY.fullmatch(text):
        bits, precision = int(binary[1]), int(binary[2])
        return FloatingPoint(bits - precision, precision - 1, specials="p3109")
    if text.startswith("d") and isinstance(element := _parse_float(text[1:]), FloatingPoint):
        return DynamicFloatingPoint(element)
    if match := _FLOAT.fullmatch(text):
        known = NAMED_FLOATS.get(f"e{int(match[1])}m{int(match[2])}")
        specials = _TAGS[match[4]] if match[4] else known.specials if known else "ieee"
        bias = int(match[3]) if match[3] else None
        return FloatingPoint(int(match[1]), int(match[2]), bias, not match[5], specials)
    return None


def _parse_integer(text: str) -> Format | None:
    if match := _FIXED.fullmatch(text):
        overflow = "wrap" if match[4] else "saturate"
        return FixedPoint(int(match[2]), int(match[3]), not match[1], overflow)  # type: ignore[arg-type]  # a str of two literals
    if match := _DYNAMIC.fullmatch(text):
        return DynamicFixedPoint(int(match[1]), *_groups(text, match))
    if match := _AFFINE.fullmatch(text):
        return Affine(int(match[1]), _ZEROS[match[2]], *_groups(text, match))
    return None


def _parse_other(text: str) -> Format | None:
    if match := _BLOCKS.fullmatch(text):
        axis, block = _groups(text, match, 16 if match[1] == "nvfp4" else 32)
        assert axis is not None
        assert block is not None
        element = MX_ELEMENTS.get(match[1])
        return Microscaling(element, block, axis) if element else NVFP4(block, axis)
    if match := _POSIT.fullmatch(text):
        return Posit(int(match[1]), int(match[2] or 2))
    if match := _LOGARITHMIC.fullmatch(text):
        return Logarithmic(int(match[1]), int(match[2]))
    if match := _TABLE.fullmatch(text):
        return TableFormat(match[1], tuple(match[2].split(",")))  # type: ignore[arg-type]  # it reads numbers
    return None


def _groups(
    text: str, match: re.Match[str], block: int | None = None
) -> tuple[int | None, int | None]:
    """Return axis and block of the end of a short name; ``block`` is the family's usual one."""
    channel, length, along = match.groups()[-3:]
    size = int(length) if length else block
    if (channel and block) or (along and size is None):
        raise FormatError(
            "parse_format",
            f"{text!r} has no such groups",
            "write c0 for a scale per index of axis 0, b32a0 for blocks along axis 0",
        )
    if channel:
        return int(channel), None
    return int(along) if along else None if size is None else -1, size


_ELSEWHERE = {
    **dict.fromkeys(("float64", "double"), "fp64"),
    **dict.fromkeys(("float32", "float", "single"), "fp32"),
    **dict.fromkeys(("float16", "half"), "fp16"),
    **dict.fromkeys(("bfloat16", "bfloat"), "bf16"),
    **dict.fromkeys(("fp8", "float8"), "e4m3 or e5m2"),
    **dict.fromkeys(("fp6", "float6"), "e3m2 or e2m3"),
    **dict.fromkeys(("fp4", "float4"), "e2m1"),
    **{f"float8_{name}": name for name in ("e5m2", "e4m3fnuz", "e5m2fnuz", "e4m3b11fnuz", "e3m4")},
    "float8_e4m3fn": "e4m3",
    "float8_e4m3": "e4m3ieee (e4m3 is OCP's, without infinities)",
    "float8_e8m0fnu": "e8m0",
    "float6_e3m2fn": "e3m2",
    "float6_e2m3fn": "e2m3",
    **dict.fromkeys(("float4_e2m1fn", "float4_e2m1fn_x2"), "e2m1"),
    "mxfp8": "mxfp8_e4m3 or mxfp8_e5m2",
    "mxfp6": "mxfp6_e3m2 or mxfp6_e2m3",
    "mxfp4": "mxfp4_e2m1",
    "uint8": "int8m, from minimum to maximum",
}
"""What PyTorch, hardware and papers call formats -> their short names, for the error message."""

_EXAMPLES = "dfx8, fx8.4, e4m3, e5m2, e8m7, bf16, fp16, fp32, mxfp8_e4m3, nvfp4 or int8"

NAMED_FORMATS: dict[str, Format] = {
    **NAMED_FLOATS,
    **{
        name: parse_format(name)
        for name in (
            *("e3m4", "e4m3ieee", "e4m3fnuz", "e5m2fnuz", "e4m3b11fnuz", "e8m0"),
            *(f"binary8p{p}" for p in range(1, 8)),
            *MX_ELEMENTS,
            *("de4m3", "de5m2"),
            *("nvfp4", "int8", "int8s", "int8m", "int4", "posit8", "posit16", "log8.3"),
        )
    },
}
"""Formats worth a line in a list: those of standards and hardware, and examples of families."""


@dataclass(frozen=True)
class Precision:
    """A format and how values are rounded to it: what a plan gives to one role of one layer."""

    format: Format
    rounding: Rounding = Rounding.NEAREST
    random_bits: int = MAX_RANDOM_BITS
    """Of each element's random word under ``stochastic``: the chance to round away from zero is
    the share of the gap, cut to so many bits. 16 or fewer cost half as much to make."""

    def __post_init__(self) -> None:
        """Refuse a number of random bits out of range, or without stochastic rounding."""
        bits, most = self.random_bits, MAX_RANDOM_BITS
        if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= most:
            raise FormatError("Precision", f"{bits!r} random bits", f"give 1 to {most}")
        if bits != most and self.rounding is not Rounding.STOCHASTIC:
            raise FormatError(
                "Precision", f"{bits} random bits with {self.rounding}", "round stochastically"
            )

    def __str__(self) -> str:
        """``dfx8``, ``dfx8:stochastic`` or ``dfx8:stochastic16``; nearest and 32 go unsaid."""
        if self.rounding is Rounding.NEAREST:
            return self.format.name
        bits = "" if self.random_bits == MAX_RANDOM_BITS else str(self.random_bits)
        return f"{self.format.name}:{self.rounding}{bits}"


def parse_precision(text: str | Format | Precision) -> Precision:
    """Return the precision of e.g. ``dfx8``, ``e5m2:stochastic`` or ``bf16:stochastic16``.

    Formats alone mean nearest; a number after ``stochastic`` is that of the random bits.

    Raises:
        FormatError: as ``parse_format``, and for an unknown rounding or number of random bits.
    """
    if isinstance(text, Precision):
        return text
    if isinstance(text, Format):
        return Precision(text)
    if not isinstance(text, str):
        raise FormatError("parse_precision", f"{text!r} is no name", f"write e.g. {_EXAMPLES}")
    name, colon, rounding = text.partition(":")
    plain = Precision(parse_format(name))
    return with_rounding(plain, rounding.strip()) if colon else plain


def with_rounding(precision: Precision, rounding: str | Rounding) -> Precision:
    """Return a precision with another rounding: a mode, or e.g. ``stochastic16``.

    Raises:
        FormatError: for an unknown rounding or number of random bits.
    """
    chosen = _STOCHASTIC.fullmatch(rounding)
    if chosen:
        return Precision(precision.format, Rounding.STOCHASTIC, int(chosen[1]))
    return Precision(precision.format, parse_rounding(rounding))
