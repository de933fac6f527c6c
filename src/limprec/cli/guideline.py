"""``limprec guideline``: how many bits the last layer needs."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..bounds import Family, Reduction
from ..errors import GuidelineError
from ..formats import Rounding
from .bars import bars
from .options import DataDir
from .output import Json, print_json, print_table, print_text

if TYPE_CHECKING:
    from ..bounds import Guideline

KINDS = {"fixed": "fixed point", "float": "floating point", "mx": "MX blocks"}
POINTS = (2, 5, 10, 100, 1000, 10_000, 100_000, 1_000_000)
"""Numbers of classes in a chart."""


def guideline(
    classes: Annotated[
        int | None, typer.Option(help="Classes of the softmax (words, for a language model).")
    ] = None,
    family: Annotated[
        Family | None,
        typer.Option(
            help="Kind of format: fixed (also dynamic fixed point), float or mx. [default: fixed]"
        ),
    ] = None,
    rounding: Annotated[
        Rounding | None, typer.Option(help="How the error is rounded. [default: nearest]")
    ] = None,
    batch: Annotated[
        int, typer.Option(help="Samples (or tokens) in a step; matters for a mean.")
    ] = 1,
    reduction: Annotated[
        Reduction, typer.Option(help="Whether the loss is the sum or the mean over the batch.")
    ] = "sum",
    loss_scale: Annotated[float, typer.Option(help="Factor on the loss.")] = 1.0,
    label_smoothing: Annotated[
        float, typer.Option(help="Share of the target spread over all classes.")
    ] = 0.0,
    counts: Annotated[
        str | None,
        typer.Option(
            help="How often each class occurs: a file with one number a class, or a data set,"
            " e.g. mnist or text:FILE."
        ),
    ] = None,
    sampled: Annotated[
        int | None, typer.Option(help="Wrong classes that a sampled softmax draws.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Take the classes from a model's last layer: MODULE:NAME, e.g."
            " torchvision.models:resnet50; called without arguments."
        ),
    ] = None,
    plan: Annotated[
        str | None,
        typer.Option(help="Judge a precision plan: a TOML file or a ready plan's name."),
    ] = None,
    amax: Annotated[
        float | None,
        typer.Option(help="Largest error, 1 if it is reached. [default: just under 1]"),
    ] = None,
    scale_exponent: Annotated[
        int | None,
        typer.Option(help="Exponent E of a fixed scale 2^E. [default: follows the largest error]"),
    ] = None,
    mantissa_bits: Annotated[
        int | None,
        typer.Option(help="Mantissa bits of a float with subnormals. [default: no subnormals]"),
    ] = None,
    block: Annotated[
        int | None, typer.Option(help="Classes that share an MX scale. [default: 32]")
    ] = None,
    data_dir: DataDir = None,
    chart: Annotated[
        bool, typer.Option(help="Show the bits for other numbers of classes.")
    ] = False,
    page: Annotated[
        Path | None, typer.Option(help="Write a page with charts to this HTML file.")
    ] = None,
    json: Json = False,
) -> None:
    """Tell how many bits the last layer needs: its error, its logits and the softmax's sum.

    With C classes each wrong class starts with an error near 1/C. A format too narrow rounds it to
    0, and half of the gradient is lost. Give the classes with --classes, --counts or --model.
    """
    from ..bounds import guideline as ask
    from .classes import counts_of, last_layer_of

    options: dict[str, Any] = {
        "batch": batch,
        "reduction": reduction,
        "loss_scale": loss_scale,
        "label_smoothing": label_smoothing,
        "sampled": sampled,
        "amax": amax,
        "mantissa_bits": mantissa_bits,
        "scale_exponent": scale_exponent,
        "block": block,
    }
    if model is not None and (classes is not None or counts is not None):
        other = "classes" if classes is not None else "counts"
        raise GuidelineError("guideline", f"--model with --{other}", "leave one of them out")
    network, verdict = None, None
    if model is not None:
        network, classes = last_layer_of(model)
    class_counts = None if counts is None else counts_of(counts, data_dir)
    if plan is not None:
        _check_plan_options(family, rounding, options)
        from .verdict import judge

        verdict = judge(plan, network, classes if class_counts is None else len(class_counts))
        classes, chosen = verdict.classes, verdict.question
    else:
        chosen = {"family": family or "fixed", "rounding": rounding or Rounding.NEAREST}
    if classes is None and class_counts is None:
        raise GuidelineError(
            "guideline",
            "no number of classes",
            "give --classes, --counts, --model or a --plan that says num_classes",
        )
    asked = {**options, **chosen}
    answer = ask(classes, class_counts=class_counts, **asked)
    points = _points(answer, asked) if chart or page else []
    if page is not None:
        from ..lab.guideline_page import write_page

        command = shlex.join(["limprec", *sys.argv[1:]])
        write_page(answer, asked, sorted({*POINTS, answer.num_classes}), page, command)
    if json:
        plain = answer.as_dict()
        print_json(plain if verdict is None else {**plain, "plan": verdict.as_dict()})
        return
    _print(answer)
    if verdict is not None:
        print_text(f"\n{verdict.words}")
    if chart:
        print_text()
        for line in bars(points, answer.unit):
            print_text(line)
    if page is not None:
        print_text(f"\nPage: {page}")


def _print(answer: Guideline) -> None:
    """Print the table and the reasons."""
    rows = [
        ("error", answer.least, answer.advised, answer.unit, answer.formats),
        *(
            (name, width.least, width.advised, width.unit, width.formats)
            for name, width in (("logits", answer.logits), ("softmax sum", answer.accumulator))
        ),
    ]
    print_table(
        ("", "least", "advised", "", "such as"),
        [
            (name, str(least), str(advised), unit, formats[1] if formats else "")
            for name, least, advised, unit, formats in rows
        ],
        title=f"The last layer, {answer.num_classes} classes, {KINDS[answer.family]},"
        f" rounding {answer.rounding}",
        text_columns=(0, 3, 4),
    )
    for reason in (answer.reason, answer.logits.reason, answer.accumulator.reason):
        print_text(f"\n{reason}")


def _points(answer: Guideline, asked: dict[str, Any]) -> list[tuple[int, int, int]]:
    """Return (classes, least, advised) for other numbers of classes and otherwise equal."""
    from ..bounds import guideline as ask

    found = {answer.num_classes: (answer.least, answer.advised)}
    for classes in POINTS:
        if asked["sampled"] is None or asked["sampled"] < classes:
            other = ask(classes, **asked) if classes not in found else answer
            found[classes] = (other.least, other.advised)
    return [(classes, *found[classes]) for classes in sorted(found)]


def _check_plan_options(
    family: str | None, rounding: Rounding | None, options: dict[str, Any]
) -> None:
    """Refuse what the plan says already."""
    says = {"family": family, "rounding": rounding}
    says |= {n: options[n] for n in ("mantissa_bits", "scale_exponent", "block")}
    for name, value in says.items():
        if value is not None:
            option = "--" + name.replace("_", "-")
            raise GuidelineError(
                "guideline", f"{option} with --plan, which says it", "leave one of them out"
            )
