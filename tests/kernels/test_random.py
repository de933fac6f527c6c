"""Philox against its published vectors, and the promises made of the random bits."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from limprec.errors import KernelError
from limprec.kernels import Key, random_words
from limprec.kernels.random import philox

# Known answers of philox4x32 with 7 rounds, as published with the Random123 library.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), "5f6fb709 0d893f64 4f121f81 4f730a48"),
    (
        (0xFFFFFFFF,) * 4,
        (0xFFFFFFFF, 0xFFFFFFFF),
        "5207ddc2 45165e59 4d8ee751 8c52f662",
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        "4dfccaba 190a87f0 c47362ba b6b5242a",
    ),
]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN)
def test_philox_known_answers(
    counter: tuple[int, int, int, int], key: tuple[int, int], answer: str
) -> None:
    words = philox(
        tuple(torch.tensor([c], dtype=torch.int64) for c in counter),  # type: ignore[arg-type]
        key[0] | key[1] << 32,
    )
    assert " ".join(f"{int(w):08x}" for w in words) == answer


@given(
    seed=st.integers(0, 2**64 - 1),
    start=st.integers(0, 2**40),
    cut=st.integers(0, 50),
    count=st.integers(0, 60),
)
def test_a_shard_sees_its_part_of_the_whole(seed: int, start: int, cut: int, count: int) -> None:
    whole = random_words(Key(seed, 3, 9, start), cut + count)
    shard = random_words(Key(seed, 3, 9, start + cut), count)
    assert torch.equal(whole[cut:], shard)


def test_seed_stream_and_step_all_matter() -> None:
    keys = [Key(0), Key(1), Key(2**32), Key(0, 1), Key(0, 0, 1), Key(0, 0, 0, 4)]
    firsts = {tuple(random_words(k, 4).tolist()) for k in keys}
    assert len(firsts) == len(keys)


def test_words_are_uniform() -> None:
    words = random_words(Key(7), 1 << 18)
    assert int(words.min()) >= 0
    assert int(words.max()) < 2**32
    for bit in range(32):  # each bit is fair to within 5 standard deviations
        share = ((words >> bit) & 1).double().mean()
        assert abs(float(share) - 0.5) < 5 * 0.5 / 512


@pytest.mark.parametrize(
    "field", [{"seed": -1}, {"seed": 2**64}, {"seed": 0, "stream": 2**32}, {"seed": 0, "step": -1}]
)
def test_keys_out_of_range_are_refused(field: dict[str, int]) -> None:
    with pytest.raises(KernelError, match="give an integer from 0 to"):
        Key(**field)
