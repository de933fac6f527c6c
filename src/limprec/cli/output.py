"""What commands print: JSON for programs, tables and text for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

Json = Annotated[
    bool, typer.Option("--json", help="Print JSON for programs to read, and nothing else.")
]
"""Type of the option ``--json``; give it the default False."""


def print_json(value: Any) -> None:
    """Print a value as JSON on standard output: keys sorted, indented by two.

    Raises:
        ValueError: for NaN or an infinity, which JSON does not know.
    """
    text = json.dumps(value, sort_keys=True, indent=2, allow_nan=False, ensure_ascii=False)
    sys.stdout.write(text + "\n")


def print_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    title: str | None = None,
    text_columns: Sequence[int] = (0,),
) -> None:
    """Print a table: ruled and as wide as the terminal at most, or plain columns when piped.

    Args:
        header: titles of the columns.
        rows: cells; numbers come formatted.
        title: a line over the table.
        text_columns: indices of the columns that hold words, set to the left; others are numbers.
    """
    console = _console()
    if not console.is_terminal:
        lines = _plain([header, *rows] if any(header) else rows, text_columns)
        if title:
            lines = [title, "", *lines]
        sys.stdout.write("\n".join(lines) + "\n")
        return
    if title:
        console.print(Text(title, style="bold"))
        console.print()
    table = Table(
        box=SIMPLE_HEAD,
        show_header=any(header),
        show_edge=False,
        pad_edge=False,
        header_style="bold",
    )
    for index, name in enumerate(header):
        table.add_column(Text(name), justify="left" if index in text_columns else "right")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)


def print_text(text: str = "", *, heading: bool = False) -> None:
    """Print a paragraph, broken at words to the terminal's width, or on one line when piped."""
    console = _console()
    if console.is_terminal:
        console.print(Text(text, style="bold" if heading else ""))
    else:
        sys.stdout.write(text + "\n")


def is_terminal() -> bool:
    """Whether standard output is a terminal, or is to be treated as one."""
    return _console().is_terminal


def number(value: float) -> str:
    """Return a number in up to ten digits where that is short, else in six."""
    text = f"{value:.10g}"
    return text if len(text) <= 12 else f"{value:.6g}"


def _console() -> Console:
    return Console(highlight=False)


def _plain(rows: Sequence[Sequence[str]], text_columns: Sequence[int]) -> list[str]:
    """Return aligned columns, two spaces apart."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if index in text_columns else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
