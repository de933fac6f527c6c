"""The semantics of rounding, in plain PyTorch: short, judged by the scalar oracle.

Every fast kernel equals this file bit for bit. ``elements`` has the scalar formats, ``scaled``
those with shared scales.
"""

from __future__ import annotations

from torch import Tensor

from ..errors import KernelError
from ..formats import MAX_RANDOM_BITS, Format, Rounding, ScaledFormat
from . import groups
from .elements import power_of_two, round_elements, round_to_integers, scale
from .random import Key, random_words
from .scaled import Parts, join, split

__all__ = ["amax", "parts", "power_of_two", "quantize", "round_to_integers", "scale"]


def quantize(
    x: Tensor,
    fmt: Format,
    rounding: Rounding,
    key: Key | None,
    *,
    random_bits: int = MAX_RANDOM_BITS,
    amax: Tensor | float | None = None,
) -> Tensor:
    """Return ``x`` rounded to ``fmt``: same shape and dtype, a new tensor.

    Args:
        x: floating-point tensor whose dtype holds every value of ``fmt`` (see ``carrier``).
        fmt: the format.
        rounding: the rounding mode.
        key: the random key; needed for ``stochastic``, else ignored.
        random_bits: how many the stochastic rounding of an element takes, 1 to 32.
        amax: for a format with shared scales, what the scale follows instead of the largest
            magnitudes at hand: one number or one a group. What lies beyond saturates.

    NaN, infinities and overflow: as the format's docstring says.

    Raises:
        KernelError: for a tensor without the format's axis, or an ``amax`` that does not fit.
    """
    if isinstance(fmt, ScaledFormat):
        split_up = parts(x, fmt, rounding, key, random_bits=random_bits, amax=amax)
        return join(split_up, fmt).to(x.dtype)
    if amax is not None:
        raise KernelError("quantize", f"amax with {fmt}, which has no scale", "leave amax out")
    words = _words(x, rounding, key, random_bits)
    return round_elements(x.double(), fmt, rounding, words).to(x.dtype)


def amax(x: Tensor, fmt: ScaledFormat) -> Tensor:
    """Return the largest magnitude of each group (see ``groups``), NaN where one is."""
    return groups.amax(x, fmt)


def parts(
    x: Tensor,
    fmt: ScaledFormat,
    rounding: Rounding,
    key: Key | None,
    *,
    random_bits: int = MAX_RANDOM_BITS,
    amax: Tensor | float | None = None,
) -> Parts:
    """Return the elements and scales whose ``join`` is ``quantize`` of the same arguments."""
    return split(x, fmt, rounding, _words(x, rounding, key, random_bits), amax)


def _words(x: Tensor, rounding: Rounding, key: Key | None, bits: int) -> Tensor | None:
    """Return a random word for each element where the rounding needs them."""
    if rounding is not Rounding.STOCHASTIC:
        return None
    assert key is not None, "stochastic rounding needs a key"
    return random_words(key, x.numel(), x.device, bits).view(x.shape)
