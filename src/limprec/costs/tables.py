"""Energy per operation, in picojoules: published tables, and tables of your own in TOML."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..errors import CostError, FormatError
from ..formats import FloatingPoint, parse_format

KILO = 2**10
_INTEGER = re.compile(r"int([1-9]\d{0,2})")
_SIZE = re.compile(r"([1-9]\d*) ?(KB|MB|GB)?")
_UNITS = {None: 1, "KB": KILO, "MB": KILO**2, "GB": KILO**3}
_KEYS = ("name", "source", "base", "fit", "dram", "add", "multiply", "sram")


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
        fit: whether a width without an entry is estimated from the others; else it is an error.

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
    fit: bool = True

    def __post_init__(self) -> None:
        """Check every entry and freeze the mappings."""
        for kind in ("add", "multiply"):
            entries = dict(getattr(self, kind))
            for unit, energy in entries.items():
                parse_unit(self.name, unit)
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
        return EnergyTable, (*parts, self.dram, self.approximate, self.fit)

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

    @classmethod
    def load(cls, path: str | Path) -> EnergyTable:
        """Read a table from a TOML file.

        ``[add]`` and ``[multiply]`` hold pJ by number format, ``[sram]`` pJ per 64 bits by size
        (``"8 KB" = 10.0``), ``dram`` one figure or the lowest and highest. ``base = "45nm"`` takes
        what is left out from that table; ``fit = false`` refuses widths without an entry.

        Raises:
            CostError: if the file cannot be read or is wrong; the message names it.
        """
        try:
            raw = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not a text file"
            raise CostError(
                "energy table", f"cannot read {path}: {reason}", "give a TOML file, or " + _NAMES
            ) from None
        except tomllib.TOMLDecodeError as error:
            raise CostError(str(path), f"not TOML: {error}", "mend the line it names") from None
        try:
            return cls._from_dict(raw, Path(path).stem)
        except CostError as error:
            raise CostError(f"{path}: {error.operation}", error.problem, error.remedy) from None

    @classmethod
    def _from_dict(cls, raw: dict[str, Any], stem: str) -> EnergyTable:
        name = str(raw.get("name", stem))
        place = f"energy table {name!r}"
        for key in raw:
            if key not in _KEYS:
                raise CostError(place, f"unknown key {key!r}", "use " + ", ".join(_KEYS))
        for section in ("add", "multiply", "sram"):
            if not isinstance(raw.get(section, {}), dict):
                raise CostError(place, f"{section} is no table", f"write [{section}]")
        fit = raw.get("fit", True)
        if not isinstance(fit, bool):
            raise CostError(place, f"fit is {fit!r}", "write true or false")
        dram = raw.get("dram")
        if dram is not None:
            ends = dram if isinstance(dram, list) else [dram, dram]
            if len(ends) != 2:
                raise CostError(place, f"dram is {dram!r}", "give one figure or two")
            dram = (ends[0], ends[1])
        parts = {
            "add": raw.get("add", {}),
            "multiply": raw.get("multiply", {}),
            "sram": {_size(place, size): pj for size, pj in raw.get("sram", {}).items()},
        }
        if "base" in raw:
            base = energy_table(str(raw["base"]))
            return replace(base.override(name=name, dram=dram, **parts), fit=fit)
        source = str(raw.get("source", "given by the user"))
        return cls(name, source, **parts, dram=dram, fit=fit)


def parse_unit(table: str, name: str) -> int | FloatingPoint:
    """Return the bits of ``int8``, or the format of ``fp16``; ``table`` names it in errors.

    Raises:
        CostError: for a name that is neither.
    """
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


def _size(place: str, text: str) -> int:
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise CostError(place, f"{text!r} is no size of a memory", 'write e.g. "8 KB" or "1 MB"')
    return int(match[1]) * _UNITS[match[2]]


HOROWITZ_45NM = EnergyTable(
    name="45nm",
    source="M. Horowitz, 'Computing's energy problem (and what we can do about it)', ISSCC 2014",
    add={"int8": 0.03, "int32": 0.1, "fp16": 0.4, "fp32": 0.9},
    multiply={"int8": 0.2, "int32": 3.1, "fp16": 1.1, "fp32": 3.7},
    sram={8 * KILO: 10.0, 32 * KILO: 20.0, KILO**2: 100.0},
    dram=(1300.0, 2600.0),
)
"""45 nm at 0.9 V; memory reads are per 64 bits."""

JOUPPI_7NM = EnergyTable(
    name="7nm",
    source="N. Jouppi et al., 'Ten lessons from three generations shaped Google's TPUv4i',"
    " ISCA 2021",
    add={"int8": 0.007, "int32": 0.03, "bf16": 0.11, "fp16": 0.16, "fp32": 0.38},
    multiply={"int8": 0.07, "int32": 1.48, "bf16": 0.21, "fp16": 0.34, "fp32": 1.31},
    sram={8 * KILO: 7.5, 32 * KILO: 8.5, KILO**2: 14.0},
    dram=(250.0, 450.0),
    approximate=frozenset(
        {
            "add fp32",
            "multiply int8",
            "multiply int32",
            f"sram {8 * KILO}",
            f"sram {32 * KILO}",
            f"sram {KILO**2}",
            "dram",
        }
    ),
)
"""7 nm; ``dram`` is HBM2. The entries in ``approximate`` reached us second hand."""

ENERGY_TABLES: Mapping[str, EnergyTable] = MappingProxyType(
    {table.name: table for table in (HOROWITZ_45NM, JOUPPI_7NM)}
)
"""The tables by name."""

_NAMES = " or ".join(repr(name) for name in ENERGY_TABLES)


def energy_table(table: EnergyTable | str | Path) -> EnergyTable:
    """Return a table by name or TOML file, or the table itself.

    Raises:
        CostError: for an unknown name, or a file that cannot be read or is wrong.
    """
    if isinstance(table, EnergyTable):
        return table
    if table in ENERGY_TABLES:
        return ENERGY_TABLES[str(table)]
    if str(table).endswith(".toml"):
        return EnergyTable.load(table)
    raise CostError(
        "energy_table",
        f"unknown table {str(table)!r}",
        f"use {_NAMES}, an EnergyTable or a TOML file",
    )
