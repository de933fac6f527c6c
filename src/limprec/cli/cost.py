"""``limprec cost``: what a training step costs in energy and memory."""

from __future__ import annotations

import importlib
import os
import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import LabError
from .options import PlanName, load_plan
from .output import Json, print_json, print_table, print_text

if TYPE_CHECKING:
    from torch.nn import Module

    from ..integrations.zeus import Measured
    from ..lab.models import Task

_IMAGE: tuple[tuple[int, ...], int] = ((3, 32, 32), 10)
_TEXT: tuple[tuple[int, ...], int] = ((128,), 65)
_USUAL = {"lenet5": ((1, 28, 28), 10), "mlp": ((1, 28, 28), 10)}
"""Input shape and classes: MNIST's for its networks, else CIFAR-10's or tinyshakespeare's."""


class Shard(StrEnum):
    """Names of ``costs.layouts.SHARDS``."""

    NONE = "none"
    ZERO1 = "zero1"
    ZERO2 = "zero2"
    ZERO3 = "zero3"


def cost(
    model: Annotated[
        str,
        typer.Option(
            help="Network: lenet5, mlp, resnet20, gpt-mini, lstm, or package.module:factory for"
            " one of your own, made without values; that wants --input-shape."
        ),
    ] = "resnet20",
    plan: PlanName = "dfx8",
    input_shape: Annotated[
        str | None,
        typer.Option(help="One sample, e.g. 3,32,32, or tokens of one, e.g. 128. [default: usual]"),
    ] = None,
    classes: Annotated[
        int | None, typer.Option(help="Outputs; the vocabulary, for text. [default: the usual]")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Samples of a step on each device.")] = 128,
    technology: Annotated[
        str, typer.Option(help="Energies per operation: 45nm, 7nm or a TOML file.")
    ] = "45nm",
    optimizer: Annotated[
        str,
        typer.Option(help="sgd, sgd-momentum, adam, adamw, rmsprop, lion, adafactor or muon."),
    ] = "sgd-momentum",
    writeback: Annotated[
        str | None,
        typer.Option(
            help="nearest, stochastic, kahan, lazy, master or split."
            " [default: kahan, nearest without a plan]"
        ),
    ] = None,
    storage_format: Annotated[
        str,
        typer.Option("--format", help="Stored parameters: plan, carrier, or the name of a format."),
    ] = "plan",
    state_format: Annotated[
        str | None, typer.Option(help="Optimizer states. [default: the plan's]")
    ] = None,
    compensation_format: Annotated[
        str | None,
        typer.Option(help="Compensation; also ulp8 and ulp16. [default: the plan's]"),
    ] = None,
    carrier: Annotated[
        str | None, typer.Option(help="Format of what the plan leaves. [default: fp32]")
    ] = None,
    accumulator: Annotated[
        str | None, typer.Option(help="Format of sums. [default: int32 for integers, else fp32]")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Steps of the whole training, for the energy of the run.")
    ] = None,
    schedule: Annotated[
        str | None,
        typer.Option(help="Cyclic forward bits, e.g. 3-8, or 3-8x16 for 16 cycles; needs --steps."),
    ] = None,
    devices: Annotated[int, typer.Option(help="Devices that train in parallel.")] = 1,
    shard: Annotated[
        Shard, typer.Option(help="What devices keep a share of: states, gradients, parameters.")
    ] = Shard.NONE,
    recompute: Annotated[
        list[str] | None,
        typer.Option(help="Pattern of modules computed again going back; may be repeated."),
    ] = None,
    every_layer: Annotated[
        bool, typer.Option("--every-layer", help="List all layers, not the costliest alone.")
    ] = False,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure", help="Also measure fp32 steps with the machine's own counters (Zeus)."
        ),
    ] = False,
    page: Annotated[Path | None, typer.Option(help="Write an HTML page here too.")] = None,
    json: Json = False,
) -> None:
    """Tell what a training step costs in energy and memory under a plan.

    Nothing is trained: the network runs once on tensors without values. docs/cost.md says what is
    counted and what is not.
    """
    from ..costs import cost as ask
    from ..costs import cross_entropy, energy_table
    from ..schedule import Cyclic

    prices = energy_table(technology)
    precision_plan = load_plan(plan)
    cycles = None if schedule is None else Cyclic.parse(schedule)
    if ":" in model:
        network, task = _own_model(model), None
        shape = _sizes(input_shape, "3,224,224")
    else:
        from ..lab.models import build_model

        task = _task(model, input_shape, classes)
        network, shape = build_model(model, task, seed=0), task.input_shape
    answer = ask(
        network,
        precision_plan,
        shape,
        batch_size,
        technology=prices,
        optimizer=optimizer,
        writeback=writeback,
        format=None if storage_format == "carrier" else storage_format,
        state_format=state_format,
        compensation_format=compensation_format,
        carrier=carrier,
        accumulator=accumulator,
        steps=steps,
        schedule=cycles,
        devices=devices,
        shard=shard.value,
        loss=cross_entropy if task else None,
        recompute=recompute or (),
    )
    if measure and task is None:
        raise LabError("cost", f"--measure of {model}", "name one of the lab's networks")
    measured = _measure(model, task, batch_size) if measure and task else None
    title = f"A training step of {model}, batch {batch_size}, {prices.name}"
    if page is not None:
        from ..lab.cost_page import write_cost_page

        write_cost_page(answer, page, title, shlex.join(["limprec", *sys.argv[1:]]))
    if json:
        extra = {"measured": _as_dict(measured)} if measure else {}
        print_json({"model": model, **answer.as_dict(), **extra})
        return
    from ..costs import words

    for number, (header, rows) in enumerate(
        (
            words.comparison(answer),
            words.by_layer(answer, None if every_layer else words.MOST_LAYERS),
            words.by_role(answer),
            words.memory(answer),
        )
    ):
        print_table(header, rows, title=title if number == 0 else None)
        print_text()
    lines = words.notes(answer)
    if measure:
        lines.append(_in_words(measured))
    if page is not None:
        lines.append(f"Page in {page}")
    for line in lines:
        print_text(line)


