"""Roundings judged by gfloat: a chosen number of random bits, MX blocks, and NVFP4's two formats.

Values are compared as float32 bits. The backends are the reference and whatever AUTO takes.
"""

from __future__ import annotations

import gfloat
import gfloat.formats
import numpy as np
import pytest
import torch
from gfloat import RoundMode, round_ndarray

import limprec as lp
from limprec.formats import MX_ELEMENTS
from limprec.kernels import Backend, Key, random_words

INFO = {info.name: info for info in gfloat.formats.sample_formats}
SCALAR = {
    "e4m3": INFO["ocp_e4m3"],
    "e5m2": INFO["ocp_e5m2"],
    "e3m2": INFO["ocp_e3m2"],
    "e2m3": INFO["ocp_e2m3"],
    "e2m1": INFO["ocp_e2m1"],
    "binary8p3": INFO["p3109_k8p3se"],
    "bf16-sat": INFO["bfloat16"],
    "fp16-sat": INFO["binary16"],
}
MODES = {
    "nearest": RoundMode.TiesToEven,
    "nearest_away": RoundMode.TiesToAway,
    "toward_zero": RoundMode.TowardZero,
    "down": RoundMode.TowardNegative,
    "up": RoundMode.TowardPositive,
}
BACKENDS = [Backend.AUTO, Backend.REFERENCE]


def same(got: torch.Tensor, want: np.ndarray) -> bool:
    return np.array_equal(got.numpy().view(np.uint32), want.astype(np.float32).view(np.uint32))


def spread(shape: tuple[int, ...], reach: int) -> np.ndarray:
    rng = np.random.default_rng(reach)
    x = rng.standard_normal(shape) * 2.0 ** rng.integers(-reach, reach + 1, shape)
    return np.where(rng.random(shape) < 0.05, 0, x).astype(np.float32)


def low_words(seed: int, shape: tuple[int, ...], bits: int) -> np.ndarray:
    """Return the random bits as small numbers, as gfloat takes them."""
    words = random_words(Key(seed, stream=2, step=3), int(np.prod(shape)), bits=bits).numpy()
    return (words >> (32 - bits)).reshape(shape)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bits", [1, 2, 7, 8, 15, 16, 17, 24])
@pytest.mark.parametrize("name", SCALAR)
def test_stochastic_rounding_with_few_bits(name: str, bits: int, backend: Backend) -> None:
    """StochasticFastest: away from zero if share + r * 2^-bits >= 1, which truncates the share.

    gfloat's other modes round the share to ``bits`` bits first, or add half a bit: not ours.
    """
    x = np.concatenate([spread((3000,), 9), spread((1000,), 40)])
    words = low_words(5, x.shape, bits)
    want = round_ndarray(
        SCALAR[name], x.astype(np.float64), RoundMode.StochasticFastest, True, words, bits
    )
    given = torch.from_numpy(x)
    got = lp.quantize(given, name, f"stochastic{bits}", seed=5, stream=2, step=3, backend=backend)
    assert same(got, want)


def test_the_other_modes_of_gfloat_are_not_ours() -> None:
    """The judge can tell: with three bits its four stochastic modes differ in what they do."""
    x = spread((3000,), 9)
    words = low_words(5, x.shape, 3)
    got = lp.quantize(torch.from_numpy(x), "e4m3", "stochastic3", seed=5, stream=2, step=3)
    for mode in (RoundMode.Stochastic, RoundMode.StochasticOdd, RoundMode.StochasticFast):
        assert not same(
            got, round_ndarray(SCALAR["e4m3"], x.astype(np.float64), mode, True, words, 3)
        )


def block_scales(x: np.ndarray, largest_exponent: int) -> np.ndarray:
    """Return the scale of each row as gfloat computes it."""
    return np.array([[gfloat.block.compute_scale_amax(largest_exponent, row)] for row in x])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", MX_ELEMENTS)
@pytest.mark.parametrize("rounding", [*MODES, "stochastic", "stochastic8"])
def test_mx_blocks(name: str, rounding: str, backend: Backend) -> None:
    """Its mxint8 may use the code -128, which is -2; ours does not, nor a negative zero."""
    info = next(f for f in gfloat.formats.all_block_formats if f.name == name)
    bits = int(rounding.removeprefix("stochastic") or 24) if rounding not in MODES else 0
    chosen = f"stochastic{bits}" if bits else rounding
    for reach in (0, 1, 4, 30):
        x = spread((40, 32), reach)
        x[0] = 0
        scales = block_scales(x.astype(np.float64), info.etype.emax)
        mode, words = (
            MODES.get(rounding, RoundMode.StochasticFastest),
            low_words(5, x.shape, bits or 1),
        )
        want = round_ndarray(info.etype, x / scales, mode, True, words, bits) * scales
        if rounding == "nearest":  # what gfloat makes of a block as a whole
            for row, expected in zip(x.astype(np.float64), want, strict=True):
                block = gfloat.block.quantize_block(info, row, gfloat.block.compute_scale_amax)
                assert np.array_equal(block, expected)
        if name == "mxint8":
            want = np.maximum(want, -127 / 64 * scales) + 0.0
        got = lp.quantize(
            torch.from_numpy(x), name, chosen, seed=5, stream=2, step=3, backend=backend
        )
        assert same(got, want), reach


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rounding", [*MODES, "stochastic8"])
def test_nvfp4_blocks(rounding: str, backend: Backend) -> None:
    """numpy multiplies and divides in float32, gfloat rounds scales and elements."""
    for reach in (0, 2, 12, 30):
        x = spread((30, 64), reach)
        x[0, :16] = 0
        blocks = x.reshape(30, 4, 16)
        tensor = np.abs(x).max() / np.float32(2688)
        ratio = np.abs(blocks).max(axis=2, keepdims=True) / np.float32(6) / tensor
        scale = round_ndarray(INFO["ocp_e4m3"], ratio, RoundMode.TiesToEven, True)
        scale = scale.astype(np.float32)
        both = scale * tensor
        with np.errstate(invalid="ignore", divide="ignore"):
            relative = np.where(both == 0, np.copysign(0, blocks), blocks / both)
        mode, words = MODES.get(rounding, RoundMode.StochasticFastest), low_words(5, x.shape, 8)
        words = words.reshape(blocks.shape)
        element = round_ndarray(INFO["ocp_e2m1"], relative.astype(np.float64), mode, True, words, 8)
        want = (element.astype(np.float32) * scale * tensor).reshape(x.shape)
        assert want.dtype == np.float32
        got = lp.quantize(
            torch.from_numpy(x), "nvfp4", rounding, seed=5, stream=2, step=3, backend=backend
        )
        assert same(got, want), reach
