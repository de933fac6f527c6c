"""From measures to words: which fault bites where, and what to change.

Every threshold is a name below. They are ours: set so that a healthy training stays silent, and
the planted faults of ``tests/diagnosis/test_faults.py`` do not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..accumulation import NOISE, accumulator_bits
from ..bounds import guideline, widen
from ..errors import LimprecError
from ..formats import (
    DynamicFixedPoint,
    FixedPoint,
    FloatingPoint,
    Format,
    ScaledFormat,
    parse_precision,
)

MOVEMENT = 0.1
"""Share of the movement lost in write-back."""
COUNT = 0.5
"""Share of the updates lost, where the movement is not known (optimizers of others)."""
STILL = 0.95
"""Share of a parameter's elements that never moved; all of them where no gradient came."""
MASS = 0.25
"""Share of the mass of errors or gradients that rounding takes, net."""
WRONG_HALF = 0.5
"""Share of the wrong classes' half of the softmax error that rounding takes, net."""
UNBALANCED = 0.1
"""Share of the softmax error's mass that is out of balance: else both halves are lost alike."""
BEYOND = 0.01
"""Share of elements beyond a format's range."""
DEAD = 0.9
"""Share of a weight's or activation's non-zero elements that become 0 under one scale."""
SUBNORMAL = 0.25
"""Share of a float16 error's non-zero elements that have lost bits to the end of the range."""
SUM_ERROR = math.sqrt(NOISE)
"""Error of a layer's sums; the same that ``accumulator_bits`` allows."""
SKIPPED = 0.2
"""Share of the sampled steps that a gradient scaler skipped."""
TOO_SMALL, SATURATED, PENDING = "too small", "saturated", "pending"
NO_GRADIENT, NOTHING_ASKED = "no gradient", "nothing asked"
"""Why elements of a parameter stand still."""
_BACKWARD = ("error", "gradient", "bias gradient")


@dataclass(frozen=True)
class Row:
    """What was measured of one role of one layer.

    Args:
        layer: the layer's dotted name; the parameter's for roles of a parameter; may be empty.
        role: as in a plan, and ``update``, ``accumulator: PRODUCT``, ``loss scale``.
        format: short name of the format and rounding.
        how: the write-back, for updates.
        reason: why most of the elements that stand still do, for updates; ``TOO_SMALL`` and so on.
        measures: name -> finite number, defined in ``docs/diagnosis.md``.
    """

    layer: str
    role: str
    format: str
    how: str = ""
    reason: str = ""
    measures: Mapping[str, float] = field(default_factory=dict)

    def joined(self, other: Row) -> Row:
        """Return this row with another's measures beside its own."""
        return replace(self, measures={**self.measures, **other.measures})

    def __getitem__(self, name: str) -> float:
        """Return a measure, 0 where there is none of that name."""
        return self.measures.get(name, 0.0)


@dataclass(frozen=True)
class Finding:
    """One fault at one place.

    Args:
        kind: short name, e.g. ``lost updates``.
        obstacle: 1 lost updates, 2 softmax, 3 accumulators (DESIGN), None for others.
        layer: of the row it was found in.
        role: likewise.
        severity: share of what is lost, 0 to 1.
        says: what happens, in words.
        change: what to change, naming the option.
    """

    kind: str
    obstacle: int | None
    layer: str
    role: str
    severity: float
    says: str
    change: str

    @property
    def place(self) -> str:
        """The layer, with the product for an accumulator."""
        _, _, product = self.role.partition(": ")
        return f"{self.layer} ({product})" if product else self.layer


def loss_of(row: Row) -> float | None:
    """Return the one share that says best how much a row loses; None where that is not known."""
    names = (
        "movement_lost", "wrong_half_lost", "mass_lost", "sum_error", "updates_lost",
        "flushed_against_fp32", "skipped",
    )  # fmt: skip
    return next((row.measures[name] for name in names if name in row.measures), None)


