"""Options that several commands share, and how a run is made of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ..lab.run import RunConfig
    from ..plan import Plan

Model = Annotated[str, typer.Option(help="Network: lenet5, mlp, resnet20, gpt-mini, lstm.")]
Data = Annotated[
    str,
    typer.Option(
        help="Data set: digits, mnist, fashion-mnist, cifar10, cifar100, imagefolder:DIR"
        " or text:FILE."
    ),
]
PlanName = Annotated[
    str | None,
    typer.Option(
        help="Precision plan: a TOML file, a ready plan's name, or fp32 for none."
        " [default: dfx8; fp32 with --dtype bfloat16]"
    ),
]
OptimizerName = Annotated[
    str, typer.Option(help="Optimizer: sgd, adam, adamw, lion, rmsprop, adafactor.")
]
Dtype = Annotated[
    str,
    typer.Option(
        help="What parameters, activations and gradients are really kept in: float32 or bfloat16."
    ),
]
WideProducts = Annotated[
    bool,
    typer.Option(
        "--wide-products",
        help="Compute the products of bfloat16 operands in float32, for processors that are slow"
        " at bfloat16.",
    ),
]
Compute = Annotated[
    str,
    typer.Option(
        help="How the plan's products are computed: exact (float32), fast (integers, bfloat16"
        " or float32, as this machine is fastest) or real (integers, for plans of 8 bits or fewer)."
    ),
]
Warmup = Annotated[int, typer.Option(help="Steps over which the rate rises to its peak.")]
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
Momentum = Annotated[
    float | None, typer.Option(help="Momentum. [default: 0.9 for sgd, 0 for rmsprop]")
]
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


def load_plan(name: str | None, dtype: str = "float32") -> Plan | None:
    """Return the plan of a name or file; ``fp32`` means none, None what is usual for the dtype."""
    from ..plan import Plan

    if name is None:
        name = "dfx8" if dtype == "float32" else "fp32"
    return None if name == "fp32" else Plan.load(name)


def run_config(
    model: str,
    data: str,
    plan: str | None,
    writeback: str,
    *,
    dtype: str = "float32",
    **training: Any,
) -> RunConfig:
    """Return the run that options describe, what is wrong with them said before the lab loads.

    Args:
        model: its name.
        data: the data set's name.
        plan: as ``load_plan`` takes it.
        writeback: its name.
        dtype: what parameters, activations and gradients are kept in.
        training: the other options, as ``RunConfig.usual`` takes them.
    """
    from ..optim.writeback import parse_write_back

    precision_plan = load_plan(plan, dtype)
    parse_write_back(writeback)
    from ..lab.run import RunConfig

    return RunConfig.usual(model, data, precision_plan, writeback, dtype=dtype, **training)


def run_folder(out: Path | None, *parts: str) -> Path:
    """Return ``out``, or a folder in ``runs`` named by the parts."""
    if out is not None:
        return out
    return Path("runs") / "-".join(re.sub(r"[^\w.]+", "-", part).strip("-") for part in parts)
