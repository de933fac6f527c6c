"""Energy per operation, in picojoules: published tables, and a rule for widths between.

The entries are the ones of the two sources below, for whole arithmetic units in one process. A
width without an entry is **estimated**: adders grow linearly in the bits of the word, multipliers
with the area of their array, the product of the two significand widths (bits for integers, mantissa
bits + 1 for floats). The one factor is a least-squares fit through the origin over the table's
entries of that kind (integer or float), and an estimate is held between the entries of the next
narrower and the next wider unit, so that fewer bits never cost more than a printed figure says.
An entry is used as it is when every operand has that very format or width.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from ..errors import CostError, FormatError
from ..formats import DynamicFixedPoint, FixedPoint, FloatingPoint, Format, parse_format

FixedFormat = FixedPoint | DynamicFixedPoint
_INTEGER = re.compile(r"int([1-9]\d{0,2})")
_FP32 = FloatingPoint(8, 23)


def _parse_unit(table: str, name: str) -> int | FloatingPoint:
    """Return the bits of ``int8``, or the format of ``fp16``."""
    if integer := _INTEGER.fullmatch(name):
        return int(integer[1])
    try:
        fmt = parse_format(name)
    except FormatError:
        fmt = None
    if not isinstance(fmt, FloatingPoint):
        raise CostError(
            f"energy table {table!r}", f"{name!r} is no unit", "write e.g. int8, fp16, bf16 or e4m3"
        )
    return fmt


def _check_energy(table: str, entry: str, energy: float) -> None:
    if (
        isinstance(energy, bool)
        or not isinstance(energy, int | float)
        or not (math.isfinite(energy) and energy > 0)
    ):
        raise CostError(
            f"energy table {table!r}", f"{entry} is {energy!r}", "give a positive number of pJ"
        )


@dataclass(frozen=True)
class EnergyTable:
    """Energy per operation in one process, in pJ.

    Args:
        name: short name, e.g. ``45nm``.
        source: where the figures are printed.
        add: energy of one addition by number format: ``int8``, ``int32``, ``bf16``, ``fp32``, ...
        multiply: energy of one multiplication, by the same names.
        sram: energy of reading 64 bits, by the bytes of the memory.
        dram: lowest and highest energy of reading 64 bits outside the chip.
        approximate: entries known second hand, as ``multiply int8`` or ``sram 8192`` or ``dram``.

    Raises:
        CostError: for a name that is no number format or an energy that is no positive number.
    """

    name: str
    source: str
    add: Mapping[str, float]
    multiply: Mapping[str, float]
    sram: Mapping[int, float] = field(default_factory=dict)
    dram: tuple[float, float] | None = None
    approximate: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        """Check every entry and freeze the mappings."""
        for kind in ("add", "multiply"):
            entries = dict(getattr(self, kind))
            for unit, energy in entries.items():
                _parse_unit(self.name, unit)
                _check_energy(self.name, f"{kind} {unit}", energy)
            object.__setattr__(self, kind, MappingProxyType(entries))
        for size, energy in self.sram.items():
            _check_energy(self.name, f"sram {size}", energy)
        object.__setattr__(self, "sram", MappingProxyType(dict(self.sram)))
        for energy in self.dram or ():
            _check_energy(self.name, "dram", energy)

    def __hash__(self) -> int:
        """Hash by name and source; mappings do not hash."""
        return hash((self.name, self.source))

    def __reduce__(self) -> tuple[type[EnergyTable], tuple[object, ...]]:
        """Pickle by plain values: frozen mappings do not pickle."""
        parts = (self.name, self.source, dict(self.add), dict(self.multiply), dict(self.sram))
        return EnergyTable, (*parts, self.dram, self.approximate)

    def override(
        self,
        *,
        name: str | None = None,
        add: Mapping[str, float] | None = None,
        multiply: Mapping[str, float] | None = None,
        sram: Mapping[int, float] | None = None,
        dram: tuple[float, float] | None = None,
    ) -> EnergyTable:
        """Return a table with entries replaced or added; they are yours, so not approximate.

        Args:
            name: name of the new table; None puts ``-custom`` behind the old one.
            add: entries of ``add``.
            multiply: entries of ``multiply``.
            sram: entries of ``sram``.
            dram: the two ends of ``dram``.

        Raises:
            CostError: as the class.
        """
        given: dict[str, Mapping[str, float] | Mapping[int, float]] = {
            "add": add or {},
            "multiply": multiply or {},
            "sram": sram or {},
        }
        yours = {f"{kind} {unit}" for kind, entries in given.items() for unit in entries}
        if dram is not None:
            yours.add("dram")
        return replace(
            self,
            name=name or f"{self.name}-custom",
            source=f"{self.source}; {len(yours)} of the entries given by the user",
            add={**self.add, **(add or {})},
            multiply={**self.multiply, **(multiply or {})},
            sram={**self.sram, **(sram or {})},
            dram=dram or self.dram,
            approximate=self.approximate - yours,
        )


HOROWITZ_45NM = EnergyTable(
    name="45nm",
    source="M. Horowitz, 'Computing's energy problem (and what we can do about it)', ISSCC 2014",
    add={"int8": 0.03, "int32": 0.1, "fp16": 0.4, "fp32": 0.9},
    multiply={"int8": 0.2, "int32": 3.1, "fp16": 1.1, "fp32": 3.7},
    sram={8 * 2**10: 10.0, 32 * 2**10: 20.0, 2**20: 100.0},
    dram=(1300.0, 2600.0),
)
"""45 nm at 0.9 V; memory reads are per 64 bits."""

JOUPPI_7NM = EnergyTable(
    name="7nm",
    source="N. Jouppi et al., 'Ten lessons from three generations shaped Google's TPUv4i',"
    " ISCA 2021",
    add={"int8": 0.007, "int32": 0.03, "bf16": 0.11, "fp16": 0.16, "fp32": 0.38},
    multiply={"int8": 0.07, "int32": 1.48, "bf16": 0.21, "fp16": 0.34, "fp32": 1.31},
    sram={8 * 2**10: 7.5, 32 * 2**10: 8.5, 2**20: 14.0},
    dram=(250.0, 450.0),
    approximate=frozenset(
        {
            "add fp32",
            "multiply int8",
            "multiply int32",
            f"sram {8 * 2**10}",
            f"sram {32 * 2**10}",
            f"sram {2**20}",
            "dram",
        }
    ),
)
"""7 nm; ``dram`` is HBM2. The entries in ``approximate`` reached us second hand."""

ENERGY_TABLES: Mapping[str, EnergyTable] = MappingProxyType(
    {table.name: table for table in (HOROWITZ_45NM, JOUPPI_7NM)}
)
"""The tables by name."""


def energy_table(table: EnergyTable | str) -> EnergyTable:
    """Return a table by name, or the table itself.

    Raises:
        CostError: for an unknown name.
    """
    if isinstance(table, EnergyTable):
        return table
    if table not in ENERGY_TABLES:
        raise CostError(
            "energy_table",
            f"unknown table {table!r}",
            "use " + " or ".join(repr(name) for name in ENERGY_TABLES) + ", or an EnergyTable",
        )
    return ENERGY_TABLES[table]


def multiply_energy(a: Format, b: Format, table: EnergyTable | str = HOROWITZ_45NM) -> float:
    """Return the energy of one multiplication of two numbers, in pJ.

    Fixed and dynamic fixed point are integers; the shared scale is not multiplied element by
    element. An integer times a float takes the float multiplier of the wider significand.

    Args:
        a: format of one operand.
        b: format of the other.
        table: a table or its name.

    Raises:
        CostError: for a format without a rule, or a table without an entry of the kind.
    """
    table = energy_table(table)
    if isinstance(a, FixedFormat) and isinstance(b, FixedFormat):
        return _integer_energy(table, "multiply", a.bits * b.bits, _width(a, b))
    if isinstance(a, FloatingPoint) and isinstance(b, FloatingPoint):
        area = a.significant_bits * b.significant_bits
        return _float_energy(table, "multiply", area, a if _same_unit(a, b) else None)
    if isinstance(a, FixedFormat) and isinstance(b, FloatingPoint):
        a, b = b, a
    if isinstance(a, FloatingPoint) and isinstance(b, FixedFormat):
        if a.significant_bits >= b.significant_bits:
            return multiply_energy(a, a, table)
        return _float_energy(table, "multiply", b.significant_bits**2, None)
    raise _no_rule("multiply_energy", b if isinstance(a, FixedFormat | FloatingPoint) else a)


def add_energy(accumulator: Format, table: EnergyTable | str = HOROWITZ_45NM) -> float:
    """Return the energy of one addition into an accumulator, in pJ.

    Args:
        accumulator: format of the sum.
        table: a table or its name.

    Raises:
        CostError: for a format without a rule, or a table without an entry of the kind.
    """
    table = energy_table(table)
    if isinstance(accumulator, FixedFormat):
        return _integer_energy(table, "add", accumulator.bits, accumulator.bits)
    if isinstance(accumulator, FloatingPoint):
        return _float_energy(table, "add", accumulator.bits, accumulator)
    raise _no_rule("add_energy", accumulator)


def mac_energy(
    a: Format,
    b: Format,
    accumulator: Format | None = None,
    table: EnergyTable | str = HOROWITZ_45NM,
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
    if accumulator is None:
        integers = isinstance(a, FixedFormat) and isinstance(b, FixedFormat)
        accumulator = FixedPoint(32, 0) if integers else _FP32
    return multiply_energy(a, b, table) + add_energy(accumulator, table)


def _integer_energy(table: EnergyTable, kind: str, size: int, width: int | None) -> float:
    """Return the entry of an integer unit of that ``width``, else the estimate at ``size``."""
    entries = {
        bits: energy
        for name, energy in getattr(table, kind).items()
        if isinstance(bits := _parse_unit(table.name, name), int)
    }
    if width is not None and width in entries:
        return float(entries[width])
    sizes = [(bits if kind == "add" else bits**2, energy) for bits, energy in entries.items()]
    return _estimate(table, f"{kind} int", size, sizes)


def _float_energy(table: EnergyTable, kind: str, size: int, unit: FloatingPoint | None) -> float:
    """Return the entry of a float ``unit``, else the estimate at ``size``."""
    entries = [
        (fmt, energy)
        for name, energy in getattr(table, kind).items()
        if isinstance(fmt := _parse_unit(table.name, name), FloatingPoint)
    ]
    for fmt, energy in entries:
        if unit is not None and _same_unit(fmt, unit):
            return float(energy)
    sizes = [
        (fmt.bits if kind == "add" else fmt.significant_bits**2, energy) for fmt, energy in entries
    ]
    return _estimate(table, f"{kind} float", size, sizes)


def _estimate(
    table: EnergyTable, kind: str, size: int, entries: Iterable[tuple[int, float]]
) -> float:
    """Fit energy = k * size by least squares; stay between the neighbouring entries."""
    points = list(entries)
    if not points:
        raise CostError(
            "energy", f"table {table.name!r} has no entry '{kind}...'", "add one with override()"
        )
    slope = math.fsum(x * y for x, y in points) / math.fsum(x * x for x, _ in points)
    narrower = [y for x, y in points if x < size]
    wider = [y for x, y in points if x > size]
    return float(max([min([slope * size, *wider]), *narrower]))


def _width(a: FixedFormat, b: FixedFormat) -> int | None:
    return a.bits if a.bits == b.bits else None


def _same_unit(a: FloatingPoint, b: FloatingPoint) -> bool:
    """Whether one unit computes both: bias and policies do not change its size."""
    return (a.exponent_bits, a.mantissa_bits) == (b.exponent_bits, b.mantissa_bits)


def _no_rule(operation: str, fmt: object) -> CostError:
    return CostError(
        operation, f"no rule for {fmt!r}", "use fixed, dynamic fixed or floating point"
    )
