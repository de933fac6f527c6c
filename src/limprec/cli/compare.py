"""``limprec compare``: the same network under several write-backs."""

from __future__ import annotations

import shlex
import sys
from typing import Annotated

import typer

from .options import (
    BatchSize,
    Context,
    Data,
    DataDir,
    Dtype,
    Epochs,
    Model,
    Momentum,
    OptimizerName,
    Out,
    PlanName,
    Rate,
    Seed,
    Warmup,
    WeightDecay,
    WideProducts,
    run_config,
    run_folder,
)
from .output import Json, print_json, print_table, print_text


def compare(
    model: Model = "lenet5",
    data: Data = "digits",
    plan: PlanName = None,
    dtype: Dtype = "float32",
    optimizer: OptimizerName = "sgd",
    writebacks: Annotated[
        str,
        typer.Option(
            help="Comma-separated: nearest, stochastic, kahan (a compensation rounded to nearest),"
            " kahan-stochastic (rounded stochastically), lazy, master, split (bfloat16 alone)."
        ),
    ] = "nearest,stochastic,kahan",
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    lr: Rate = None,
    momentum: Momentum = None,
    weight_decay: WeightDecay = None,
    warmup: Warmup = 0,
    wide_products: WideProducts = False,
    computes: Annotated[
        str,
        typer.Option(
            help="Comma-separated ways to compute the plan's products: exact (float32), fast"
            " (as this machine is fastest), real (integers)."
        ),
    ] = "exact",
    seed: Seed = 0,
    seeds: Annotated[
        int, typer.Option(help="How many seeds, from --seed on; tables give mean and spread.")
    ] = 1,
    context: Context = 128,
    data_dir: DataDir = None,
    out: Out = None,
    json: Json = False,
) -> None:
    """Train one network in fp32 and in few bits with several write-backs, side by side.

    Ends with a table and a report page. A variant that is finished already is read from the
    folder, so an interrupted comparison goes on where it stopped.
    """
    base = run_config(
        model,
        data,
        plan,
        "nearest",
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        momentum=momentum,
        weight_decay=weight_decay,
        optimizer=optimizer,
        dtype=dtype,
        wide_products=wide_products,
        warmup=warmup,
        seed=seed,
        context=context,
    )
    from ..lab.data import load_data
    from ..lab.variants import variants

    rows = variants(base, _listed(writebacks), seeds, _listed(computes))
    data_set = load_data(data, data_dir=data_dir, context=context)
    from ..lab import table
    from ..lab.compare import compare as run
    from ..lab.progress import StepProgress, progress_bars
    from ..lab.report import write_report

    folder = run_folder(out, "compare", model, data, base.plan.name if base.plan else dtype)
    with progress_bars() as bars:
        results = run(rows, data_set, folder, on_start=lambda row: [StepProgress(bars, row.title)])
    command = shlex.join(["limprec", *sys.argv[1:]])
    report = write_report(results, folder / "report.html", command)
    table.write_markdown(results, folder / "table.md", command)
    if json:
        print_json([result.as_dict() for result in results])
        return
    print_table(table.HEADER, table.rows(results))
    for note in table.notes(results):
        print_text(note)
    print_text(f"\nReport: {report}")


def _listed(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]
