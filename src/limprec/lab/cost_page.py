"""A page of what a training costs: one HTML file that needs no network."""

from __future__ import annotations

import html
from collections import defaultdict
from pathlib import Path
from typing import Any

from ..costs import Cost, words
from ..costs.result import ARITHMETIC
from ..files import write_text
from .report import _COLORS, STYLE


def write_cost_page(cost: Cost, path: Path, title: str, command: str) -> Path:
    """Write the page of a cost: the comparison, charts, every table and what they rest on.

    Args:
        cost: what ``lp.cost`` returned.
        path: the HTML file, written whole or not at all.
        title: what was costed.
        command: the command line that made it, shown on the page.

    Returns:
        The path.
    """
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in words.notes(cost))
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        f"<meta name='viewport' content='width=device-width'><style>{STYLE}</style>",
        f"<title>limprec: {html.escape(title)}</title></head>",
        f"<body><h1>What training costs</h1><p class='lead'>{html.escape(title)}</p>",
        _table(words.comparison(cost)),
        _charts(cost),
        f"<h2>By layer</h2>{_table(words.by_layer(cost, None))}",
        f"<h2>By role</h2>{_table(words.by_role(cost))}",
        f"<h2>Memory</h2>{_table(words.memory(cost))}",
        f"<h2>What this rests on</h2><ul>{notes}</ul>",
        f"<h2>How to repeat it</h2><pre>{html.escape(command)}</pre></body></html>\n",
    ]
    return write_text(path, "".join(parts))


def _table(table: words.Rows) -> str:
    header, rows = table
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _charts(cost: Cost) -> str:
    """Return the charts as HTML, Plotly's script inside the first."""
    layers = {name: _kinds(cost, name) for name in cost.by("layer")}
    costly = sorted(layers, key=lambda name: -sum(layers[name].values()))[: words.MOST_LAYERS]
    charts = (
        (
            "Energy of a step",
            {name: _kinds(c) for name, c in cost.compared},
            "joules",
        ),
        (
            "Energy by layer",
            {name or words.MODEL: layers[name] for name in layers if name in costly},
            "joules",
        ),
        (
            "Memory of a device",
            {name: dict(c.device_memory) for name, c in cost.compared},
            "bytes",
        ),
    )
    return "".join(
        f"<h2>{title}</h2>{_bars(bars, axis, with_script=number == 0)}"
        for number, (title, bars, axis) in enumerate(charts)
    )


def _kinds(cost: Cost, layer: str | None = None) -> dict[str, float]:
    """Return joules by arithmetic and kind of memory, of one layer or of all."""
    found: dict[str, float] = defaultdict(float)
    for (name, kind), energy in cost.by("layer", "kind").items():
        if layer in (None, name):
            place = "SRAM" if kind.startswith("SRAM") else kind
            found[kind if kind in ARITHMETIC else place] += energy
    return found


def _bars(bars: dict[str, dict[str, float]], axis: str, *, with_script: bool) -> str:
    """Return a chart of stacked bars, one for each of ``bars``."""
    import plotly.graph_objects as go

    figure = go.Figure()
    parts = dict.fromkeys(part for values in bars.values() for part in values)
    for part, color in zip(parts, _COLORS * 9, strict=False):
        figure.add_bar(
            y=list(bars),
            x=[values.get(part, 0.0) for values in bars.values()],
            name=part,
            orientation="h",
            marker={"color": color},
        )
    figure.update_layout(
        template="simple_white",
        barmode="stack",
        height=140 + 24 * max(len(bars), 4),
        margin={"l": 150, "r": 20, "t": 20, "b": 50},
        xaxis={"title": axis, "exponentformat": "SI"},
        yaxis={"autorange": "reversed"},
        legend={"orientation": "h", "y": -0.3},
    )
    chart: Any = figure.to_html(
        full_html=False,
        include_plotlyjs=with_script,
        config={"displayModeBar": False, "responsive": True},
    )
    return str(chart)
