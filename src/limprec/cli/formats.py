"""``limprec formats``: the number formats, their facts and their short names."""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .output import Json, is_terminal, number, print_json, print_table, print_text

if TYPE_CHECKING:
    from ..formats import Format

_SHOWN = 16
"""How many of a narrow format's values people get to see; ``--json`` has all of them."""
_DERIVED = (
    *("max", "min", "smallest_normal", "smallest", "epsilon", "lsb", "code_min", "code_max"),
    *("has_infinity", "has_nan", "has_negative_zero", "scale", "scale_rule"),
)
"""What a format derives from its fields, shown where it has it."""


def formats(
    name: Annotated[
        str | None,
        typer.Argument(
            help="A short name, e.g. e4m3, fx8.4 or dfx8:stochastic; none lists the named formats."
        ),
    ] = None,
    vectors: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Print this many test vectors for hardware: input, random word, output in hex.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the test vectors.")] = 0,
    json: Json = False,
) -> None:
    """List the number formats, tell all about one, or print its test vectors."""
    if name is None:
        if vectors is not None:
            raise typer.BadParameter("give a format, e.g. limprec formats e4m3 --vectors 100")
        _list(json)
    elif vectors is not None:
        if json:
            raise typer.BadParameter("--vectors prints lines, not JSON; leave one of them out")
        _vectors(name, vectors, seed)
    else:
        _show(name, json)


def _list(json: bool) -> None:
    from ..formats import GRAMMAR, NAMED_FORMATS, ScalarFormat

    if json:
        named = {name: facts(fmt) for name, fmt in NAMED_FORMATS.items()}
        print_json({"formats": named, "grammar": GRAMMAR})
        return
    rows = []
    for name, fmt in NAMED_FORMATS.items():
        reach = (
            (number(fmt.max), number(fmt.smallest)) if isinstance(fmt, ScalarFormat) else ("", "")
        )
        rows.append((name, kind(fmt), str(fmt.bits), str(fmt.significant_bits), *reach))
    print_table(
        ("name", "kind", "bits", "significant", "max", "smallest > 0"),
        rows,
        title="Formats with a name of their own",
        text_columns=(0, 1),
    )
    print_text()
    print_table(
        ("short name", "means"), list(GRAMMAR.items()), title="Any other", text_columns=(0, 1)
    )
    print_text()
    print_text("limprec formats NAME tells all about one and draws its number line.")


def _show(name: str, json: bool) -> None:
    from ..formats import Rounding, ScalarFormat, ScaledFormat, parse_precision
    from .numberline import BLOCKS, PLAIN, number_line

    precision = parse_precision(name)
    fmt = precision.format
    told = facts(fmt)
    if ":" in name:
        told["rounding"] = str(precision.rounding)
    if precision.rounding is Rounding.STOCHASTIC:
        told["random_bits"] = precision.random_bits
    values = _values(fmt)
    if json:
        print_json({"name": str(precision), **told, "values": values})
        return
    rows = [(key.replace("_", " "), _cell(value)) for key, value in told.items()]
    if values:
        rows.append(("values", _listed(values)))
    print_table(("", ""), rows, title=str(precision), text_columns=(0, 1))
    if values and len(values) > 1:
        unit = " of an element, before its scale" if isinstance(fmt, ScaledFormat) else ""
        assert isinstance(fmt, ScalarFormat | ScaledFormat)
        print_text()
        print_text(f"Number line{unit} (height: how many values)", heading=True)
        for line in number_line(values, heights=BLOCKS if is_terminal() else PLAIN):
            print_text(line)


def _vectors(name: str, count: int, seed: int) -> None:
    from ..formats import parse_precision
    from .vectors import vectors

    for line in vectors(parse_precision(name), count, seed):
        sys.stdout.write(line + "\n")


def kind(fmt: Format) -> str:
    """Return the family of a format in words."""
    from ..formats import Posit, TableFormat

    words = {Posit: "posit", TableFormat: "table of values"}
    if type(fmt) in words:
        return words[type(fmt)]
    return {
        "FloatingPoint": "floating point",
        "FixedPoint": "fixed point",
        "DynamicFixedPoint": "dynamic fixed point",
        "DynamicFloatingPoint": "dynamic floating point",
        "Microscaling": "MX blocks",
        "NVFP4": "NVFP4 blocks",
        "Affine": "affine integers",
        "E8M0": "power of two",
        "Logarithmic": "logarithmic",
    }.get(type(fmt).__name__, type(fmt).__name__)


def facts(fmt: Format) -> dict[str, Any]:
    """Return everything that a format can tell of itself, in the order to show it."""
    from ..formats.floating import SPECIALS

    told: dict[str, Any] = {"kind": kind(fmt), "bits": fmt.bits}
    told["significant_bits"] = fmt.significant_bits
    for field in dataclasses.fields(fmt):  # type: ignore[arg-type]  # every format is a dataclass
        value = getattr(fmt, field.name)
        if field.name == "specials":
            value = f"{value}: {SPECIALS[value]}"
        if value is not None and field.name not in ("bits", "values", "name"):
            told["zero_point" if field.name == "zero" else field.name] = value
    if (element := getattr(fmt, "element", None)) is not None:
        told["element"] = element
    for name in _DERIVED:
        value = getattr(fmt, name, None)
        if value is not None:
            told.setdefault(name, value)
    plain = (bool, int, float, str)
    return {key: v if isinstance(v, plain) else str(v) for key, v in told.items()}


def _values(fmt: Format) -> list[float] | None:
    """Return the finite values of a format (or of its elements) of at most 8 bits."""
    from ..formats import DynamicFixedPoint, ScalarFormat, ScaledFormat

    element = fmt.element if isinstance(fmt, ScaledFormat) else fmt
    if not isinstance(element, ScalarFormat) or element.bits > 8:
        return None
    values = element.values()
    if isinstance(fmt, DynamicFixedPoint):  # its codes are symmetric, one fewer than the element's
        return [v for v in values if abs(v) <= fmt.code_max]
    return list(values)


def _listed(values: list[float]) -> str:
    """Return how many values there are, and all of them or the first from 0 up and the last."""
    if len(values) <= _SHOWN:
        return f"{len(values)}: {', '.join(map(number, values))}"
    first = [v for v in values if v >= 0][: _SHOWN // 2]
    more = f", ..., {number(values[-1])}" if first[-1] < values[-1] else ""
    return f"{len(values)}, from 0 up: {', '.join(map(number, first))}{more}"


def _cell(value: Any) -> str:
    """Return a fact as people read it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value)
    return str(value)
