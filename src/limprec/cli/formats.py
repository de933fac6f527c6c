"""``limprec formats``: the number formats, their facts and their short names."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .output import Json, number, print_json, print_table, print_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..formats import FixedPoint, FloatingPoint, Format

_SHOWN = 8
"""How many of a narrow format's values people get to see; ``--json`` has all of them."""


def formats(
    name: Annotated[
        str | None,
        typer.Argument(
            help="A short name, e.g. e4m3, fx8.4 or dfx8:stochastic; none lists the named formats."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """List the number formats, or tell all about one."""
    if name is None:
        _list(json)
    else:
        _show(name, json)


def _list(json: bool) -> None:
    from ..formats import GRAMMAR, NAMED_FLOATS

    if json:
        named = {name: _facts(fmt) for name, fmt in NAMED_FLOATS.items()}
        print_json({"formats": named, "grammar": GRAMMAR})
        return
    print_table(
        ("name", "bits", "exponent", "mantissa", "significant", "max", "smallest > 0"),
        [
            (
                name,
                str(fmt.bits),
                str(fmt.exponent_bits),
                str(fmt.mantissa_bits),
                str(fmt.significant_bits),
                number(fmt.max),
                number(fmt.smallest),
            )
            for name, fmt in NAMED_FLOATS.items()
        ],
        title="Formats with a name of their own",
    )
    print_text()
    print_table(
        ("short name", "means"), list(GRAMMAR.items()), title="Any other", text_columns=(0, 1)
    )


def _show(name: str, json: bool) -> None:
    from ..formats import DynamicFixedPoint, parse_precision

    precision = parse_precision(name)
    fmt = precision.format
    facts = _facts(fmt)
    if ":" in name:
        facts["rounding"] = str(precision.rounding)
    if json:
        print_json({"name": str(precision), **facts, "values": _all_values(fmt)})
        return
    rows = [(key.replace("_", " "), _cell(value)) for key, value in facts.items()]
    if values := _all_values(fmt):
        first = list(islice((v for v in values if v >= 0), _SHOWN))
        more = ", ..." if first[-1] < values[-1] else ""
        unit = " LSB" if isinstance(fmt, DynamicFixedPoint) else ""
        rows.append(("first values", ", ".join(map(number, first)) + more + unit))
        rows.append(("values", str(len(values))))
    print_table(("", ""), rows, title=str(precision), text_columns=(0, 1))


def _facts(fmt: Format) -> dict[str, Any]:
    """Return everything that a format can tell of itself, in the order to show it."""
    from ..formats import DynamicFixedPoint, FixedPoint, FloatingPoint

    if isinstance(fmt, FloatingPoint):
        return _float_facts(fmt)
    if isinstance(fmt, FixedPoint):
        return _fixed_facts(fmt)
    facts: dict[str, Any] = {"bits": fmt.bits, "significant_bits": fmt.significant_bits}
    if isinstance(fmt, DynamicFixedPoint):
        facts = {
            "kind": "dynamic fixed point",
            **facts,
            "codes": [-fmt.code_max, fmt.code_max],
            "scale": "LSB = 2^(E - bits + 1), E = floor(log2 amax) + 1, one per tensor",
        }
    return facts


def _float_facts(fmt: FloatingPoint) -> dict[str, Any]:
    from ..formats.floating import SPECIALS

    return {
        "kind": "floating point",
        "bits": fmt.bits,
        "exponent_bits": fmt.exponent_bits,
        "mantissa_bits": fmt.mantissa_bits,
        "significant_bits": fmt.significant_bits,
        "bias": fmt.bias,
        "max": fmt.max,
        "min": fmt.min,
        "smallest_normal": fmt.smallest_normal,
        "smallest": fmt.smallest,
        "epsilon": fmt.epsilon,
        "subnormals": fmt.subnormals,
        "specials": SPECIALS[fmt.specials],
        "overflow": fmt.overflow,
    }


def _fixed_facts(fmt: FixedPoint) -> dict[str, Any]:
    return {
        "kind": "fixed point",
        "bits": fmt.bits,
        "fraction_bits": fmt.fraction_bits,
        "significant_bits": fmt.significant_bits,
        "signed": fmt.signed,
        "max": fmt.max,
        "min": fmt.min,
        "smallest": fmt.smallest,
        "codes": [fmt.code_min, fmt.code_max],
        "overflow": fmt.overflow,
    }


def _all_values(fmt: Format) -> list[float] | None:
    """Return the finite values of a format of at most 8 bits, ascending; None for a wider one.

    Those of dynamic fixed point are in units of its LSB.
    """
    from ..formats import DynamicFixedPoint, FixedPoint, FloatingPoint

    if fmt.bits > 8:
        return None
    if isinstance(fmt, FixedPoint):
        return [code * fmt.lsb for code in range(fmt.code_min, fmt.code_max + 1)]
    if isinstance(fmt, DynamicFixedPoint):
        return [float(code) for code in range(-fmt.code_max, fmt.code_max + 1)]
    if isinstance(fmt, FloatingPoint):
        positive = list(_positive(fmt))
        return [*(-v for v in reversed(positive)), 0.0, *positive]
    return None


def _positive(fmt: FloatingPoint) -> Iterator[float]:
    """Yield the positive finite values of a float format, ascending."""
    steps = 1 << fmt.mantissa_bits
    if fmt.subnormals:
        yield from (k * fmt.smallest for k in range(1, steps))
    for exponent in range(fmt.min_exponent, fmt.max_exponent + 1):
        for k in range(steps):
            value = (1 + k / steps) * 2.0**exponent
            if value <= fmt.max:
                yield value


def _cell(value: Any) -> str:
    """Return a fact as people read it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value)
    if isinstance(value, list):
        return f"{value[0]} to {value[1]}"
    return str(value)
