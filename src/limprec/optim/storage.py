"""In which format and dtype an optimizer keeps the tensors of a parameter.

An explicit option comes first, then the plan that the model was converted under (where ``format``
is "plan"), then a default that does not stall.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

import torch
from torch import Tensor

from ..errors import OptimizerError
from ..formats import (
    FloatingPoint,
    Format,
    Microscaling,
    Precision,
    Rounding,
    ScaledFormat,
    parse_format,
    parse_precision,
    with_rounding,
)
from ..kernels import check_holds, dtype_format
from ..kernels.steps import (
    BLOCK_DTYPES,
    SECOND_MOMENTS,
    ULP_DTYPES,
    Storage,
    WriteBack,
    computing_dtype,
)
from ..nn.tags import plan_of

FormatLike = str | Format | Precision | None
PLAN = "plan"
NARROW = 16
"""States of so many bits or fewer stall if they are rounded to nearest, unless told to be."""
MXFP8 = "mxfp8"
_FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)
_ULPS = {"ulp8": 8, "ulp16": 16}


class StorageOptions(TypedDict, total=False):
    """What every optimizer takes beside its own arguments, by keyword; groups may differ.

    writeback: ``nearest``, ``stochastic``, ``kahan`` (the default), ``lazy``, ``master`` or
        ``split`` (see ``WriteBack``).
    format: the parameters' format: None for that of their dtype, ``plan`` for the weight and bias
        formats of the plan that the model was converted under (dtype for the others), or a name.
        The parameters are rounded to nearest when the optimizer is made, and what that takes goes
        into what the write-back keeps.
    state_format: the states' format and rounding, one for all or a mapping from state names. None
        for the plan's, else the parameter's; second moments, and all states of float8 parameters,
        take bfloat16 where that would be narrower than float32. ``mxfp8`` means 8 bits in blocks:
        ``mxfp8_e4m3``, for second moments ``mxfp8_e5m2``. Where no rounding is named, states of 16
        bits or fewer are rounded stochastically, with 16 random bits.
    compensation_format: likewise for what Kahan and lazy keep; also ``ulp8`` and ``ulp16``: 8 or 16
        bits that count units of ulp(p) / 2^8 or 2^16. None for the plan's, else the parameter's;
        float8 parameters take ``ulp8``.
    compensation_rounding: ``nearest``, ``stochastic`` (16 random bits where the format has at most
        16) or e.g. ``stochastic8``; None for the one that is named with the format or in the plan.
        Where none is, Kahan's floating-point compensations of 16 bits or fewer are rounded
        stochastically, which removes the stall and the drift of small updates, others to nearest.
    strict: round u + c to the compensation's format first (Kahan).
    offload: keep the compensation (or copy) in main memory; it visits the device for each step.
    seed: owns every stochastic rounding of the group.
    """

    writeback: str
    format: FormatLike
    state_format: FormatLike | Mapping[str, FormatLike]
    compensation_format: FormatLike
    compensation_rounding: str | None
    strict: bool
    offload: bool
    seed: int


DEFAULTS: StorageOptions = {
    "writeback": "kahan",
    "format": None,
    "state_format": None,
    "compensation_format": None,
    "compensation_rounding": None,
    "strict": False,
    "offload": False,
    "seed": 0,
}


def parameter_storage(p: Tensor, group: dict[str, Any]) -> Storage:
    """Return how a parameter is kept.

    Raises:
        OptimizerError: for a dtype that parameters cannot have.
        FormatError: for a format that the parameter's dtype cannot hold.
    """
    dtype_format(p.dtype, "optimizer")
    precision = _of_parameter(p, group)
    check_holds(precision.format, p.dtype, "format")
    if group["writeback"] == WriteBack.STOCHASTIC:
        return Storage(_stochastic(precision.format), p.dtype)
    return Storage(Precision(precision.format), p.dtype)


def carry_storage(p: Tensor, group: dict[str, Any]) -> Storage | None:
    """Return how what the write-back keeps beside a parameter is kept, None for nothing.

    Raises:
        OptimizerError: for a write-back that the parameter's dtype or format cannot have.
        FormatError: for an unknown format, or one that no dtype here can hold.
    """
    strategy = group["writeback"]
    if strategy == WriteBack.MASTER:
        dtype = computing_dtype(p)
        return Storage(Precision(dtype_format(dtype, "master")), dtype)
    if strategy == WriteBack.SPLIT:
        own = _of_parameter(p, group).format
        if p.dtype != torch.bfloat16 or own != parse_format("bf16"):
            short = str(p.dtype).removeprefix("torch.")
            raise OptimizerError(
                "writeback",
                f"split of a {short} parameter in {own}",
                "split needs bfloat16 parameters in their own format; use kahan or master",
            )
        return Storage(Precision(own), torch.int16)
    if strategy not in (WriteBack.KAHAN, WriteBack.LAZY):
        return None
    return _compensation(p, group)


def state_storage(p: Tensor, group: dict[str, Any], name: str) -> Storage:
    """Return how one state of a parameter is kept.

    Raises:
        FormatError: for an unknown format, or one that no dtype here can hold.
    """
    second = name in SECOND_MOMENTS
    given = group["state_format"]
    if isinstance(given, Mapping):
        given = given.get(name)
    plan = plan_of(p) if PLAN in (given, group["format"]) else None
    if given is not None and given != PLAN:
        precision = named_state(given, second)
    elif plan is not None and plan.momentum is not None and not second:
        precision = plan.momentum
    else:
        own = _of_parameter(p, group).format
        wide = isinstance(own, Format) and not isinstance(own, ScaledFormat) and own.bits > NARROW
        if not wide and (second or p.dtype in _FLOAT8):
            own = parse_format("bf16")
        precision = Precision(own) if wide else _stochastic(own)
    dtype = _memory(precision.format, p)
    return Storage(precision, dtype, above_zero=second and dtype in BLOCK_DTYPES.values())


def named_state(given: FormatLike, second: bool) -> Precision:
    """Return the precision of a state's format as users write it; narrow ones do not stall."""
    if given == MXFP8:
        given = "mxfp8_e5m2" if second else "mxfp8_e4m3"
    assert given is not None
    precision = parse_precision(given)
    if _names_rounding(given) or precision.format.bits > NARROW:
        return precision
    return _stochastic(precision.format)


