"""A page of a diagnosis: one HTML file that needs no network."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

from ..diagnosis import Report
from ..diagnosis.findings import loss_of
from ..files import write_text
from .report import _COLORS, STYLE

_ROLES = ("update", "gradient", "error", "activation", "weight", "bias")
_MOST = 60


def write_diagnosis_page(report: Report, path: Path, title: str, command: str) -> Path:
    """Write the page of a diagnosis: the faults in words, charts by layer, the whole table.

    Args:
        report: what the diagnosis found.
        path: the HTML file, written whole or not at all.
        title: what was diagnosed.
        command: the command line that made it, shown on the page.

    Returns:
        The path.
    """
    header, rows = report.cells()
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    words = "".join(f"<p>{html.escape(line)}</p>" for line in report.words())
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in report.notes)
    lead = f"{title}. {report.sampled} of {report.steps} steps looked at, {report.optimizer}."
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        f"<meta name='viewport' content='width=device-width'><style>{STYLE}</style>",
        f"<title>limprec: {html.escape(title)}</title></head>",
        f"<body><h1>Where gradients get lost</h1><p class='lead'>{html.escape(lead)}</p>",
        words,
        _charts(report),
        f"<h2>Worst first</h2><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>",
        f"<ul>{notes}</ul><h2>How to repeat it</h2><pre>{html.escape(command)}</pre>",
        "</body></html>\n",
    ]
    return write_text(path, "".join(parts))


def _charts(report: Report) -> str:
    """Return the charts as HTML, Plotly's script inside the first that there is."""
    lost = {
        (row.layer, row.role): 100 * share
        for row in report.rows
        if (share := loss_of(row)) is not None
    }
    noise = {
        (row.layer, row.role): row["sqnr_db"] for row in report.rows if "sqnr_db" in row.measures
    }
    parts: list[str] = []
    for title, values, axis in (
        ("Share that is lost, by layer and role", lost, "percent"),
        ("Signal to quantization noise", noise, "dB"),
    ):
        if values:
            chart = _bars(values, axis, with_script=not parts)
            parts.append(f"<h2>{title}</h2>{chart}")
    return "".join(parts)


def _bars(values: dict[tuple[str, str], float], axis: str, *, with_script: bool) -> str:
    """Return a chart of bars: a group a layer in the rows' order, a colour a role."""
    import plotly.graph_objects as go

    layers = list(dict.fromkeys(layer for layer, _ in values))[:_MOST]
    others = dict.fromkeys(role for _, role in values if role not in _ROLES)
    figure = go.Figure()
    for role, color in zip((*_ROLES, *others), _COLORS * 9, strict=False):
        of_role = {layer: v for (layer, r), v in values.items() if r == role and layer in layers}
        if of_role:
            figure.add_bar(
                y=[layer or "(all)" for layer in of_role],
                x=list(of_role.values()),
                name=role,
                orientation="h",
                marker={"color": color},
            )
    figure.update_layout(
        template="simple_white",
        barmode="group",
        height=160 + 34 * max(len(layers), 4),
        margin={"l": 160, "r": 20, "t": 20, "b": 50},
        xaxis={"title": axis},
        yaxis={
            "automargin": True,
            "autorange": "reversed",
            "categoryarray": layers,
            "categoryorder": "array",
        },
        legend={"orientation": "h", "y": 1.08},
    )
    chart: Any = figure.to_html(
        full_html=False,
        include_plotlyjs=with_script,
        config={"displayModeBar": False, "responsive": True},
    )
    return str(chart)
