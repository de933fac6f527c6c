"""Test vectors for a hardware test bench: input and output bit patterns of a rounding."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..errors import FormatError
from ..formats import MAX_RANDOM_BITS, Precision, Rounding, ScalarFormat

if TYPE_CHECKING:
    from torch import Tensor

_EDGES = (0, 1, 2, 0x007FFFFF, 0x00800000, 0x3F800000, 0x7F7FFFFF, 0x7F800000, 0x7FC00000)
"""Magnitudes of float32 that every bench should see: zero, subnormals, one, infinity, NaN."""


def vectors(precision: Precision, count: int, seed: int) -> Iterator[str]:
    """Yield a header and ``count`` lines ``input,random,output`` in hexadecimal.

    The input is a float32 pattern: first the edges of float32 and of the format (each value, each
    midpoint, and the float32 next to them, of both signs; evenly chosen ones where ``count`` is
    less), then patterns drawn with ``seed``, half of them from all of float32 and half from the
    range of the format. The random bits are there for stochastic rounding, as a number of as many
    bits as the precision takes, else empty; the output is the code of the format, ``-`` where the
    result (NaN or an infinity) has none.

    Raises:
        FormatError: for a format with a scale of its own, or one that float32 cannot carry.
    """
    import torch

    from ..kernels import Key, check_carrier, random_words, round_to
    from ..kernels.codes import encode

    fmt = precision.format
    if not isinstance(fmt, ScalarFormat):
        raise FormatError(
            "vectors", f"{fmt} has a scale that follows the tensor", "use the format of an element"
        )
    check_carrier(fmt, torch.float32, "vectors")
    generator = torch.Generator().manual_seed(seed)
    patterns = _signed(torch.cat([torch.tensor(_EDGES, dtype=torch.int32), _near(fmt)]))
    if count < len(patterns):
        patterns = patterns[torch.arange(count) * len(patterns) // count]
    drawn = count - len(patterns)
    top = torch.tensor(max(fmt.max, -fmt.min), dtype=torch.float32).view(torch.int32)
    anywhere = torch.randint(0, 2**31, (drawn - drawn // 2,), generator=generator)
    inside = torch.randint(0, int(top) + 1, (drawn // 2,), generator=generator)
    signs = torch.randint(0, 2, (drawn,), generator=generator) << 31
    patterns = torch.cat([patterns, (torch.cat([anywhere, inside]) | signs).int()])
    x = patterns.view(torch.float32)
    bits = precision.random_bits if precision.rounding is Rounding.STOCHASTIC else 0
    codes, foreign = encode(round_to(x, precision, Key(seed) if bits else None), fmt)
    words = [""] * len(x)
    if bits:
        drawn_words = random_words(Key(seed), len(x), bits=bits) >> (MAX_RANDOM_BITS - bits)
        words = [f"{word:0{(bits + 3) // 4}x}" for word in drawn_words.tolist()]
    digits = (fmt.bits + 3) // 4
    mask = (1 << fmt.bits) - 1
    yield f"# {precision}: float32 input, {bits or 'no'} random bits, {fmt.bits}-bit code"
    for pattern, word, code, none in zip(
        patterns.tolist(), words, codes.tolist(), foreign.tolist(), strict=True
    ):
        yield f"{pattern & 0xFFFFFFFF:08x},{word},{'-' if none else f'{code & mask:0{digits}x}'}"


def _signed(magnitudes: Tensor) -> Tensor:
    """Return each pattern and then its negative, one after the other."""
    import torch

    return torch.stack([magnitudes, magnitudes | -(2**31)], dim=1).flatten()


def _near(fmt: ScalarFormat) -> Tensor:
    """Return float32 patterns at, between and beside the positive values of a narrow format."""
    import torch

    if fmt.bits > 8:
        values = torch.tensor([fmt.smallest, fmt.max], dtype=torch.float64)
    else:
        values = torch.tensor([v for v in fmt.values() if v >= 0], dtype=torch.float64)
    points = torch.cat([values, (values[1:] + values[:-1]) / 2, values[-1:] * 1.5])
    exact = points.float().view(torch.int32)
    beside = torch.stack([exact - 1, exact, exact + 1]).flatten()
    found: Tensor = torch.unique(beside[beside >= 0])
    return found