def option_text(given: Any) -> Any:
    """Return a format option as text, so that it is good for a checkpoint; checks it."""
    if given is None or given in (PLAN, MXFP8):
        return given
    if isinstance(given, Precision):
        text = str(given)
        return text if ":" in text else f"{text}:{given.rounding}"
    if isinstance(given, str) and given.partition(":")[0] in _ULPS:
        parse_precision("fp32:" + (given.partition(":")[2] or "nearest"))
        return given
    precision = parse_precision(given)
    return given if isinstance(given, str) else str(precision)


def element_bits(storage: Storage) -> float:
    """Return the bits that one element takes in its format, its share of a scale included."""
    if storage.ulp_bits:
        return storage.ulp_bits
    if storage.dtype == torch.int16:  # the lower half of a split parameter
        return 16
    scale = 8 / storage.format.block if isinstance(storage.format, Microscaling) else 0
    return storage.format.bits + scale


def _compensation(p: Tensor, group: dict[str, Any]) -> Storage:
    given, rounding = group["compensation_format"], group["compensation_rounding"]
    own = _of_parameter(p, group)
    plan = plan_of(p) if PLAN in (given, group["format"]) else None
    planned = plan.compensation if plan is not None and given in (None, PLAN) else None
    if given is None and planned is None and p.dtype in _FLOAT8:
        given = "ulp8"
    if isinstance(given, str) and given.partition(":")[0] in _ULPS:
        name, _, named = given.partition(":")
        if isinstance(own.format, ScaledFormat) or group["strict"]:
            what = "strict" if group["strict"] else f"a parameter in {own.format}"
            raise OptimizerError(
                "compensation_format", f"{given} with {what}", "name a format, e.g. bf16 or dfx8"
            )
        bits = _ULPS[name]
        rest = _rounded(own.format, rounding or named or Rounding.NEAREST)
        return Storage(rest, ULP_DTYPES[bits], ulp_bits=bits)
    if given is not None and given != PLAN:
        precision, is_said = parse_precision(given), _names_rounding(given)
    else:
        precision, is_said = planned or Precision(own.format), planned is not None
    if rounding is None and not is_said and group["writeback"] == WriteBack.KAHAN:
        narrow_float = isinstance(precision.format, FloatingPoint)
        narrow_float = narrow_float and precision.format.bits <= NARROW
        rounding = Rounding.STOCHASTIC if narrow_float else None
    if rounding is not None:
        precision = _rounded(precision.format, rounding)
    if isinstance(precision.format, Microscaling):  # no scales lie beside a compensation
        return Storage(precision, computing_dtype(p))
    return Storage(precision, _memory(precision.format, p))


def _names_rounding(given: FormatLike) -> bool:
    return isinstance(given, Precision) or (isinstance(given, str) and ":" in given)


def _of_parameter(p: Tensor, group: dict[str, Any]) -> Precision:
    given = group["format"]
    plan = plan_of(p) if given == PLAN else None
    if plan is not None:
        return plan.parameter
    if given is None or given == PLAN:
        return Precision(dtype_format(p.dtype, "optimizer"))
    return parse_precision(given)


def _memory(fmt: Format, p: Tensor) -> torch.dtype:
    """Return the dtype for a state or compensation: the format's real bits where torch has them."""
    if isinstance(fmt, Microscaling) and fmt.block == 32 and fmt.axis == -1:  # noqa: SIM102
        if fmt.element.name in BLOCK_DTYPES:
            return BLOCK_DTYPES[fmt.element.name]
    for dtype in (torch.float32, torch.bfloat16, torch.float16, *_FLOAT8):
        if dtype_format(dtype, "state") == fmt:
            return dtype
    wide = computing_dtype(p)
    check_holds(fmt, wide, "state or compensation")
    return wide


def _stochastic(fmt: Format) -> Precision:
    """Round stochastically; 16 random bits are all that bfloat16 drops from float32."""
    return _rounded(fmt, Rounding.STOCHASTIC)


def _rounded(fmt: Format, rounding: str) -> Precision:
    if rounding == Rounding.STOCHASTIC and fmt.bits <= NARROW:
        return Precision(fmt, Rounding.STOCHASTIC, NARROW)
    return with_rounding(Precision(fmt), rounding)
