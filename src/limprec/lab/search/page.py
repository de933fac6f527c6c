"""The page of a search: the front, the plan and what it rests on, in one HTML file."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...files import write_text
from ..report import _COLORS, STYLE
from ..run import environment
from . import words
from .front import Trial
from .loop import Outcome


def write_search_page(outcome: Outcome, path: Path, title: str, command: str) -> Path:
    """Write the page of a search.

    Args:
        outcome: what ``search_plans`` returned.
        path: the HTML file, written whole or not at all.
        title: what was searched.
        command: the command line that made it, shown on the page.

    Returns:
        The path.
    """
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in words.NOTES)
    env = ", ".join(f"{k} {v}" for k, v in environment().items())
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        f"<meta name='viewport' content='width=device-width'><style>{STYLE}</style>",
        f"<title>limprec: {html.escape(title)}</title></head>",
        f"<body><h1>Accuracy against {outcome.settings.objective}</h1>",
        f"<p class='lead'>{html.escape(title)}</p><p>{html.escape(words.verdict(outcome))}</p>",
        _front(outcome),
        f"<h2>The front</h2>{_table(words.front_rows(outcome))}",
        f"<h2>Trained anew</h2>{_table(words.final_rows(outcome))}" if outcome.final else "",
        f"<ul>{notes}</ul>",
        f"<h2>The chosen plan</h2>{_table(words.layers(outcome, outcome.chosen))}",
        "<h2>Where bits are missed most</h2><p>Signal to noise in decibels where the reference's"
        " tensors are rounded in the narrowest format of the search, by layer and role.</p>",
        _sensitivity(outcome),
        f"<h2>plan.toml</h2><pre>{html.escape(outcome.chosen.plan)}</pre>",
        f"<h2>How to repeat it</h2><pre>{html.escape(command)}</pre>",
        f"<footer>{html.escape(env)}</footer></body></html>\n",
    ]
    return write_text(path, "".join(parts))


def _table(table: words.Rows) -> str:
    header, rows = table
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _front(outcome: Outcome) -> str:
    """Return the chart of all trials that were trained to the end, with the front as a line."""
    import plotly.graph_objects as go

    unit = 1e6 if outcome.settings.objective == "energy" else 1 / 2**20
    axis = "energy of a step (uJ)" if outcome.settings.objective == "energy" else "memory (MiB)"
    done = [t for t in outcome.trials if t.accuracy is not None]
    figure = go.Figure()

    def points(trials: Sequence[Trial], name: str, **look: Any) -> None:
        figure.add_scatter(
            x=[t.price * unit for t in trials],
            y=[t.accuracy for t in trials],
            text=[f"{t.name}, trial {t.number}, {t.origin}" for t in trials],
            name=name,
            **look,
        )

    points(outcome.front, "front", mode="lines", line={"color": _COLORS[0], "shape": "hv"})
    for color, origin in zip(_COLORS[3:] * 2, dict.fromkeys(t.origin for t in done), strict=False):
        mine = [t for t in done if t.origin == origin]
        points(mine, origin, mode="markers", marker={"color": color, "size": 9})
    ring = {"color": _COLORS[1], "size": 16, "symbol": "circle-open", "line": {"width": 3}}
    points([outcome.chosen], "chosen", mode="markers", marker=ring)
    reference = outcome.reference.accuracy
    assert reference is not None
    least = reference - outcome.settings.within / 100
    line = {"dash": "dot", "width": 2, "color": _COLORS[0]}  # the template would draw none
    figure.add_hline(y=least, line=line, opacity=0.5)
    figure.update_layout(
        template="simple_white",
        height=440,
        margin={"l": 70, "r": 20, "t": 20, "b": 50},
        xaxis={"title": axis},
        yaxis={"title": "held-out accuracy", "tickformat": ".1%"},
        legend={"orientation": "h", "y": -0.2},
    )
    chart: Any = figure.to_html(
        full_html=False,
        include_plotlyjs=True,
        config={"displayModeBar": False, "responsive": True},
    )
    return f"{chart}<p class='lead'>Dotted: the least accuracy of a chosen plan.</p>"


def _sensitivity(outcome: Outcome) -> str:
    found: dict[str, dict[str, str]] = {}
    for name, noise in outcome.noise.items():
        layer, _, role = name.rpartition("/")
        text = f"{-10 * math.log10(noise[0]):.1f} ({outcome.choices[name][0]})" if noise[0] else ""
        found.setdefault(layer, {})[role] = text
    roles = list(next(iter(found.values())))
    return _table((("layer", *roles), [(name, *row.values()) for name, row in found.items()]))
