"""A page about the guideline: the answer in words, and bits against classes as charts."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..bounds import Guideline, Width, guideline
from ..files import write_text
from .report import STYLE

_ROUNDINGS = {"nearest": "#0072b2", "stochastic": "#d55e00"}
_PARTS: tuple[tuple[str, Callable[[Guideline], Guideline | Width]], ...] = (
    ("The error", lambda a: a),
    ("The logits", lambda a: a.logits),
    ("The softmax's sum", lambda a: a.accumulator),
)


def write_page(
    answer: Guideline, asked: Mapping[str, Any], classes: Sequence[int], path: Path, command: str
) -> Path:
    """Write the page of an answer.

    Args:
        answer: what the guideline says.
        asked: the options it was asked with, but for the classes and their counts.
        classes: numbers of classes to draw, ascending.
        path: the HTML file, written whole or not at all.
        command: the command line that made it, shown on the page.

    Returns:
        The path.
    """
    title = f"How many bits the last layer needs: {answer.num_classes} classes"
    rows = "".join(
        f"<tr><td>{name}</td><td>{part(answer).least}</td><td>{part(answer).advised}</td>"
        f"<td>{html.escape(part(answer).unit)}</td></tr>"
        for name, part in _PARTS
    )
    reasons = "".join(f"<li>{html.escape(part(answer).reason)}</li>" for _, part in _PARTS)
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        f"<meta name='viewport' content='width=device-width'><style>{STYLE}</style>",
        f"<title>limprec: {title}</title></head><body><h1>{title}</h1>",
        f"<p class='lead'>Family {answer.family}, rounding {answer.rounding}.</p>",
        "<table><thead><tr><th></th><th>least</th><th>advised</th><th>unit</th></tr></thead>",
        f"<tbody>{rows}</tbody></table><ul>{reasons}</ul>",
        _charts(answer, asked, classes),
        f"<h2>How to repeat it</h2><pre>{html.escape(command)}</pre></body></html>\n",
    ]
    return write_text(path, "".join(parts))


def _charts(answer: Guideline, asked: Mapping[str, Any], classes: Sequence[int]) -> str:
    """Return a chart a part, Plotly's script inside the first."""
    import plotly.graph_objects as go

    lowest = (asked.get("sampled") or 0) + 1
    options = {name: value for name, value in asked.items() if name != "random_bits"}
    found = {
        rounding: [guideline(n, **{**options, "rounding": rounding}) for n in classes if n > lowest]
        for rounding in dict.fromkeys((*_ROUNDINGS, str(answer.rounding)))
    }
    parts = []
    for number, (name, part) in enumerate(_PARTS):
        figure = go.Figure()
        for rounding, answers in found.items():
            for dash, field in (("dot", "least"), ("solid", "advised")):
                figure.add_scatter(
                    x=[a.num_classes for a in answers],
                    y=[getattr(part(a), field) for a in answers],
                    name=f"{rounding}, {field}",
                    mode="lines+markers",
                    line={
                        "color": _ROUNDINGS.get(rounding, "#009e73"),
                        "dash": dash,
                        "shape": "hv",
                    },
                )
        figure.add_scatter(
            x=[answer.num_classes],
            y=[part(answer).advised],
            name="asked for",
            mode="markers",
            marker={"size": 13, "symbol": "circle-open", "color": "#222", "line": {"width": 3}},
        )
        figure.update_layout(
            template="simple_white",
            height=360,
            margin={"l": 70, "r": 20, "t": 20, "b": 50},
            xaxis={"title": "classes", "type": "log"},
            yaxis={"title": part(answer).unit, "rangemode": "tozero"},
            legend={"orientation": "h", "y": -0.25},
        )
        chart = figure.to_html(
            full_html=False,
            include_plotlyjs=number == 0,
            config={"displayModeBar": False, "responsive": True},
        )
        parts.append(f"<h2>{name}</h2>{chart}")
    return "".join(parts)
