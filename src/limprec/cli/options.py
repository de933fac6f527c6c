"""Options that several commands share, and how a run is made of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ..plan import Plan

Model = Annotated[str, typer.Option(help="Network: lenet5, mlp, resnet20, gpt-mini.")]
Data = Annotated[
    str,
    typer.Option(
        help="Data set: digits, mnist, fashion-mnist, cifar10, cifar100, imagefolder:DIR"
        " or text:FILE."
    ),
]
PlanName = Annotated[
    str, typer.Option(help="Precision plan: a TOML file, a ready plan's name, or fp32 for none.")
]
Epochs = Annotated[
    int | None, typer.Option(help="Passes over the training set. [default: 20 for digits, else 3]")
]
BatchSize = Annotated[
    int | None, typer.Option(help="Samples of one step. [default: 32 for digits, else 128]")
]
Rate = Annotated[
    float | None,
    typer.Option("--lr", help="Peak of the cosine rate. [default: the model's usual]"),
]
Momentum = Annotated[float, typer.Option(help="Momentum of SGD.")]
WeightDecay = Annotated[
    float | None, typer.Option(help="Weight decay. [default: the model's usual]")
]
Seed = Annotated[int, typer.Option(help="Seed of weights, data order and every rounding.")]
Context = Annotated[int, typer.Option(help="Tokens of one input, for text.")]
DataDir = Annotated[
    Path | None,
    typer.Option(help="Folder of the data. [default: $LIMPREC_DATA, else a cache]"),
]
Out = Annotated[Path | None, typer.Option(help="Folder for the results. [default: in runs/]")]


def load_plan(name: str) -> Plan | None:
    """Return the plan of a name or file; ``fp32`` means none."""
    from ..plan import Plan

    return None if name == "fp32" else Plan.load(name)


def run_folder(out: Path | None, *parts: str) -> Path:
    """Return ``out``, or a folder in ``runs`` named by the parts."""
    if out is not None:
        return out
    return Path("runs") / "-".join(re.sub(r"[^\w.]+", "-", part).strip("-") for part in parts)