def find_faults(rows: Sequence[Row], sampled: int) -> tuple[Finding, ...]:
    """Return the faults of a diagnosis, worst first.

    Args:
        rows: in the order in which their tensors came by.
        sampled: steps that were looked at; a parameter is only called frozen after two.
    """
    scaled = any(row.role == "loss scale" for row in rows)
    found = []
    for row in rows:
        for rule in _RULES:
            fault = rule(row, scaled)
            if fault is not None and not (fault.kind == FROZEN and sampled < 2):
                found.append(fault)
                break
    found += _first_infinite(rows, found, scaled)
    if any(f.kind in (UNDERFLOW, SOFTMAX, LOSS_SCALE) for f in found):  # zeros follow from these
        found = [f for f in found if not (f.kind == SCALE and f.role in _BACKWARD)]
    order = {kind: place for place, kind in enumerate(KINDS)}
    return tuple(sorted(found, key=lambda f: (-f.severity, order[f.kind])))


LOST, SOFTMAX, SWAMPED = "lost updates", "softmax starved", "accumulator swamped"
OVERFLOW, UNDERFLOW, SCALE = "overflow", "underflow", "dead scale"
LOSS_SCALE, FROZEN = "loss scale", "frozen parameter"
KINDS = (LOSS_SCALE, OVERFLOW, SOFTMAX, SCALE, UNDERFLOW, SWAMPED, FROZEN, LOST)
"""The faults; where severities are equal, the cause comes before what follows from it."""


def _frozen(row: Row, scaled: bool) -> Finding | None:
    if row.role != "update" or row["still"] < STILL:
        return None
    says, change = {
        TOO_SMALL: (
            "its updates are under half an ulp and get lost",
            _WRITE_BACK.get(row.how, _OTHERS),
        ),
        SATURATED: (
            "it stands at the end of its format's range and is pushed beyond",
            "a format with more range for this parameter",
        ),
        NO_GRADIENT: (
            "no gradient arrives",
            "see whether it takes part in the loss, or freeze it with requires_grad_(False)",
        ),
    }.get(row.reason, ("", ""))  # updates that collect beside it are no loss
    if not says or (row.reason == NO_GRADIENT and row["still"] < 1):  # e.g. words not seen yet
        return None
    says = f"{row.layer} does not move: {says} ({row.format}, {row.how})."
    return Finding(FROZEN, 1, row.layer, row.role, row["still"], says, change)


_WRITE_BACK = {
    "nearest": "writeback='kahan' (or 'stochastic'), or a wider format for the parameter",
    "stochastic": "writeback='kahan', whose noise is smaller, or a wider format",
    "kahan": "compensation_rounding='stochastic', or a wider compensation_format",
    "lazy": "writeback='kahan'",
    "master": "a larger learning rate: updates are under half an ulp of float32",
    "split": "a larger learning rate: updates are under half an ulp of float32",
}
_OTHERS = "an optimizer of lp.optim with writeback='kahan', or lp.optim.WriteBackWrapper around it"


def _lost(row: Row, scaled: bool) -> Finding | None:
    if row.role != "update":
        return None
    known = "movement_lost" in row.measures
    share = row["movement_lost" if known else "updates_lost"]
    # Stochastic rounding loses nothing on average, and one step's movement is noise.
    if share < (MOVEMENT if known else COUNT) or row.how == "stochastic":
        return None
    what = "of the movement that its updates ask for" if known else "of its updates"
    says = f"{row.layer} loses {share:.0%} {what} in write-back ({row.format}, {row.how})."
    change = _WRITE_BACK.get(row.how, _OTHERS)
    return Finding(LOST, 1, row.layer, row.role, min(share, 1.0), says, change)


