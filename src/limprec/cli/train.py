"""``limprec train``: one training run."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import (
    BatchSize,
    Compute,
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


def train(
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
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    lr: Rate = None,
    momentum: Momentum = None,
    weight_decay: WeightDecay = None,
    warmup: Warmup = 0,
    wide_products: WideProducts = False,
    compute: Compute = "exact",
    schedule: Annotated[
        str | None,
        typer.Option(help="Cyclic forward bits (CPT), e.g. 3-8, or 3-8x16 for 16 cycles."),
    ] = None,
    seed: Seed = 0,
    context: Context = 128,
    data_dir: DataDir = None,
    out: Out = None,
    resume: Annotated[bool, typer.Option(help="Go on from the last checkpoint in --out.")] = False,
    json: Json = False,
) -> None:
    """Train a network under a precision plan or in bfloat16, with checkpoints and logs.

    The folder of the run holds checkpoints, metrics.csv, TensorBoard events and result.json.
    """
    from ..schedule import Cyclic

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
        compute=compute,
        schedule=None if schedule is None else Cyclic.parse(schedule),
        warmup=warmup,
        seed=seed,
        context=context,
    )
    from ..lab.data import load_data

    data_set = load_data(data, data_dir=data_dir, context=context)
    from ..lab.progress import StepProgress, progress_bars
    from ..lab.table import percent
    from ..lab.trainer import train as run

    name = config.plan.name if config.plan else dtype
    folder = run_folder(out, model, data, name, writeback)
    with progress_bars() as bars:
        label = f"{model} {name} {writeback}"
        result = run(
            config,
            data_set,
            folder,
            label=label,
            resume=resume,
            callbacks=(StepProgress(bars, label),),
        )
    if json:
        print_json(result.as_dict())
        return
    print_table(
        ("", ""),
        [
            ("test accuracy", f"{100 * result.accuracy:.2f} %"),
            ("test loss", f"{result.loss:.4f}"),
            ("updates lost", percent(result.updates_lost)),
            ("movement lost", percent(result.movement_lost)),
            ("bits per parameter", f"{result.total_state_bits:.0f}"),
            ("seconds", f"{result.seconds:.1f}"),
        ],
    )
    print_text(f"Results in {folder}")
