"""The reference against the exact oracle, element by element, and the door's manners."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import limprec as lp
from limprec.errors import FormatError, KernelError
from limprec.formats import DynamicFixedPoint, Rounding, parse_format
from limprec.formats.oracle import round_exact
from limprec.kernels import Backend, Key, random_words

SCALAR = [
    *("fp16", "bf16", "tf32", "e5m2", "e4m3", "e4m3ieee", "e4m3fnuz", "e5m2fnuz", "e4m3b11fnuz"),
    *("e3m2", "e2m3", "e2m1", "e5m2-ovf", "e4m3-ovf", "e2m1-ovf", "bf16-sat", "e5m2-nosub"),
    *("e4m3-nosub-ovf", "e8m3", "e3m7", "fx8.4", "ufx8.4", "fx8.4-wrap", "ufx6.2-wrap"),
    *("fx16.12", "fx12.-3", "fx8.40"),
]

floats32 = st.one_of(
    st.floats(width=32),
    st.integers(0, 2**32 - 1).map(
        lambda bits: (
            torch.tensor(bits - (1 << 32) * (bits >> 31), dtype=torch.int32)
            .view(torch.float32)
            .item()
        )
    ),
    st.builds(lambda m, e: math.ldexp(m, e), st.integers(-40, 40), st.integers(-30, 20)),
)


def same(a: float, b: float) -> bool:
    if math.isnan(a) or math.isnan(b):
        return math.isnan(a) and math.isnan(b)
    return a == b and math.copysign(1, a) == math.copysign(1, b)


def float32(x: float) -> float:
    return float(torch.tensor(x, dtype=torch.float32))


@pytest.mark.parametrize("name", SCALAR)
@pytest.mark.parametrize("rounding", list(Rounding))
@settings(max_examples=40, deadline=None)
@given(values=st.lists(floats32, min_size=1, max_size=40), seed=st.integers(0, 2**64 - 1))
def test_scalar_formats_equal_the_oracle(
    name: str, rounding: Rounding, values: list[float], seed: int
) -> None:
    fmt = parse_format(name)
    edge = [fmt.max, -fmt.max, fmt.smallest, fmt.smallest / 2, fmt.max * (1 + 2**-12), 0.0, -0.0]  # type: ignore[attr-defined]
    x = torch.tensor([*values, *edge], dtype=torch.float32)
    y = lp.quantize(x, fmt, rounding, seed=seed, backend=Backend.REFERENCE)
    words = random_words(Key(seed), x.numel()).tolist()
    for a, b, word in zip(x.tolist(), y.tolist(), words, strict=True):
        assert same(b, float32(round_exact(a, fmt, rounding, random=word))), (a, b, word)


@pytest.mark.parametrize("bits", [2, 3, 8, 16, 24])
@pytest.mark.parametrize("rounding", list(Rounding))
@settings(max_examples=40, deadline=None)
@given(
    values=st.lists(floats32.filter(math.isfinite), min_size=1, max_size=40),
    seed=st.integers(0, 2**64 - 1),
)
def test_dynamic_fixed_point_equals_the_oracle(
    bits: int, rounding: Rounding, values: list[float], seed: int
) -> None:
    fmt = DynamicFixedPoint(bits)
    x = torch.tensor(values, dtype=torch.float32)
    y = lp.quantize(x, fmt, rounding, seed=seed, backend=Backend.REFERENCE)
    amax = float(x.abs().max())
    words = random_words(Key(seed), x.numel()).tolist()
    for a, b, word in zip(x.tolist(), y.tolist(), words, strict=True):
        assert same(b, float32(round_exact(a, fmt, rounding, random=word, amax=amax))), (a, b)
    if rounding is not Rounding.STOCHASTIC:  # the scale rule is idempotent
        assert torch.equal(lp.quantize(y, fmt, rounding, backend=Backend.REFERENCE), y)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_dynamic_fixed_point_without_a_scale_is_nan(bad: float) -> None:
    assert lp.quantize(torch.tensor([1.0, bad]), "dfx8").isnan().all()


@pytest.mark.parametrize("name", ["e5m2", "fx8.4", "dfx8"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_carriers_agree(name: str, dtype: torch.dtype) -> None:
    x = torch.randn(257, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16).to(dtype)
    if dtype == torch.float16:
        x = x.to(torch.bfloat16).to(dtype)
    y = lp.quantize(x, name, backend=Backend.REFERENCE)
    assert y.dtype == dtype
    wide = lp.quantize(x.double(), name, backend=Backend.REFERENCE)
    assert torch.equal(y.double(), wide)


@pytest.mark.parametrize("name", ["e5m2:stochastic", "dfx8:stochastic"])
def test_random_bits_follow_the_index_not_the_memory(name: str) -> None:
    x = torch.randn(6, 10, generator=torch.Generator().manual_seed(1))
    y = lp.quantize(x, name, seed=3)
    assert torch.equal(lp.quantize(x.t().contiguous().t(), name, seed=3), y)
    assert not torch.equal(lp.quantize(x, name, seed=4), y)
    assert not torch.equal(lp.quantize(x, name, seed=3, step=1), y)


def test_a_shard_rounds_as_the_whole() -> None:
    x = torch.randn(1000, generator=torch.Generator().manual_seed(2))
    whole = lp.quantize(x, "e4m3:stochastic", seed=1)
    shard = lp.quantize(x[333:], "e4m3:stochastic", seed=1, offset=333)
    assert torch.equal(whole[333:], shard)


def test_stochastic_rounding_is_right_on_average() -> None:
    x = torch.full((1 << 16,), 1 + 0.3 * 2**-2)  # three tenths of a step of e5m2 above 1
    share = (lp.quantize(x, "e5m2:stochastic", seed=0) > 1).double().mean()
    assert abs(float(share) - 0.3) < 5 * (0.21 / x.numel()) ** 0.5


def test_in_place_out_and_empty() -> None:
    x = torch.linspace(-3, 3, 50)
    y = lp.quantize(x, "e4m3")
    out = torch.empty_like(x)
    assert lp.quantize(x, "e4m3", out=out) is out
    assert torch.equal(out, y)
    z = x.clone()
    assert lp.quantize_(z, "e4m3") is z
    assert torch.equal(z, y)
    for name in ("e4m3", "dfx8", "fx8.4", "dfx8:stochastic"):
        assert lp.quantize(torch.empty(0, 3), name, seed=0).shape == (0, 3)
    assert lp.quantize(torch.tensor(1.3), "fx8.4").shape == ()


def test_an_identity_format_is_a_copy() -> None:
    x = torch.randn(5)
    y = lp.quantize(x, "fp32")
    assert torch.equal(x, y)
    assert y.data_ptr() != x.data_ptr()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("fx32.16",), FormatError, "fx32.16 has 31 significant bits, float32 carries 24; use a"),
        (("fp64",), FormatError, "use a float64 carrier"),
        (("fx8.160",), FormatError, "float32 at"),
        (("e5m2:stochastic",), KernelError, "without a seed; pass seed=0"),
        (("e5m2", "sideways"), FormatError, "unknown rounding 'sideways'; use one of nearest"),
    ],
)
def test_errors_name_the_value_and_the_remedy(
    arguments: tuple[str, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message.replace("(", r"\(")):
        lp.quantize(torch.zeros(3), *arguments)  # type: ignore[arg-type]


def test_wrong_tensors_are_refused() -> None:
    with pytest.raises(KernelError, match="carries no formats; use float32"):
        lp.quantize(torch.zeros(3, dtype=torch.int32), "e5m2")
    with pytest.raises(KernelError, match="give an out that matches x"):
        lp.quantize(torch.zeros(3), "e5m2", out=torch.zeros(4))
    with pytest.raises(KernelError, match=r"list is no tensor; give a torch\.Tensor"):
        lp.quantize([1.0], "e5m2")  # type: ignore[arg-type]
