"""The report as text and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from limprec.diagnosis import Report, Row
from limprec.diagnosis.report import percent
from limprec.errors import DiagnosisError


def report(*rows: Row) -> Report:
    return Report(100, 2, 50, "SGD", rows, ("A note.",))


LOST = [
    Row(f"layers.{i}", "update", "bf16", "nearest", "too small", {"movement_lost": share})
    for i, share in enumerate((0.2, 0.9, 0.3, 0.4, 0.5))
]


def test_the_table_is_worst_first_and_a_kind_of_fault_is_one_line() -> None:
    text = report(*LOST, Row("head", "error", "dfx8", measures={"mass_lost": 0.04})).table()
    lines = text.splitlines()
    assert lines[0] == "2 of 100 steps looked at, SGD"
    assert lines[2] == (
        "LOST UPDATES (obstacle 1): layers.1 loses 90% of the movement that its updates ask for in"
        " write-back (bf16, nearest). Also layers.4, layers.3, layers.2 and 1 more. Change:"
        " writeback='kahan' (or 'stochastic'), or a wider format for the parameter."
    )
    assert lines[4].split() == ["layer", "role", "format", "lost"]
    assert [line.split()[0] for line in lines[5:11]] == [
        "layers.1", "layers.4", "layers.3", "layers.2", "layers.0", "head",
    ]  # fmt: skip
    assert lines[10].split()[-2:] == ["4.0", "%"]
    assert lines[-1] == "A note."


def test_columns_and_rows_that_say_nothing_are_left_out() -> None:
    header, rows = report(
        Row("a", "error", "fp32", measures={"bits_used": 3.0}),
        Row("b", "error", "dfx8", measures={"mass_lost": 0.0, "sqnr_db": 40.0}),
    ).cells()
    assert header == ("layer", "role", "format", "lost", "dB")
    assert rows == [("b", "error", "dfx8", "0 %", "40.0")]


def test_a_frozen_parameter_takes_two_looks() -> None:
    row = Row("p", "update", "bf16", "nearest", "too small", {"still": 1.0})
    assert [f.kind for f in report(row).findings] == ["frozen parameter"]
    assert Report(1, 1, 50, "SGD", (row,)).findings == ()


@pytest.mark.parametrize(
    ("fmt", "advice"),
    [
        ("dfx6", "'dfx11'"),
        ("e3m4", "'e4m4-sat'"),
        ("e5m2", "'e5m2:stochastic' (or a larger loss scale)"),
        ("dfx6:toward_zero", "'dfx11:toward_zero'"),
    ],
)
def test_the_classifier_gets_the_guidelines_bits(fmt: str, advice: str) -> None:
    measures = {"classes": 1000.0, "wrong_half_lost": 1.0, "balance_lost": 0.5}
    (found,) = report(Row("head", "error", fmt, measures=measures)).findings
    assert advice in found.change


def test_json_and_back(tmp_path: Path) -> None:
    made = report(*LOST)
    made.save(tmp_path / "d.json")
    assert Report.load(tmp_path / "d.json") == made
    raw = json.loads((tmp_path / "d.json").read_text())
    assert raw["findings"][0]["change"].startswith("writeback='kahan'")
    assert raw["rows"][0]["layer"] == "layers.1"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 9}', "nonsense", '{"rows": 3}'])
def test_a_file_that_is_no_diagnosis(tmp_path: Path, text: str) -> None:
    path = tmp_path / "d.json"
    path.write_text(text)
    with pytest.raises(DiagnosisError) as caught:
        Report.load(path)
    assert str(caught.value) == (
        f"diagnosis: {path} holds no diagnosis; give what Diagnosis.save wrote"
    )
    with pytest.raises(DiagnosisError, match="No such file"):
        Report.load(tmp_path / "none.json")


def test_percent() -> None:
    assert [percent(v) for v in (0, 1e-5, 0.0123, 0.5, 1, -0.02, -1e-5)] == [
        "0 %", "<0.1 %", "1.2 %", "50 %", "100 %", "-2.0 %", "0 %",
    ]  # fmt: skip
