"""The diagnosis names the fault that is planted in a training, and is silent on a healthy one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from trainings import in_dtype, planned, scaled

import limprec as lp
from limprec.diagnosis import Report


def outlier(x: Tensor) -> Tensor:
    """Make one feature huge: it sets the scale of the whole tensor."""
    return torch.cat([x[:, :-1], torch.full_like(x[:, -1:], 1e4)], 1)


FAULTS: dict[str, tuple[Callable[[], Report], str, str, str, str]] = {
    "too few update bits": (
        lambda: planned(writeback="nearest", lr=0.01),
        "lost updates", "first.weight", "loses 5", "writeback='kahan'",
    ),
    "softmax starved": (
        lambda: planned(classes=256, error="dfx6"),
        "softmax starved", "head", "256 classes in dfx6", "error='dfx9' at the classifier",
    ),
    "error overflow": (
        lambda: planned(error="e4m3", loss_scale=2.0**16),
        "overflow", "head", "of the error lies beyond the range of e4m3", "more exponent bits",
    ),
    "error overflow to infinity": (
        lambda: planned(error="fp16", loss_scale=2.0**24),
        "overflow", "head", "becomes infinite or NaN", "a smaller loss scale",
    ),
    "error underflow": (
        lambda: planned(error="e5m2", loss_scale=2.0**-12),
        "underflow", "head", "100% of the error's mass is rounded to 0 (e5m2)",
        "'e5m2:stochastic'",
    ),
    "accumulator swamped": (
        lambda: planned(watch={"accumulator": "e8m2"}),
        "accumulator swamped", "head", "sums of 64 terms (gradient product)", "chunk=8",
    ),
    "dead scale, by an outlier": (
        lambda: planned(change=outlier, lr=1e-6),
        "dead scale", "first", "the largest element, 1e+04, sets the scale of dfx8", "dfx8b32",
    ),
    "dead scale, too coarse": (
        lambda: planned(activation="fx8.0", change=lambda x: x / 20),
        "dead scale", "first", "a step of 1 is too coarse", "fx8.9",
    ),
    "loss scale too small": (
        lambda: scaled(2.0**-8),
        "loss scale", "head", "under the smallest normal number of fp16", "a larger loss scale",
    ),
    "loss scale too large": (
        lambda: scaled(2.0**40, backoff=0.9, every=1),
        "loss scale", "", "steps looked at were skipped", "a smaller loss scale",
    ),
    "frozen norm weights": (
        lambda: in_dtype(lambda p: lp.optim.AdamW(p, 1e-3, writeback="nearest")),
        "frozen parameter", "norm.weight", "under half an ulp", "writeback='kahan'",
    ),
    "frozen norm weights under another optimizer": (
        lambda: in_dtype(lambda p: torch.optim.AdamW(p, 1e-3)),
        "frozen parameter", "norm.weight", "under half an ulp", "an optimizer of lp.optim",
    ),
}  # fmt: skip
"""Fault -> training, and what is found: kind, place, words, remedy."""


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_named(fault: str) -> None:
    train, kind, layer, says, change = FAULTS[fault]
    report = train()
    assert report.findings, report.table()
    assert {finding.kind for finding in report.findings} == {kind}, report.table()
    worst = report.findings[0]
    assert worst.layer == layer
    assert says in worst.says
    assert change in worst.change
    assert (report.rows[0].layer, report.rows[0].role) == (worst.layer, worst.role)
    assert kind.upper() in report.table()


HEALTHY: dict[str, Callable[[], Report]] = {
    "dfx8, Kahan": lambda: planned(
        classifier="auto", watch={"shadow": True, "accumulator": "e5m10"}
    ),
    "dfx8, stochastic": lambda: planned(
        classifier="auto", error="dfx8:stochastic", writeback="stochastic"
    ),
    "dfx8, 256 classes, auto": lambda: planned(classes=256, classifier="auto"),
    "e8m3 sums in chunks": lambda: planned(watch={"accumulator": "e8m3", "chunk": 8}),
    "e8m3 sums with Kahan": lambda: planned(watch={"accumulator": "e8m3", "kahan": True}),
    "bf16, Kahan": lambda: in_dtype(lambda p: lp.optim.AdamW(p, 1e-3), shadow=True),
    "fp32": lambda: in_dtype(lambda p: torch.optim.SGD(p, 0.1), dtype=torch.float32),
    "fp16 with a scaler": lambda: scaled(2.0**14, shadow=True),
    "fp16 with a scaler that starts too high": lambda: scaled(2.0**27),
}


@pytest.mark.parametrize("training", HEALTHY)
def test_a_healthy_training_is_not_complained_of(training: str) -> None:
    report = HEALTHY[training]()
    assert report.findings == (), report.table()
    assert report.sampled >= 6
    assert "Nothing gets lost that would harm the training." in report.table()


def test_stochastic_rounding_at_few_bits_loses_nothing_on_average() -> None:
    starved = planned(classes=256, error="dfx6")
    unbiased = planned(classes=256, error="dfx6:stochastic")
    lost = [
        next(row["wrong_half_lost"] for row in report.rows if "wrong_half_lost" in row.measures)
        for report in (starved, unbiased)
    ]
    assert lost[0] > 0.9
    assert abs(lost[1]) < 0.1
    assert unbiased.findings == ()


def test_a_parameter_without_a_gradient_is_frozen() -> None:
    report = in_dtype(
        lambda p: lp.optim.SGD([*p, torch.nn.Parameter(torch.ones(3))], 0.1), norm=False
    )
    (found,) = report.findings
    assert "no gradient arrives" in found.says
    assert "requires_grad_(False)" in found.change


def test_a_learning_rate_of_zero_is_no_fault() -> None:
    report = in_dtype(lambda p: lp.optim.SGD(p, 0.0), dtype=torch.float32)
    assert report.findings == ()
    updates = [row for row in report.rows if row.role == "update"]
    assert {row.reason for row in updates} == {"nothing asked"}