def _starved(row: Row, scaled: bool) -> Finding | None:
    if row["wrong_half_lost"] < WRONG_HALF or row["balance_lost"] < UNBALANCED:
        return None
    classes = int(row["classes"])
    share, balance = row["wrong_half_lost"], row["balance_lost"]
    says = (
        f"{row.layer} rounds away {share:.0%} of the gradient that pushes wrong classes down"
        f" ({classes} classes in {row.format}); the errors no longer sum to 0, {balance:.0%} of"
        " their mass is out of balance."
    )
    change = f"error={_wide_enough(row.format, classes)} at the classifier, or 'auto' in the plan"
    return Finding(SOFTMAX, 2, row.layer, row.role, min(share, 1.0), says, change)


def _wide_enough(text: str, classes: int) -> str:
    """Return in words the precision that the guideline advises in place of a narrower one."""
    precision = parse_precision(text)
    try:
        wider: Format = widen(precision, classes).format
    except LimprecError:
        wider = DynamicFixedPoint(guideline(classes).advised)
    if wider == precision.format:  # wide enough for 1 / C: a mean over a batch, or skewed classes
        more = " (or a larger loss scale)" if isinstance(wider, FloatingPoint) else ""
        return f"'{wider}:stochastic'{more}"
    return f"'{replace(precision, format=wider)}'"


def _swamped(row: Row, scaled: bool) -> Finding | None:
    if not row.role.startswith("accumulator") or row["sum_error"] < SUM_ERROR:
        return None
    length = int(row["terms"])
    product = row.role.partition(": ")[2]
    lost = (
        f", {row['terms_lost']:.0%} of the terms are swamped"
        if "terms_lost" in row.measures
        else ""
    )
    says = (
        f"{row.layer}: sums of {length} terms ({product} product) are off by"
        f" {row['sum_error']:.0%} of their size in {row.format}{lost}."
    )
    bits = accumulator_bits(length, family="float").worst
    chunk = 1 << round(math.log2(max(length, 2)) / 2)
    fewer = accumulator_bits(length, family="float", chunk=chunk).worst
    change = (
        f"an accumulator of {bits} mantissa bits, or chunk={chunk} with {fewer}, or kahan=True"
        " (and enough exponent bits for the products)"
    )
    return Finding(SWAMPED, 3, row.layer, row.role, min(row["sum_error"], 1.0), says, change)


def _overflow(row: Row, scaled: bool) -> Finding | None:
    share = max(row["saturated"], row["made_infinite"])
    cut = row["mass_lost"] - row["flushed_mass"] if row["saturated"] else 0.0
    if not (row["made_infinite"] or share >= BEYOND or cut >= MASS):
        return None
    infinite, at = row["made_infinite"] > 0, (row.layer, row.role)
    severity = 1.0 if infinite else min(max(share, cut), 1.0)
    says = (
        f"{row.layer}: {_some(share)} of the {row.role} lies beyond the range of {row.format}"
        f" and {'becomes infinite or NaN' if infinite else 'is cut off'}."
    )
    if scaled and row.role in _BACKWARD:
        change = "a smaller loss scale"
        return None if infinite else Finding(LOSS_SCALE, None, *at, severity, says, change)
    change = (
        "a format with more exponent bits, one with a scale of its own (dfx8), or a smaller loss"
        " scale"
        if row.role in _BACKWARD
        else "a format with more range, or one with a scale of its own (dfx8)"
    )
    return Finding(OVERFLOW, None, *at, severity, says, change)


