"""The accumulator of a layer's products, as a plan names it: ``e5m10``, ``e5m7 chunk=64 kahan``."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..errors import LimprecError, PlanError
from ..formats import Precision, parse_precision
from ..kernels import matmul

_OPERATION = "accumulator"


@dataclass(frozen=True)
class Accumulator:
    """How the sums of a product are added, in the words of ``lp.matmul``.

    Args:
        precision: format and rounding of every sum.
        chunk: terms of a partial sum, None for one sum over all of them.
        kahan: whether the sums are compensated.
        adder: ``sequential``, ``tree`` or ``aligned:N:G``.
        product: format that each product is rounded to; None keeps them exact.
    """

    precision: Precision
    chunk: int | None = None
    kahan: bool = False
    adder: str = "sequential"
    product: str | None = None

    def multiply(self, a: Tensor, b: Tensor, seed: int | None = None) -> Tensor:
        """Return ``lp.matmul`` of two tensors in this accumulator; errors as there."""
        fmt, rounding = self.precision.format, self.precision.rounding
        return matmul(a, b, fmt, self.product, self.chunk, self.kahan, rounding, seed, self.adder)

    def __str__(self) -> str:
        """``e5m10``, ``e5m10:stochastic chunk=64 kahan``; ``parse_accumulator`` reads it back."""
        words = [str(self.precision)]
        words += [f"chunk={self.chunk}"] if self.chunk else []
        words += ["kahan"] if self.kahan else []
        words += [f"adder={self.adder}"] if self.adder != "sequential" else []
        words += [f"product={self.product}"] if self.product else []
        return " ".join(words)


def parse_accumulator(text: str | Accumulator) -> Accumulator:
    """Read a precision, then any of ``chunk=N``, ``kahan``, ``adder=...``, ``product=...``.

    Raises:
        PlanError: for another word or a chunk that is no positive integer.
        FormatError: for an unknown format or rounding.
    """
    if isinstance(text, Accumulator):
        return text
    words = text.split() if isinstance(text, str) else []
    if not words:
        raise PlanError(_OPERATION, f"{text!r} names no format", "write e.g. e5m10 chunk=64 kahan")
    precision = parse_precision(words[0])
    given: dict[str, str] = {}
    for word in words[1:]:
        name, _, value = word.partition("=")
        if name not in ("chunk", "kahan", "adder", "product") or (name == "kahan") == bool(value):
            raise PlanError(
                _OPERATION,
                f"{word!r} in {text!r}",
                "use chunk=N, kahan, adder=tree, adder=aligned:N:G or product=FORMAT",
            )
        given[name] = value
    chunk = given.get("chunk")
    if chunk is not None and not (chunk.isdecimal() and int(chunk)):
        raise PlanError(_OPERATION, f"chunk {chunk!r} in {text!r}", "give a positive integer")
    if "product" in given:
        try:
            parse_precision(given["product"])
        except LimprecError as error:
            raise PlanError(_OPERATION, error.problem, error.remedy) from None
    return Accumulator(
        precision,
        None if chunk is None else int(chunk),
        "kahan" in given,
        given.get("adder", "sequential"),
        given.get("product"),
    )
