"""``limprec formats``: the number line and the test vectors."""

import json

import ml_dtypes
import numpy as np
import pytest

from limprec.cli import main
from limprec.cli.numberline import number_line
from limprec.formats import NAMED_FORMATS, parse_format, parse_rounding
from limprec.formats.oracle import round_exact


@pytest.mark.parametrize("name", [*NAMED_FORMATS, "dfx8b32", "fx8.4-wrap", "ternary{-1,0,1}"])
def test_every_format_shows_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["formats", name]) == 0
    text = capsys.readouterr().out
    assert text.startswith(str(parse_format(name)))
    assert ("Number line" in text) == (parse_format(name).bits <= 8)
    assert main(["formats", name, "--json"]) == 0


def test_a_number_line_shows_where_values_are() -> None:
    bars, ruler = number_line([-4.0, -1.0, 0.0, 1.0, 4.0], width=17)
    assert [place for place, bar in enumerate(bars) if bar != " "] == [0, 6, 8, 10, 16]
    assert ruler.startswith("-4")
    assert ruler.endswith("4")
    assert len(ruler) == len(bars) == 17


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("e4m3-ovf", ml_dtypes.float8_e4m3fn),
        ("e5m2-ovf", ml_dtypes.float8_e5m2),
        ("bf16", ml_dtypes.bfloat16),
        ("e2m1", ml_dtypes.float4_e2m1fn),
        ("e4m3b11fnuz-ovf", ml_dtypes.float8_e4m3b11fnuz),
    ],
)
def test_vectors_are_what_ml_dtypes_says(
    name: str, dtype: type, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["formats", name, "--vectors", "3000"]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.startswith(f"# {name}")
    assert len(lines) == 3000
    table = [line.split(",") for line in lines]
    x = np.array([int(row[0], 16) for row in table], dtype=np.uint32).view(np.float32)
    with np.errstate(all="ignore"):
        expected = x.astype(dtype)
    words = expected.view(np.uint16 if expected.dtype.itemsize == 2 else np.uint8)
    checked = 0
    for value, row, word, target in zip(x, table, words, expected, strict=True):
        assert row[1] == ""
        if np.isnan(value) or np.isnan(np.float32(target)):
            continue
        assert row[2] == "-" or int(row[2], 16) == int(word), (value, row)
        checked += row[2] != "-"
    assert checked > 2000


@pytest.mark.parametrize("bits", [32, 16, 5])
def test_stochastic_vectors_carry_their_random_bits(
    bits: int, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"fx8.4:stochastic{bits}"
    assert main(["formats", name, "--vectors", "900", "--seed", "5"]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert f" {bits} random bits" in header
    fmt = parse_format("fx8.4")
    for line in lines:
        pattern, word, code = line.split(",")
        x = float(np.array([int(pattern, 16)], dtype=np.uint32).view(np.float32)[0])
        assert len(word) == -(-bits // 4)
        random = int(word, 16) << (32 - bits)
        expected = round_exact(x, fmt, parse_rounding("stochastic"), random=random)
        assert code == "-" if expected != expected else f"{fmt.encode(expected):02x}"  # type: ignore[attr-defined]


def test_few_vectors_are_spread_over_the_format(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["formats", "e4m3", "--vectors", "16"]) == 0
    _, *lines = capsys.readouterr().out.splitlines()
    codes = {line.split(",")[2] for line in lines}
    assert len(lines) == 16
    assert len(codes) > 12
    assert {code[0] >= "8" for code in codes} == {True, False}  # of both signs


def test_the_random_bits_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["formats", "e4m3:stochastic16", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["rounding"], told["random_bits"]) == ("stochastic", 16)


def test_few_values_are_all_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["formats", "ternary{-1,0,1}"]) == 0
    assert " 3: -1, 0, 1\n" in capsys.readouterr().out
    assert main(["formats", "mxint8"]) == 0
    text = capsys.readouterr().out
    assert "256, from 0 up: 0, 0.015625, 0.03125," in text
    assert ", ..., 1.984375\n" in text
    assert "X = 2^(floor(log2 amax)), held" in text


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("formats", "dfx8", "--vectors", "5"), "use the format of an element"),
        (("formats", "fp64", "--vectors", "5"), "use a float64 carrier"),
        (("formats", "e4m3", "--vectors", "0"), "--vectors"),
        (("formats", "--vectors", "5"), "give a format, e.g. limprec formats e4m3"),
        (("formats", "e4m3", "--vectors", "5", "--json"), "leave one of them out"),
        (("formats", "q8"), "unknown format 'q8'; write e.g. dfx8"),
        (("formats", "E4M3"), "unknown format 'E4M3'; write e4m3"),
        (("formats", "float16"), "write fp16"),
        (("formats", "torch.float8_e5m2"), "write e5m2"),
        (("formats", "fp8:stochastic"), "unknown format 'fp8'; write e4m3 or e5m2"),
        (("formats", "fx8"), "write fx8.4 for 4 fraction bits"),
        (("formats", "x" * 99), f"unknown format '{'x' * 40}...'; write e.g."),
    ],
)
def test_errors(argv: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(list(argv)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