def _dead(row: Row, scaled: bool) -> Finding | None:
    if row.role not in ("weight", "activation", *_BACKWARD) or row.role.endswith("bias"):
        return None
    fmt = _format(row)
    if not isinstance(fmt, ScaledFormat | FixedPoint):
        return None
    if isinstance(fmt, ScaledFormat) and row["zeros"] == 1 and not row["infinite"]:
        says = f"{row.layer}: the {row.role} is 0 everywhere: its scale has nothing to follow."
        return Finding(SCALE, None, row.layer, row.role, 1.0, says,
                       "see what stops it (dead ReLUs, an error that is lost above)")  # fmt: skip
    if row["flushed_count"] < DEAD or row.role in _BACKWARD:
        return None
    lost = f"{row.layer}: {row['flushed_count']:.1%} of the {row.role} that is not 0 becomes 0"
    if isinstance(fmt, ScaledFormat):
        says = f"{lost}: the largest element, {row['amax']:.3g}, sets the scale of {row.format}."
        change = f"a scale per channel or block (dfx{fmt.bits}c0, dfx{fmt.bits}b32), or clip it"
    else:
        says = f"{lost}: a step of {fmt.lsb:g} is too coarse (largest element {row['amax']:.3g})."
        top = math.floor(math.log2(row["amax"])) + 1 if row["amax"] else 0
        change = f"fx{fmt.bits}.{fmt.bits - 1 - top}, or a scale that follows (dfx{fmt.bits})"
    return Finding(SCALE, None, row.layer, row.role, row["flushed_count"], says, change)


def _underflow(row: Row, scaled: bool) -> Finding | None:
    if row.role not in _BACKWARD:
        return None
    share = min(row["mass_lost"], row["flushed_mass"])  # what was cut off is no underflow
    if share >= MASS:
        says = f"{row.layer}: {share:.0%} of the {row.role}'s mass is rounded to 0 ({row.format})."
    elif row["flushed_against_fp32"] >= MASS:
        share = row["flushed_against_fp32"]
        says = f"{row.layer}: {share:.0%} of the {row.role}'s mass in fp32 is 0 in {row.format}."
    elif row.format == "fp16" and row["subnormal"] >= SUBNORMAL:
        share = row["subnormal"]
        says = (
            f"{row.layer}: {share:.0%} of the {row.role} lies under the smallest normal number of"
            " fp16, where bits get lost."
        )
    else:
        return None
    if scaled or row.format == "fp16":
        return Finding(LOSS_SCALE, None, row.layer, row.role, share, says, "a larger loss scale")
    change = (
        f"stochastic rounding ('{row.format.partition(':')[0]}:stochastic'), a larger loss scale,"
        " or a format with more exponent bits or a finer scale (blocks)"
    )
    return Finding(UNDERFLOW, None, row.layer, row.role, share, says, change)


def _skipped(row: Row, scaled: bool) -> Finding | None:
    if row.role != "loss scale" or row["skipped"] < SKIPPED or row["skipped_steps"] < 2:
        return None
    says = (
        f"{row['skipped']:.0%} of the steps looked at were skipped: gradients became infinite at a"
        f" loss scale of {row['scale_max']:g}."
    )
    return Finding(LOSS_SCALE, None, "", row.role, row["skipped"], says, "a smaller loss scale")


_RULES: tuple[Callable[[Row, bool], Finding | None], ...] = (
    _skipped, _frozen, _lost, _overflow, _starved, _swamped, _dead, _underflow,
)  # fmt: skip
"""In each row the first that applies speaks."""


def _first_infinite(rows: Sequence[Row], found: Sequence[Finding], scaled: bool) -> list[Finding]:
    """Return the place where infinities came up that no rounding of ours made.

    With a gradient scaler they are part of its search; ``_skipped`` judges how often they come.
    """
    if scaled or any(f.kind in (OVERFLOW, LOSS_SCALE) for f in found):
        return []
    for row in rows:
        if row.role in _BACKWARD and row["infinite"] > 0:
            says = (
                f"{row.layer}: {_some(row['infinite'])} of the {row.role} is infinite or NaN"
                f" ({row.format})."
            )
            kind = LOSS_SCALE if row.format == "fp16" else OVERFLOW
            change = (
                "a smaller loss scale (a GradScaler may overflow once at the start; pass scaler= to"
                " tell)"
                if kind == LOSS_SCALE
                else "a smaller learning rate"
            )
            return [Finding(kind, None, row.layer, row.role, 1.0, says, change)]
    return []


def _format(row: Row) -> Format | None:
    try:
        return parse_precision(row.format).format
    except LimprecError:
        return None


def _some(share: float) -> str:
    return f"{share:.1%}" if share >= 0.001 else "a part"
