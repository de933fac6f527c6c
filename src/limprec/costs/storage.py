"""What training keeps for a parameter, and what an optimizer's step computes: formats alone.

Optimizers and write-backs are names here, so that a model too large to be made can be costed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ..errors import CostError
from ..formats import Format, Precision, ScaledFormat, parse_format, parse_precision
from ..plan import LayerPlan
from .work import Parameter

PLAN = "plan"
_FP32, _BF16 = parse_format("fp32"), parse_format("bf16")
_FLOAT8 = tuple(map(parse_format, ("e4m3", "e5m2")))
_NARROW = 16
"""Second moments of so many bits or fewer are kept in bf16, as the optimizers do."""
_BLOCKS = {"mxfp8": ("mxfp8_e4m3", "mxfp8_e5m2")}
"""Short for one format of first and another of second moments."""


@dataclass(frozen=True)
class Recipe:
    """An optimizer's states and its arithmetic per parameter, weight decay included.

    Args:
        first: momenta of the parameter's shape.
        second: means of squares of the parameter's shape.
        multiplies: multiplications; a root or a division counts as one.
        adds: additions, that of the update to the parameter included.
        is_factored: whether squares are kept as sums of rows and of columns, in float32.
        newton_schulz: iterations of an orthogonalisation, for matrices alone; other parameters
            are stepped by AdamW.
    """

    first: int
    second: int
    multiplies: int
    adds: int
    is_factored: bool = False
    newton_schulz: int = 0


OPTIMIZERS: Mapping[str, Recipe] = MappingProxyType(
    {
        # g + d p; p - lr g
        "sgd": Recipe(0, 0, 2, 2),
        # g + d p; m = mu m + g; p - lr m
        "sgd-momentum": Recipe(1, 0, 3, 3),
        # Kingma and Ba, ICLR 2015: g + d p; m = b m + (1-b) g; v = b' v + (1-b') g g;
        # p - lr m / (sqrt(v) c + eps)
        "adam": Recipe(1, 1, 10, 5),
        # Loshchilov and Hutter, ICLR 2019: p (1 - lr d) instead of g + d p
        "adamw": Recipe(1, 1, 10, 4),
        # Tieleman and Hinton 2012: g + d p; v = b v + (1-b) g g; p - lr g / (sqrt(v) + eps)
        "rmsprop": Recipe(0, 1, 7, 4),
        # Chen et al., NeurIPS 2023: c = b m + (1-b) g; p (1 - lr d) - lr sign(c); m likewise
        "lion": Recipe(1, 0, 6, 3),
        # Shazeer and Stern, ICML 2018, without momentum: g g + eps, its means over rows and
        # columns and their moving averages, g / sqrt(r c), clipped; p - lr u
        "adafactor": Recipe(0, 0, 8, 5, is_factored=True),
        # Jordan et al. 2024: m = mu m + g, Nesterov's, brought to norm 1, five Newton-Schulz
        # iterations; p (1 - lr d) - lr o
        "muon": Recipe(1, 0, 5, 4, newton_schulz=5),
    }
)
"""The optimizers by name."""

_BITS_BESIDE = {"ulp8": 8, "ulp16": 16}
WRITE_BACKS: Mapping[str, int] = MappingProxyType(
    {"nearest": 0, "stochastic": 0, "kahan": 3, "lazy": 2, "master": 0, "split": 0}
)
"""Write-back -> additions it needs beside that of the update."""


@dataclass(frozen=True)
class Tensors:
    """Bits per element that training keeps for one parameter, by role, and their totals.

    ``compensation`` is all that the write-back keeps beside the parameter: a compensation, a
    buffer, a full-precision copy or low halves.
    """

    elements: int
    parameter: float
    gradient: float
    compensation: float
    states: tuple[float, ...]
    """Bytes of each state, whole."""

    def bytes_by_role(self) -> dict[str, float]:
        """Return role -> bytes."""
        return {
            "parameter": self.elements * self.parameter / 8,
            "compensation": self.elements * self.compensation / 8,
            "state": math.fsum(self.states),
            "gradient": self.elements * self.gradient / 8,
        }


@dataclass(frozen=True)
class Storage:
    """How an optimizer keeps things, said in names.

    Args:
        optimizer: a name of ``OPTIMIZERS``.
        writeback: ``nearest`` and ``stochastic`` keep nothing beside a parameter, ``kahan`` and
            ``lazy`` one number in ``compensation_format``, ``master`` a float32 copy, ``split``
            the 16 low bits of one.
        format: of stored parameters: ``plan`` takes the weights' and biases' of the plan, None
            the carrier, else a name.
        state_format: of the states, or ``mxfp8``; None takes the plan's ``momentum``, else the
            parameter's; second moments, and all states of float8 parameters, take bf16 where that
            would be 16 bits or fewer. Adafactor's are float32.
        compensation_format: None takes the plan's ``compensation``, else the parameter's, for
            float8 ``ulp8``; also ``ulp8`` and ``ulp16``, one and two bytes.

    Raises:
        CostError: for an unknown optimizer or write-back, or a state format that it cannot have.
        FormatError: for an unknown format.
    """

    optimizer: str = "sgd-momentum"
    writeback: str = "kahan"
    format: str | None = PLAN
    state_format: str | None = None
    compensation_format: str | None = None

    def __post_init__(self) -> None:
        """Refuse names that do not exist."""
        _known("optimizer", self.optimizer, OPTIMIZERS)
        _known("writeback", self.writeback, WRITE_BACKS)
        for name, words in (
            (self.format, (PLAN,)),
            (self.state_format, (PLAN, *_BLOCKS)),
            (self.compensation_format, (PLAN, *_BITS_BESIDE)),
        ):
            if name is not None and name not in words:
                parse_precision(name)
        if self.recipe.is_factored and self.state_format is not None:
            raise CostError(
                "cost",
                f"state format {self.state_format} of {self.optimizer}",
                "leave it out: its states are float32",
            )

    @property
    def recipe(self) -> Recipe:
        """States and arithmetic of the optimizer."""
        return OPTIMIZERS[self.optimizer]

    def tensors(
        self,
        parameter: Parameter,
        plan: LayerPlan | None,
        kept: Mapping[str, Precision],
        carrier: Format,
    ) -> Tensors:
        """Return what is kept for a parameter.

        Args:
            parameter: a frozen one keeps itself alone.
            plan: what the plan says of its layer, None if nothing.
            kept: what the plan says of the optimizer.
            carrier: the format of what no plan speaks of.

        Raises:
            CostError: for ``split`` of a parameter that is not bf16.
        """
        own = carrier
        if self.format == PLAN:
            own = plan.stored(parameter.role, kept).format if plan else carrier
        elif self.format is not None:
            own = parse_precision(self.format).format
        bits = stored_bits(own)
        if not parameter.is_trained:
            return Tensors(parameter.elements, bits, 0, 0, ())
        gradient = plan.gradient.format if plan else carrier
        is_float8 = own in _FLOAT8 and own == carrier
        return Tensors(
            parameter.elements,
            bits,
            stored_bits(gradient),
            self._compensation(self._asked(self.compensation_format, plan, kept), own, is_float8),
            self._states(parameter, self._asked(self.state_format, plan, kept), own, is_float8),
        )

    def _asked(
        self, given: str | None, plan: LayerPlan | None, kept: Mapping[str, Precision]
    ) -> Mapping[str, Format]:
        """Return what the plan says of tensors beside a parameter, if it is asked."""
        asked = plan is not None and PLAN in (given, self.format)
        return {role: p.format for role, p in kept.items()} if asked else {}

    def _states(
        self, parameter: Parameter, planned: Mapping[str, Format], own: Format, is_float8: bool
    ) -> tuple[float, ...]:
        """Return the bytes of each state of a parameter."""
        recipe, shape = self._recipe_for(parameter), parameter.shape
        if recipe.is_factored:
            if len(shape) < 2:
                return (parameter.elements * _FP32.bits / 8,)
            rows, columns = math.prod(shape[:-1]), math.prod(shape[:-2]) * shape[-1]
            return (rows * _FP32.bits / 8, columns * _FP32.bits / 8)
        seconds = (*(False,) * recipe.first, *(True,) * recipe.second)
        formats = (self._state(second, planned, own, is_float8) for second in seconds)
        return tuple(parameter.elements * stored_bits(fmt) / 8 for fmt in formats)

    def _state(
        self, second: bool, planned: Mapping[str, Format], own: Format, is_float8: bool
    ) -> Format:
        if self.state_format is not None and self.state_format != PLAN:
            named = _BLOCKS.get(self.state_format, 2 * (self.state_format,))[second]
            return parse_precision(named).format
        if "momentum" in planned and not second:
            return planned["momentum"]
        is_narrow = isinstance(own, ScaledFormat) or own.bits <= _NARROW
        return _BF16 if is_narrow and (second or is_float8) else own

    def _recipe_for(self, parameter: Parameter) -> Recipe:
        if self.recipe.newton_schulz and len(parameter.shape) != 2:
            return OPTIMIZERS["adamw"]
        return self.recipe

    def arithmetic(self, parameter: Parameter) -> tuple[int, int, int]:
        """Return the step's multiplications, additions and multiply-adds of products."""
        recipe = self._recipe_for(parameter)
        adds = recipe.adds + WRITE_BACKS[self.writeback]
        macs = 0
        if recipe.newton_schulz:
            n, m = sorted(parameter.shape)
            # A = X X', B = b A + c A A, X = a X + B X
            macs = recipe.newton_schulz * (2 * n * n * m + n**3)
        return recipe.multiplies * parameter.elements, adds * parameter.elements, macs

    def _compensation(self, planned: Mapping[str, Format], own: Format, is_float8: bool) -> float:
        """Return the bits that the write-back keeps per element."""
        if self.writeback == "master":
            return _FP32.bits
        if self.writeback == "split":
            if own != _BF16:
                raise CostError("cost", f"split of {own} parameters", "store them in bf16")
            return _FP32.bits - _BF16.bits
        if self.writeback not in ("kahan", "lazy"):
            return 0
        given = self.compensation_format
        if given is None and "compensation" not in planned and is_float8:
            given = "ulp8"
        if given in _BITS_BESIDE:
            if isinstance(own, ScaledFormat):
                raise CostError(
                    "cost", f"{given} beside {own} parameters", "name a format, e.g. bf16 or dfx8"
                )
            return _BITS_BESIDE[given]
        if given is not None and given != PLAN:
            return stored_bits(parse_precision(given).format)
        return stored_bits(planned.get("compensation", own))


def stored_bits(fmt: Format) -> float:
    """Return the bits of one element in memory, with its share of its block's scale.

    A scale of a whole tensor or channel is not counted. Scales of blocks take those of the format
    (8 bits in MX and NVFP4), exponents of dynamic fixed point 8, affine integers a float32 scale
    and a zero point as wide as an element.
    """
    bits: float = fmt.bits
    if isinstance(fmt, ScaledFormat) and fmt.block is not None:
        scale = getattr(fmt, "scale", None)
        if isinstance(scale, Format):
            shared = scale.bits
        else:
            shared = _FP32.bits + fmt.bits if hasattr(fmt, "zero") else 8
        bits += shared / fmt.block
    return bits


def _known(option: str, name: str, table: Mapping[str, object]) -> None:
    if name not in table:
        raise CostError("cost", f"unknown {option} {name!r}", "use one of " + ", ".join(table))
