"""What a diagnosis found: rows worst first, the faults in words, and both as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import DiagnosisError
from ..files import write_text
from .findings import Finding, Row, find_faults, loss_of

VERSION = 1
_ROWS = 24


@dataclass(frozen=True)
class Column:
    """One column of the table: its title, and what a row shows in it."""

    title: str
    cell: Callable[[Row], str]


def _share(*names: str) -> Callable[[Row], str]:
    """Return what shows the first of some measures that a row has, as a percentage."""

    def cell(row: Row) -> str:
        value = next((row.measures[name] for name in names if name in row.measures), None)
        return "" if value is None else percent(value)

    return cell


def _number(name: str, digits: int) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        return f"{row.measures[name]:.{digits}f}" if name in row.measures else ""

    return cell


COLUMNS = (
    Column("layer", lambda row: row.layer),
    Column("role", lambda row: row.role),
    Column("format", lambda row: row.format),
    Column("lost", lambda row: "" if (lost := loss_of(row)) is None else percent(lost)),
    Column("to 0", _share("flushed_mass")),
    Column("count", _share("updates_lost", "flushed_count", "terms_lost", "skipped")),
    Column("beyond", _share("saturated", "made_infinite", "infinite")),
    Column("subnormal", lambda row: percent(s) if (s := row["subnormal"]) > 0.0005 else ""),
    Column("still", _share("still")),
    Column("dB", _number("sqnr_db", 1)),
    Column("bits used", _number("bits_used", 1)),
    Column("balance", _share("balance_lost")),
    Column("cosine", _number("cosine", 3)),
)
"""The table's columns; ``docs/diagnosis.md`` defines them. One that is empty is left out."""


@dataclass(frozen=True)
class Report:
    """What was seen, as frozen values.

    Args:
        steps: optimizer steps taken while watching.
        sampled: steps that were looked at.
        every: each so many steps one was looked at.
        optimizer: name of the optimizer's class.
        rows: a row per layer and role, worst first.
        notes: what could not be told, a sentence each.
    """

    steps: int
    sampled: int
    every: int
    optimizer: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = field(init=False)
    """The faults, worst first; none in a healthy training."""

    def __post_init__(self) -> None:
        """Find the faults and put the rows in order."""
        findings = find_faults(self.rows, self.sampled)
        places = {(f.layer, f.role): place for place, f in enumerate(findings)}

        def rank(row: Row) -> tuple[int, float]:
            return places.get((row.layer, row.role), len(places)), -(loss_of(row) or 0.0)

        object.__setattr__(self, "rows", tuple(sorted(self.rows, key=rank)))
        object.__setattr__(self, "findings", findings)

    def table(self, limit: int | None = _ROWS) -> str:
        """Return the faults in words, then the rows worst first.

        Args:
            limit: most rows; None for all.
        """
        lines = [
            f"{self.sampled} of {self.steps} steps looked at, {self.optimizer}",
            "",
            *self.words(),
            "",
        ]
        header, cells = self.cells()
        shown = cells if limit is None else cells[:limit]
        rows = [header, *shown]
        widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
        for row in rows:
            padded = (
                cell.ljust(width) if i < 3 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            lines.append("  ".join(padded).rstrip())
        if len(cells) > len(shown):
            lines.append(f"and {len(cells) - len(shown)} more rows that lose less")
        lines += ["", *self.notes] if self.notes else []
        return "\n".join(lines)

    def words(self) -> list[str]:
        """Return the faults in plain words, a line each; faults of one kind share a line."""
        if not self.findings:
            return ["Nothing gets lost that would harm the training."]
        lines = []
        for kind in dict.fromkeys(finding.kind for finding in self.findings):
            found = [finding for finding in self.findings if finding.kind == kind]
            first = found[0]
            place = f" (obstacle {first.obstacle})" if first.obstacle else ""
            places = dict.fromkeys(f.place for f in found)
            others = [name for name in places if name != first.place]
            also = f" Also {', '.join(others[:3])}" if others else ""
            also += f" and {len(others) - 3} more" if len(others) > 3 else ""
            lines.append(
                f"{kind.upper()}{place}: {first.says}{also and also + '.'} Change: {first.change}."
            )
        return lines

    def cells(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Return the header and the rows as text, without columns and rows that say nothing."""
        kept = [row for row in self.rows if any(c.cell(row) for c in COLUMNS[3:10])]
        table = [tuple(column.cell(row) for column in COLUMNS) for row in kept]
        shown = [i for i in range(len(COLUMNS)) if i < 4 or any(row[i] for row in table)]
        header = tuple(COLUMNS[i].title for i in shown)
        return header, [tuple(row[i] for i in shown) for row in table]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON; ``from_dict`` takes them back."""
        values = asdict(self)
        return {"version": VERSION, **values, "rows": [dict(row) for row in values["rows"]]}

    def to_json(self) -> str:
        """Return the report as JSON text."""
        return json.dumps(self.as_dict(), indent=1, allow_nan=False) + "\n"

    def save(self, path: str | Path) -> None:
        """Write as JSON, whole or not at all."""
        write_text(Path(path), self.to_json())

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Report:
        """Make a report of what ``as_dict`` gave; the faults are found anew.

        Raises:
            DiagnosisError: if it is none.
        """
        try:
            if raw["version"] != VERSION:
                raise ValueError(f"version {raw['version']!r}")
            rows = tuple(Row(**row) for row in raw["rows"])
            counts = {name: int(raw[name]) for name in ("steps", "sampled", "every")}
            return cls(
                **counts,
                optimizer=str(raw["optimizer"]),
                rows=rows,
                notes=tuple(map(str, raw["notes"])),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DiagnosisError(
                "diagnosis", f"no diagnosis ({error})", "give what Diagnosis.save wrote"
            ) from None

    @classmethod
    def load(cls, path: str | Path) -> Report:
        """Read what ``save`` wrote.

        Raises:
            DiagnosisError: if the file is missing or holds no diagnosis.
        """
        try:
            raw = json.loads(Path(path).read_text(encoding="utf-8"))
            return cls.from_dict(raw)
        except OSError as error:
            problem, remedy = f"cannot read {path}: {error.strerror}", "give a diagnosis in JSON"
        except (ValueError, DiagnosisError):
            problem, remedy = f"{path} holds no diagnosis", "give what Diagnosis.save wrote"
        raise DiagnosisError("diagnosis", problem, remedy)


def percent(share: float) -> str:
    """Return a share in percent, with a digit behind the point below ten."""
    value = 100 * share
    if value == 0:
        return "0 %"
    if abs(value) < 0.05:
        return "<0.1 %" if value > 0 else "0 %"
    return f"{value:.1f} %" if abs(value) < 9.95 else f"{value:.0f} %"


def rows_of(parts: Sequence[Row]) -> tuple[Row, ...]:
    """Return rows with the measures of those of one layer and role joined."""
    joined: dict[tuple[str, str], Row] = {}
    for row in parts:
        key = row.layer, row.role
        joined[key] = joined[key].joined(row) if key in joined else row
    return tuple(joined.values())
