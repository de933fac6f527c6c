"""``limprec guideline``: how many bits the last layer needs."""

from __future__ import annotations

from typing import Annotated

import typer

from ..bounds import Family, Reduction
from ..formats import Rounding
from .output import Json, print_json, print_table, print_text


def guideline(
    classes: Annotated[
        int, typer.Option(help="Classes of the softmax (words, for a language model).")
    ],
    family: Annotated[
        Family, typer.Option(help="Kind of format: fixed (also dynamic fixed point) or float.")
    ] = "fixed",
    rounding: Annotated[
        Rounding, typer.Option(help="How the error is rounded.")
    ] = Rounding.NEAREST,
    batch: Annotated[int, typer.Option(help="Samples in a step; matters for a mean.")] = 1,
    reduction: Annotated[
        Reduction, typer.Option(help="Whether the loss is the sum or the mean over the batch.")
    ] = "sum",
    loss_scale: Annotated[float, typer.Option(help="Factor on the loss.")] = 1.0,
    label_smoothing: Annotated[
        float, typer.Option(help="Share of the target spread over all classes.")
    ] = 0.0,
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
    json: Json = False,
) -> None:
    """Tell how many bits the error at the last layer needs.

    With C classes each wrong class starts with an error near 1/C. A format too narrow rounds it to
    0, and half of the gradient is lost.
    """
    from ..bounds import guideline as ask

    answer = ask(
        classes,
        family=family,
        rounding=rounding,
        batch=batch,
        reduction=reduction,
        loss_scale=loss_scale,
        label_smoothing=label_smoothing,
        amax=amax,
        scale_exponent=scale_exponent,
        mantissa_bits=mantissa_bits,
    )
    if json:
        print_json(answer.as_dict())
        return
    kind = {"fixed": "fixed point", "float": "floating point"}[family]
    print_table(
        ("", answer.unit),
        [("least", str(answer.least)), ("advised", str(answer.advised))],
        title=f"Error at the last layer, {classes} classes, {kind}, rounding {rounding}",
    )
    print_text()
    print_text(answer.reason)
