"""Philox against its published vectors, and the promises made of the random bits."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from limprec.errors import KernelError
from limprec.kernels import Key, random_words
from limprec.kernels.elements import goes_far
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
    bits=st.integers(1, 32),
)
def test_a_shard_sees_its_part_of_the_whole(
    seed: int, start: int, cut: int, count: int, bits: int
) -> None:
    whole = random_words(Key(seed, 3, 9, start), cut + count, bits=bits)
    shard = random_words(Key(seed, 3, 9, start + cut), count, bits=bits)
    assert torch.equal(whole[cut:], shard)


def test_few_bits_are_halves_of_the_words_and_many_their_upper_part() -> None:
    words = random_words(Key(7), 20).tolist()
    halves = [half << 16 for w in words for half in (w & 0xFFFF, w >> 16)]
    assert random_words(Key(7), 40, bits=16).tolist() == halves
    assert random_words(Key(7), 40, bits=5).tolist() == [h & 0xF8000000 for h in halves]
    assert random_words(Key(7), 20, bits=20).tolist() == [w & 0xFFFFF000 for w in words]


@given(share=st.integers(0, 255), bits=st.integers(1, 16))
def test_the_chance_to_go_far_is_the_share_cut_to_the_bits(share: int, bits: int) -> None:
    """Every word of ``bits`` bits once: exactly floor(share * 2^bits) of them round away."""
    words = torch.arange(2**bits) << (32 - bits)
    far = goes_far(torch.full(words.shape, share / 256, dtype=torch.float64), words)
    assert int(far.sum()) == share * 2**bits // 256


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
