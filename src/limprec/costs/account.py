"""The books of one step: operations counted by layer, role and kind, priced by one table."""

from __future__ import annotations

from collections.abc import Mapping

from ..formats import Format
from ..plan import Accumulator
from .energy import DRAM, Unit, access_energy, adder, level_for, level_name, multiplier, sum_format
from .result import Entry
from .storage import stored_bits
from .tables import EnergyTable


class Account:
    """Counts operations and prices them.

    Args:
        table: the prices.
        accumulator: what products are added in; None for the layer's own, without one int32 for
            integers, else fp32.
        residence: role -> memory in which its tensors live, whatever their size.

    Raises:
        CostError: for a memory that the table does not have.
    """

    def __init__(
        self, table: EnergyTable, accumulator: Format | None, residence: Mapping[str, str]
    ) -> None:
        self.weight = 1.0
        """Share of the steps that is being counted."""
        self.fitted: dict[str, None] = {}
        self.approximate: dict[str, None] = {}
        self._table = table
        self._accumulator = accumulator
        self._residence = dict(residence)
        for level in residence.values():
            access_energy(level, table)
        self._entries = {level_name(size): f"sram {size}" for size in table.sram} | {DRAM: "dram"}
        self._counts: dict[tuple[str, str, str], list[float]] = {}
        self._units: dict[tuple[Format, Format | None], Unit] = {}

    def multiply_add(
        self,
        layer: str,
        role: str,
        a: Format,
        b: Format,
        macs: float,
        accumulator: Accumulator | None = None,
    ) -> None:
        """Count multiply-adds of two formats; a Kahan sum takes four additions a term."""
        self.multiply(layer, role, a, b, macs)
        if self._accumulator is not None or accumulator is None:
            self.add(layer, role, self._accumulator or sum_format(a, b), macs)
        else:
            times = 4 if accumulator.kahan else 1
            self.add(layer, role, accumulator.precision.format, times * macs)

    def multiply(self, layer: str, role: str, a: Format, b: Format, count: float) -> None:
        """Count multiplications."""
        if count:
            if (unit := self._units.get((a, b))) is None:
                unit = self._units[a, b] = self._note(multiplier(a, b, self._table))
            self._count(layer, role, "multiply", count, count * unit.picojoules)

    def add(self, layer: str, role: str, fmt: Format, count: float) -> None:
        """Count additions in a format."""
        if count:
            if (unit := self._units.get((fmt, None))) is None:
                unit = self._units[fmt, None] = self._note(adder(fmt, self._table))
            self._count(layer, role, "add", count, count * unit.picojoules)

    def move(self, layer: str, role: str, elements: float, fmt: Format, times: float = 1) -> None:
        """Count reads or writes of a whole tensor."""
        self.move_bytes(layer, role, elements * stored_bits(fmt) / 8, times)

    def move_bytes(self, layer: str, role: str, nbytes: float, times: float = 1) -> None:
        """Count ``times`` passes over a tensor of so many bytes, in the memory it lives in."""
        if not nbytes or not times:
            return
        level = self._residence.get(role) or level_for(nbytes, self._table)
        if self._entries[level] in self._table.approximate:
            self.approximate[level] = None
        picojoules = nbytes * times * access_energy(level, self._table)
        self._count(layer, role, level, nbytes * times, picojoules)

    def entries(self) -> tuple[Entry, ...]:
        """Return what was counted, in the order in which it first was."""
        return tuple(Entry(*key, *totals) for key, totals in self._counts.items())

    def _count(self, layer: str, role: str, kind: str, count: float, picojoules: float) -> None:
        totals = self._counts.setdefault((layer, role, kind), [0.0, 0.0])
        totals[0] += count * self.weight
        totals[1] += picojoules * self.weight

    def _note(self, unit: Unit) -> Unit:
        if unit.fitted:
            self.fitted[unit.name] = None
        elif unit.name in self._table.approximate:
            self.approximate[unit.name] = None
        return unit