def _task(model: str, input_shape: str | None, classes: int | None) -> Task:
    from ..lab.models import Task, find_model

    kind = find_model(model).kind
    shape, usual_classes = _USUAL.get(model, _TEXT if kind == "text" else _IMAGE)
    if input_shape is not None:
        example = "128, the tokens of one input" if kind == "text" else "3,32,32"
        shape = _sizes(input_shape, example)
        if (len(shape) == 1) != (kind == "text"):
            raise LabError("cost", f"input shape {input_shape!r} for {model}", f"write {example}")
    if classes is not None and classes < 2:
        raise LabError("cost", f"{classes} classes", "give 2 or more")
    return Task(kind, shape, classes or usual_classes)


def _sizes(text: str | None, example: str) -> tuple[int, ...]:
    try:
        shape = tuple(int(size) for size in (text or "").split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise LabError("cost", f"input shape {text!r}", f"write {example}")
    return shape


def _own_model(name: str) -> Module:
    """Make the network of ``package.module:factory`` on the meta device."""
    import torch

    module, _, factory = name.partition(":")
    sys.path.insert(0, os.getcwd())  # as ``python -m`` does
    try:
        make = getattr(importlib.import_module(module), factory)
        with torch.device("meta"):
            network = make()
    except Exception as error:  # whatever a user's module raises
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise LabError(
            "cost", f"cannot make {name}: {reason}", "name a function that returns a torch module"
        ) from error
    finally:
        sys.path.remove(os.getcwd())
    if not isinstance(network, torch.nn.Module):
        raise LabError("cost", f"{name} made a {type(network).__name__}", "return a torch module")
    return network


def _measure(model: str, task: Task, batch: int) -> Measured | None:
    from ..lab.energy import measure_step

    return measure_step(model, task, batch)


def _as_dict(measured: Measured | None) -> dict[str, Any]:
    from ..integrations.zeus import NO_COUNTER

    if measured is None:
        return {"absent": NO_COUNTER}
    return {
        "joules": dict(measured.joules),
        "joules_per_step": measured.per_step,
        "seconds": measured.seconds,
        "steps": measured.steps,
    }


def _in_words(measured: Measured | None) -> str:
    from ..costs.words import joules
    from ..integrations.zeus import NO_COUNTER

    if measured is None:
        return f"Measured: {NO_COUNTER}."
    counters = ", ".join(
        f"{name} {joules(e / measured.steps)}" for name, e in measured.joules.items()
    )
    return (
        f"Measured on this machine, one fp32 step of {measured.steps}: {counters};"
        " what it draws at rest is in it, and it is not the machine of the table."
    )
