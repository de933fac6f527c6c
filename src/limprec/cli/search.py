"""``limprec search``: the cheapest plan that still works, and the front around it."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from .options import (
    BatchSize,
    Context,
    Data,
    DataDir,
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
    run_config,
    run_folder,
)
from .output import Json, print_json, print_table, print_text

if TYPE_CHECKING:
    from ..lab.search import Trial


def search(
    model: Model = "lenet5",
    data: Data = "mnist",
    plan: PlanName = "dfx8",
    formats: Annotated[
        str,
        typer.Option(help="Comma-separated: what each role of each layer may take."),
    ] = "dfx2,dfx3,dfx4,dfx5,dfx6,dfx7,dfx8",
    objective: Annotated[
        str, typer.Option(help="What is made small: energy or memory.")
    ] = "energy",
    technology: Annotated[
        str, typer.Option(help="Energies per operation: 45nm, 7nm or a TOML file.")
    ] = "45nm",
    within: Annotated[
        float, typer.Option(help="Points of accuracy that the plan may lie below the reference.")
    ] = 0.2,
    trials: Annotated[int, typer.Option(help="Trainings in all, those stopped early too.")] = 30,
    seeds: Annotated[
        int,
        typer.Option(help="Seeds of the final training of the plan and the reference; 0: none."),
    ] = 3,
    final_epochs: Annotated[
        int | None, typer.Option(help="Epochs of the final training. [default: as --epochs]")
    ] = None,
    sampler: Annotated[
        str, typer.Option(help="What proposes plans after the ordered ones: nsga2 or tpe.")
    ] = "nsga2",
    optimizer: OptimizerName = "sgd",
    writeback: Annotated[
        str,
        typer.Option(help="How updates are stored: nearest, stochastic, kahan, lazy or master."),
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
    seed: Seed = 0,
    context: Context = 128,
    data_dir: DataDir = None,
    storage: Annotated[
        str | None,
        typer.Option(
            help="Where the study is kept: a journal file or a URL of one of Optuna's databases,"
            " which several machines may share. [default: study.journal in --out]"
        ),
    ] = None,
    study: Annotated[
        str | None, typer.Option(help="Its name. [default: of model, data and plan]")
    ] = None,
    out: Out = None,
    json: Json = False,
) -> None:
    """Search the plan that saves most energy or memory at nearly the reference's accuracy.

    The reference is --plan. Given again, the command goes on where it was stopped. The folder holds
    plan.toml for limprec train --plan, the front's plans, a page and the study. docs/search.md says
    how it searches.
    """
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
        warmup=warmup,
        seed=seed,
        context=context,
    )
    from ..lab.search.settings import SearchSettings

    settings = SearchSettings(
        config,
        tuple(dict.fromkeys(name.strip() for name in formats.split(",") if name.strip())),
        objective=objective,
        technology=technology,
        within=within,
        trials=trials,
        seeds=seeds,
        final_epochs=final_epochs,
        sampler=sampler,
    )
    from ..lab.data import load_data

    data_set = load_data(data, data_dir=data_dir, context=context)
    from ..lab.progress import progress_bars
    from ..lab.search import search_plans, words
    from ..lab.search.page import write_search_page

    assert config.plan is not None
    folder = run_folder(out, "search", model, data, config.plan.name)
    with progress_bars() as bars:
        task = bars.add_task("search", total=trials, note="", start=False)

        def moved(label: str, done: int, share: float) -> None:
            if not bars.live.is_started and bars.console.is_terminal:
                bars.start()
            bars.start_task(task)
            bars.update(task, description=label, completed=done + (share if share < 1 else 0))

        def ended(trial: Trial, done: int) -> None:
            line = words.line(trial, objective)
            bars.update(task, completed=done, note=line)
            if trial.trained and not bars.console.is_terminal:
                bars.console.print(f"{done} of {trials}: {line}", soft_wrap=True, highlight=False)

        outcome = search_plans(
            settings,
            data_set,
            folder,
            storage=storage,
            study=study,
            on_trial=ended,
            on_step=moved,
        )
    command = shlex.join(["limprec", *sys.argv[1:]])
    title = f"{model} on {data}, from {config.plan.name}, {writeback}"
    page = write_search_page(outcome, folder / "search.html", title, command)
    if json:
        print_json(outcome.as_dict())
        return
    header, rows = words.front_rows(outcome)
    print_table(header, rows, title="The front", text_columns=(0, 1, 5))
    if outcome.final:
        print_text()
        header, rows = words.final_rows(outcome)
        print_table(header, rows, title="Trained anew")
    print_text()
    header, rows = words.layers(outcome, outcome.chosen)
    print_table(header, rows, title="The chosen plan", text_columns=range(len(header)))
    print_text()
    print_text(words.verdict(outcome))
    print_text(f"Plan: {folder / 'plan.toml'}")
    print_text(f"Page: {page}")
