"""Counter-based random bits: the same on every backend, thread count, memory order and shard.

The generator is Philox4x32 with 7 rounds (Salmon et al., "Parallel random numbers: as easy as
1, 2, 3", SC 2011), of which 7 is the fewest that pass BigCrush. Element ``i`` of the stream takes
word ``i % 4`` of the block whose counter is ``(i // 4, step, stream)`` under the key ``seed``.
Where 16 random bits or fewer are asked for, the words are read as a sequence of halves, the lower
one first: element ``i`` takes half ``i % 8`` of block ``i // 8``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import KernelError
from ..formats import MAX_RANDOM_BITS

ROUNDS = 7
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
_MASK = 0xFFFFFFFF

HALF_WORD = 16
"""Up to so many random bits an element, one word serves two."""

OPTIMIZER_STREAM = 2**31
"""First stream of the optimizers; a converted model's streams lie below, so that a model and an
optimizer under one seed never share a word."""


@dataclass(frozen=True)
class Key:
    """Where in the random sequence a tensor's first element stands.

    Args:
        seed: 0 to 2^64 - 1, owned by whoever rounds (a converted model, an optimizer).
        stream: 0 to 2^32 - 1, one a tensor and role.
        step: 0 to 2^32 - 1, the training step.
        offset: global row-major index of the tensor's first element (0 unless it is a shard).

    Raises:
        KernelError: for a field out of range.
    """

    seed: int
    stream: int = 0
    step: int = 0
    offset: int = 0

    def __post_init__(self) -> None:
        """Refuse what would silently wrap around."""
        seed, stream, step, offset = self.seed, self.stream, self.step, self.offset
        if (  # all at once first: a key is made for every call
            isinstance(seed, int)
            and isinstance(stream, int)
            and isinstance(step, int)
            and isinstance(offset, int)
            and 0 <= seed < 1 << 64
            and 0 <= stream < 1 << 32
            and 0 <= step < 1 << 32
            and 0 <= offset < 1 << 62
        ):
            return
        for field, bits in (("seed", 64), ("stream", 32), ("step", 32), ("offset", 62)):
            value = getattr(self, field)
            if not isinstance(value, int) or not 0 <= value < 1 << bits:
                raise KernelError(
                    "random key", f"{field} is {value!r}", f"give an integer from 0 to 2^{bits} - 1"
                )

    @property
    def arguments(self) -> tuple[int, int, int, int]:
        """Seed, stream, step and offset as operators take them, in signed integers."""
        seed = self.seed if self.seed < 2**63 else self.seed - 2**64
        return seed, self.stream, self.step, self.offset


@dataclass(frozen=True, eq=False)
class TracedKey:
    """A key for a compiler: seed and step are numbers of a tensor, read when the code runs.

    Args:
        numbers: int64 (seed, step).
        stream: as in ``Key``.
    """

    numbers: Tensor
    stream: int


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], seed: int) -> tuple[Tensor, ...]:
    """Return the four 32-bit words of each counter, as int64 tensors of values under 2^32.

    Args:
        counter: four int64 tensors of one shape with values under 2^32.
        seed: the 64-bit key.
    """
    x0, x1, x2, x3 = counter
    k0, k1 = seed & _MASK, seed >> 32
    for _ in range(ROUNDS):
        # int64 products wrap modulo 2^64: masked, the two halves are those of the unsigned product.
        a, b = x0 * MULTIPLIERS[0], x2 * MULTIPLIERS[1]
        x0, x1, x2, x3 = (
            ((b >> 32) & _MASK) ^ x1 ^ k0,
            b & _MASK,
            ((a >> 32) & _MASK) ^ x3 ^ k1,
            a & _MASK,
        )
        k0, k1 = (k0 + WEYL[0]) & _MASK, (k1 + WEYL[1]) & _MASK
    return x0, x1, x2, x3


def elements_a_block(bits: int) -> int:
    """Return how many neighbours share a random block, each taking up to ``bits`` of it."""
    return 8 if bits <= HALF_WORD else 4


def random_words(
    key: Key, count: int, device: torch.device | str = "cpu", bits: int = MAX_RANDOM_BITS
) -> Tensor:
    """Return the random words of elements ``offset`` to ``offset + count``.

    Args:
        key: where to start.
        count: how many elements, 0 allowed.
        device: where the result lives.
        bits: how many bits of each word are random, 1 to 32; they are the upper ones, the others
            are 0.

    Returns:
        int64 tensor of shape ``(count,)``, values 0 to 2^32 - 1.
    """
    a_block = elements_a_block(bits)
    first, last = key.offset // a_block, (key.offset + count + a_block - 1) // a_block
    block = torch.arange(first, last, dtype=torch.int64, device=device)
    step, stream = torch.full_like(block, key.step), torch.full_like(block, key.stream)
    words = torch.stack(philox((block & _MASK, block >> 32, step, stream), key.seed), dim=1)
    if bits <= HALF_WORD:
        words = torch.stack((words << HALF_WORD, words), dim=2)
    start = key.offset - a_block * first
    taken = words.reshape(-1)[start : start + count]
    return taken & (_MASK << (MAX_RANDOM_BITS - bits) & _MASK)
