"""What the guideline says of the classifier's error in a plan."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ..bounds import shortfall, widen
from ..errors import GuidelineError, GuidelineWarning
from ..formats import (
    DynamicFixedPoint,
    DynamicFloatingPoint,
    FixedPoint,
    FloatingPoint,
    Format,
    Microscaling,
    Precision,
)

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Verdict:
    """Whether a plan's classifier has enough bits.

    Args:
        plan: its name.
        classes: of the softmax.
        error: precision of the classifier's error.
        enough: whether it is at least the least.
        auto: what ``auto`` would make of it.
        words: the verdict in a sentence.
        question: family, rounding and widths to ask the guideline with.
    """

    plan: str
    classes: int
    error: str
    enough: bool
    auto: str
    words: str
    question: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {k: v for k, v in asdict(self).items() if k not in ("question", "classes")}


def judge(name: str, model: nn.Module | None, classes: int | None) -> Verdict:
    """Judge a plan for a model, or for a number of classes.

    Args:
        name: a TOML file or a ready plan.
        model: the model whose last layer is judged; None judges the plan's ``[classifier]``.
        classes: of the softmax; None takes those of the plan.

    Raises:
        PlanError: for a plan that cannot be read or does not fit the model.
        GuidelineError: for no number of classes, two that differ, or a format without a rule.
    """
    from ..plan import AUTO, FP32, Plan, classifier_of

    plan = Plan.load(name)
    if plan.num_classes is not None and classes is not None and plan.num_classes != classes:
        raise GuidelineError(
            "guideline",
            f"plan {plan.name} is for {plan.num_classes} classes, not {classes}",
            "leave one of them out",
        )
    classes = classes or plan.num_classes
    if classes is None:
        raise GuidelineError(
            "guideline", f"plan {plan.name} has no num_classes", "give --classes or --model"
        )
    given = plan.classifier.get("error", plan.default.get("error", FP32))
    auto = given == AUTO
    if model is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", GuidelineWarning)  # said in the verdict
            last = classifier_of(model)
            assert last is not None  # the model was refused otherwise
            error = plan.resolve(model)[last].error
    else:
        base = plan.default.get("error", FP32) if auto else given
        assert isinstance(base, Precision)
        base = plan.scaling.of(base)
        error = widen(base, classes) if auto else base
    question = _question(error.format)
    short = shortfall(error, classes)
    wide = str(widen(error, classes))
    if short:
        words = f"Plan {plan.name} is below the guideline: {short}. auto would give {wide}."
    elif auto:
        words = f"Plan {plan.name} asks for auto, which gives the classifier's error {error}."
    else:
        advice = "" if wide == str(error) else f"; auto would give {wide}"
        words = f"Plan {plan.name} gives the classifier's error {error}: enough{advice}."
    return Verdict(
        plan.name,
        classes,
        str(error),
        short is None,
        wide,
        words,
        {**question, "rounding": error.rounding, "random_bits": error.random_bits},
    )


def _question(fmt: Format) -> dict[str, Any]:
    """Return the guideline's options for a format."""
    if isinstance(fmt, DynamicFixedPoint):
        return {"family": "fixed"}
    if isinstance(fmt, FixedPoint):
        return {"family": "fixed", "scale_exponent": fmt.bits - 1 - fmt.fraction_bits}
    if isinstance(fmt, FloatingPoint):
        mantissa = fmt.mantissa_bits if fmt.subnormals and fmt.mantissa_bits else None
        return {"family": "float", "mantissa_bits": mantissa}
    if isinstance(fmt, DynamicFloatingPoint):  # its scale lifts an error of 1 to the top
        return {**_question(fmt.element), "loss_scale": 2.0 ** fmt.exponent(1.0)}
    if isinstance(fmt, Microscaling):
        return {"family": "mx", "block": fmt.block}
    raise GuidelineError(
        "guideline", f"no rule for {fmt}", "use fixed, dynamic fixed or floating point, or MX"
    )
