"""Energy of one multiplication, addition or memory access, by an energy table.

A width without an entry is **fitted**: adders grow linearly in the bits of the word, multipliers
with the area of their array, the product of the two significand widths (bits for integers, mantissa
bits + 1 for floats). The one factor is a least-squares fit through the origin over the table's
entries of that kind (integer or float), and an estimate is held between the entries of the next
narrower and the next wider unit, so that fewer bits never cost more than a printed figure says.
An entry is used as it is when every operand has that very format or width.

Formats whose elements share scales (dynamic fixed point, affine integers, MX, NVFP4) are multiplied
as their elements; the scales' own arithmetic, once a block, is not counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ..errors import CostError
from ..formats import FixedPoint, FloatingPoint, Format, ScaledFormat, parse_format
from .tables import HOROWITZ_45NM, KILO, EnergyTable, energy_table, parse_unit

DRAM = "DRAM"
_FP32 = parse_format("fp32")
_INT32 = FixedPoint(32, 0)
_BYTES_OF_AN_ACCESS = 8


class Unit(NamedTuple):
    """Energy of one operation in pJ, and the unit: ``multiply int8``."""

    picojoules: float
    name: str
    fitted: bool


def multiply_energy(a: Format, b: Format, table: EnergyTable | str = HOROWITZ_45NM) -> float:
    """Return the energy of one multiplication of two numbers, in pJ.

    An integer times a float takes the float multiplier of the wider significand.

    Args:
        a: format of one operand.
        b: format of the other.
        table: a table or its name.

    Raises:
        CostError: for a format without a rule, or a table without an entry of the kind.
    """
    return multiplier(a, b, energy_table(table)).picojoules


def add_energy(accumulator: Format, table: EnergyTable | str = HOROWITZ_45NM) -> float:
    """Return the energy of one addition into an accumulator, in pJ.

    Args:
        accumulator: format of the sum.
        table: a table or its name.

    Raises:
        CostError: for a format without a rule, or a table without an entry of the kind.
    """
    return adder(accumulator, energy_table(table)).picojoules


def mac_energy(
    a: Format,
    b: Format,
    accumulator: Format | None = None,
    table: EnergyTable | str | Path = HOROWITZ_45NM,
) -> float:
    """Return the energy of one multiply-add, in pJ: a product and its addition to a sum.

    Args:
        a: format of one operand.
        b: format of the other.
        accumulator: format of the sum; None means int32 for products of integers, else fp32.
        table: a table or its name.

    Raises:
        CostError: for a format without a rule, or a table without an entry of the kind.
    """
    table = energy_table(table)
    product = multiplier(a, b, table)
    return product.picojoules + adder(accumulator or sum_format(a, b), table).picojoules


def sum_format(a: Format, b: Format) -> Format:
    """Return what products of two formats are added in: int32 for integers, else fp32."""
    return _INT32 if _is_integer(a) and _is_integer(b) else _FP32


def multiplier(a: Format, b: Format, table: EnergyTable) -> Unit:
    """Return the multiplier of two formats; see ``multiply_energy``."""
    a, b = _element(a), _element(b)
    if isinstance(a, FixedPoint) and isinstance(b, FixedPoint):
        width = a.bits if a.bits == b.bits else None
        label = f"multiply int{a.bits}" + ("" if width else f" x int{b.bits}")
        return _integer(table, "multiply", a.bits * b.bits, width, label)
    if isinstance(a, FloatingPoint) and isinstance(b, FloatingPoint):
        area = a.significant_bits * b.significant_bits
        same = _same_unit(a, b)
        label = f"multiply {a}" + ("" if same else f" x {b}")
        return _float(table, "multiply", area, a if same else None, label)
    if isinstance(a, FixedPoint):
        a, b = b, a
    if isinstance(a, FloatingPoint) and isinstance(b, FixedPoint):
        if a.significant_bits >= b.significant_bits:
            return multiplier(a, a, table)
        area = b.significant_bits**2
        return _float(table, "multiply", area, None, f"multiply {a} x int{b.bits}")
    raise _no_rule("multiply_energy", b if isinstance(a, FixedPoint | FloatingPoint) else a)


def adder(accumulator: Format, table: EnergyTable) -> Unit:
    """Return the adder of a format; see ``add_energy``."""
    fmt = _element(accumulator)
    if isinstance(fmt, FixedPoint):
        return _integer(table, "add", fmt.bits, fmt.bits, f"add int{fmt.bits}")
    if isinstance(fmt, FloatingPoint):
        return _float(table, "add", fmt.bits, fmt, f"add {fmt}")
    raise _no_rule("add_energy", fmt)


def level_for(nbytes: float, table: EnergyTable) -> str:
    """Return the smallest memory that holds a tensor whole, else ``DRAM``.

    Args:
        nbytes: size of the tensor.
        table: its ``sram`` gives the sizes there are.
    """
    sizes = [size for size in sorted(table.sram) if size >= nbytes]
    return level_name(sizes[0]) if sizes else DRAM


def level_name(size: int) -> str:
    """Return the name of an on-chip memory by its bytes: ``SRAM 8 KB``."""
    for unit, scale in (("MB", KILO**2), ("KB", KILO)):
        if size % scale == 0:
            return f"SRAM {size // scale} {unit}"
    return f"SRAM {size} B"


def access_energy(level: str, table: EnergyTable) -> float:
    """Return the energy of reading or writing one byte, in pJ.

    Off the chip it is the middle of the range that the table gives; a write is taken to cost what
    a read does, since the sources print reads alone.

    Args:
        level: ``DRAM``, or a memory of the table such as ``SRAM 32 KB``.
        table: the table.

    Raises:
        CostError: for a level that the table does not have.
    """
    if level == DRAM and table.dram is not None:
        return sum(table.dram) / 2 / _BYTES_OF_AN_ACCESS
    for size, energy in table.sram.items():
        if level_name(size) == level:
            return energy / _BYTES_OF_AN_ACCESS
    known = [level_name(size) for size in sorted(table.sram)] + [DRAM] * bool(table.dram)
    raise CostError(
        "energy",
        f"table {table.name!r} has no memory {level!r}",
        "use " + ", ".join(known) if known else "add sram or dram to it",
    )


def _element(fmt: Format) -> Format:
    return fmt.element if isinstance(fmt, ScaledFormat) else fmt


def _is_integer(fmt: Format) -> bool:
    return isinstance(_element(fmt), FixedPoint)


def _integer(table: EnergyTable, kind: str, size: int, width: int | None, label: str) -> Unit:
    """Return the entry of an integer unit of that ``width``, else the estimate at ``size``."""
    entries = {
        bits: energy
        for name, energy in getattr(table, kind).items()
        if isinstance(bits := parse_unit(table.name, name), int)
    }
    if width is not None and width in entries:
        return Unit(float(entries[width]), label, fitted=False)
    sizes = [(bits if kind == "add" else bits**2, energy) for bits, energy in entries.items()]
    return _estimate(table, f"{kind} int", size, sizes, label)


def _float(
    table: EnergyTable, kind: str, size: int, unit: FloatingPoint | None, label: str
) -> Unit:
    """Return the entry of a float ``unit``, else the estimate at ``size``."""
    entries = [
        (fmt, energy)
        for name, energy in getattr(table, kind).items()
        if isinstance(fmt := parse_unit(table.name, name), FloatingPoint)
    ]
    for fmt, energy in entries:
        if unit is not None and _same_unit(fmt, unit):
            return Unit(float(energy), label, fitted=False)
    sizes = [
        (fmt.bits if kind == "add" else fmt.significant_bits**2, energy) for fmt, energy in entries
    ]
    return _estimate(table, f"{kind} float", size, sizes, label)


def _estimate(
    table: EnergyTable, kind: str, size: int, entries: Iterable[tuple[int, float]], label: str
) -> Unit:
    """Fit energy = k * size by least squares; stay between the neighbouring entries."""
    points = list(entries)
    if not points:
        raise CostError(
            "energy", f"table {table.name!r} has no entry '{kind}...'", f"add {label!r} to it"
        )
    if not table.fit:
        raise CostError(
            "energy",
            f"table {table.name!r} has no entry {label!r} and says fit = false",
            "add the entry, or let it be fitted",
        )
    slope = math.fsum(x * y for x, y in points) / math.fsum(x * x for x, _ in points)
    narrower = [y for x, y in points if x < size]
    wider = [y for x, y in points if x > size]
    value = float(max([min([slope * size, *wider]), *narrower]))
    return Unit(value, label, fitted=True)


def _same_unit(a: FloatingPoint, b: FloatingPoint) -> bool:
    """Whether one unit computes both: bias and policies do not change its size."""
    return (a.exponent_bits, a.mantissa_bits) == (b.exponent_bits, b.mantissa_bits)


def _no_rule(operation: str, fmt: object) -> CostError:
    shown = str(fmt) if isinstance(fmt, Format) else repr(fmt)
    return CostError(
        operation, f"no rule for {shown}", "use fixed point, floating point or their blocks"
    )
