"""A report page of a comparison: one HTML file that needs no network."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from ..files import write_text
from . import table
from .run import RunResult

_COLORS = ("#222222", "#d55e00", "#e69f00", "#0072b2", "#009e73", "#cc79a7", "#56b4e9")
"""Okabe and Ito's palette, which colour-blind readers can tell apart."""

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.55 system-ui, sans-serif; color: #222; max-width: 980px; margin: 2.5rem auto;
       padding: 0 1.25rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; }
h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.lead { color: #555; margin-top: 0; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .45rem .7rem; border-bottom: 1px solid #ddd; text-align: right; }
th:first-child, td:first-child { text-align: left; }
th { font-weight: 600; border-bottom: 2px solid #222; }
ul, dl { color: #555; font-size: .9rem; }
pre { background: #f6f6f4; padding: .8rem 1rem; white-space: pre-wrap; font-size: .85rem; }
footer { color: #777; font-size: .85rem; margin-top: 3rem; }
"""


def write_report(results: Sequence[RunResult], path: Path, command: str) -> Path:
    """Write the page of a comparison.

    Args:
        results: at least one; the first label is the baseline.
        path: the HTML file, written whole or not at all.
        command: the command line that made it, shown on the page.

    Returns:
        The path.
    """
    config, env = results[0].config, results[0].environment
    seeds = ", ".join(str(s) for s in dict.fromkeys(r.config["seed"] for r in results))
    lead = (
        f"{config['model']} on {config['data']}, {config['epochs']} epochs,"
        f" batch {config['batch_size']}, seed {seeds}."
    )
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in table.HEADER)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
        for row in table.rows(results)
    )
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in table.notes(results))
    plan = next((r.config["plan"] for r in results if r.config["plan"]), None)
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        f"<meta name='viewport' content='width=device-width'><style>{STYLE}</style>",
        f"<title>limprec: {html.escape(lead)}</title></head>",
        f"<body><h1>Training in limited precision</h1><p class='lead'>{html.escape(lead)}</p>",
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><ul>{notes}</ul>",
        _charts(results),
        f"<h2>The plan</h2><pre>{html.escape(plan)}</pre>" if plan else "",
        f"<h2>How to repeat it</h2><pre>{html.escape(command)}</pre>",
        "<footer>" + html.escape(", ".join(f"{k} {v}" for k, v in env.items())) + "</footer>",
        "</body></html>\n",
    ]
    return write_text(path, "".join(parts))


def _charts(results: Sequence[RunResult]) -> str:
    """Return the charts as HTML, means over the seeds, Plotly's script inside the first."""
    import plotly.graph_objects as go

    curves = (
        ("Test accuracy by epoch", "test_accuracy", "test accuracy", ".1%", "linear"),
        ("Training loss by epoch", "train_loss", "cross entropy (nats)", None, "log"),
    )
    parts = []
    for number, (title, key, axis, tick, kind) in enumerate(curves):
        figure = go.Figure()
        groups = table.by_label(results)
        for (label, group), color in zip(groups.items(), _COLORS * 9, strict=False):
            epochs = list(zip(*(result.history for result in group), strict=True))
            figure.add_scatter(
                x=[records[0]["epoch"] for records in epochs],
                y=[fmean(record[key] for record in records) for records in epochs],
                name=label,
                mode="lines+markers",
                line={"color": color, "width": 2},
            )
        figure.update_layout(
            template="simple_white",
            height=380,
            margin={"l": 70, "r": 20, "t": 20, "b": 50},
            xaxis={"title": "epoch", "dtick": max(1, len(results[0].history) // 10)},
            yaxis={"title": axis, "tickformat": tick, "type": kind},
            legend={"orientation": "h", "y": -0.2},
        )
        chart = figure.to_html(
            full_html=False,
            include_plotlyjs=number == 0,
            config={"displayModeBar": False, "responsive": True},
        )
        parts.append(f"<h2>{title}</h2>{chart}")
    return "".join(parts)
