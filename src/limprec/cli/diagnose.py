"""``limprec diagnose``: where updates and gradients get lost."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import DiagnosisError
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

if TYPE_CHECKING:
    from ..diagnosis import Report


def diagnose(
    model: Model = "lenet5",
    data: Data = "mnist",
    plan: PlanName = None,
    dtype: Dtype = "float32",
    optimizer: OptimizerName = "sgd",
    writeback: Annotated[
        str,
        typer.Option(
            help="How updates are stored: nearest, stochastic, kahan, lazy, master, or split"
            " (bfloat16 alone)."
        ),
    ] = "kahan",
    compensation_rounding: Annotated[
        str | None, typer.Option(help="nearest or stochastic. [default: the plan's or optimizer's]")
    ] = None,
    steps: Annotated[int, typer.Option(help="Training steps to watch, at most.")] = 500,
    every: Annotated[int, typer.Option(help="Look at one step in so many.")] = 50,
    shadow: Annotated[
        bool, typer.Option("--shadow", help="Also compare gradients with float32.")
    ] = False,
    accumulator: Annotated[
        str | None,
        typer.Option(help="Judge sums in this format, e.g. e5m10. [default: the plan's, if any]"),
    ] = None,
    chunk: Annotated[int | None, typer.Option(help="Terms in a partial sum of it.")] = None,
    kahan: Annotated[bool, typer.Option("--kahan", help="Whether it compensates sums.")] = False,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    lr: Rate = None,
    momentum: Momentum = None,
    weight_decay: WeightDecay = None,
    warmup: Warmup = 0,
    wide_products: WideProducts = False,
    seed: Seed = 0,
    context: Context = 128,
    data_dir: DataDir = None,
    load: Annotated[
        Path | None,
        typer.Option(help="Show a diagnosis that was recorded (JSON), and train nothing."),
    ] = None,
    rows: Annotated[int, typer.Option(help="Rows of the table, 0 for all.")] = 24,
    out: Out = None,
    json: Json = False,
) -> None:
    """Tell where updates and gradients get lost in a training, and what to change.

    Trains for some steps as limprec train would and watches, or shows a recorded diagnosis. The
    folder holds diagnosis.json and the page diagnosis.html.
    """
    if rows < 0:
        raise DiagnosisError("diagnose", f"rows is {rows}", "give 0 or more")
    if load is not None:
        from ..diagnosis import Report

        report, folder, title = Report.load(load), out, str(load)
    else:
        config = run_config(
            model,
            data,
            plan,
            writeback,
            compensation_rounding=compensation_rounding,
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

        data_set = load_data(data, data_dir=data_dir, context=context)
        from ..lab.diagnosing import diagnose_run
        from ..lab.progress import progress_bars

        name = config.plan.name if config.plan else dtype
        title = f"{model} on {data}, {name}, {writeback}"
        folder = run_folder(out, "diagnose", model, data, name, writeback)
        with progress_bars() as bars:

            def moved(done: int, total: int) -> None:
                if done == 1:
                    bars.add_task(title, total=total, note="")
                    bars.start()
                bars.update(bars.task_ids[0], completed=done)

            report = diagnose_run(
                config,
                data_set,
                steps=steps,
                every=every,
                shadow=shadow,
                accumulator=accumulator,
                chunk=chunk,
                kahan=kahan,
                on_step=moved,
            )
    if folder is not None:
        from ..lab.diagnosis_page import write_diagnosis_page

        report.save(folder / "diagnosis.json")
        command = shlex.join(["limprec", *sys.argv[1:]])
        page = write_diagnosis_page(report, folder / "diagnosis.html", title, command)
    if json:
        print_json(report.as_dict())
        return
    _show(report, rows)
    if folder is not None:
        print_text(f"\nPage: {page}")


def _show(report: Report, rows: int) -> None:
    for line in report.words():
        print_text(line)
    print_text()
    header, cells = report.cells()
    print_table(
        header,
        cells[: rows or None],
        title=f"{report.sampled} of {report.steps} steps looked at, {report.optimizer}",
        text_columns=(0, 1, 2),
    )
    for note in report.notes:
        print_text(note)
