"""``limprec diagnose`` as a user types it, rightly and wrongly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from limprec.cli import main

SHORT = ("--model", "mlp", "--data", "digits", "--steps", "6", "--every", "2")


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = main(["diagnose", *argv])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_training_is_watched_recorded_and_shown_again(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    options = ("--writeback", "nearest", "--lr", "0.001", "--out", str(out), "--rows", "4")
    code, text, error = run(capsys, *SHORT, *options)
    assert code == 0, error
    assert "(obstacle 1)" in text
    assert "writeback='kahan'" in text
    assert "3 of 6 steps looked at, SGD" in text
    assert f"Page: {out / 'diagnosis.html'}" in text
    page = (out / "diagnosis.html").read_text()
    assert "Where gradients get lost" in page
    assert page.count("Plotly.newPlot") == 2
    code, again, _ = run(capsys, "--load", str(out / "diagnosis.json"), "--rows", "4")
    assert code == 0
    assert again == text.rpartition("\nPage")[0]


def test_json_for_programs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    options = ("--plan", "fp32", "--shadow", "--accumulator", "e8m2", "--chunk", "64")
    code, text, error = run(capsys, *SHORT, *options, "--out", str(tmp_path), "--json")
    assert code == 0, error
    found = json.loads(text)
    assert found["sampled"] == 3
    assert found == json.loads((tmp_path / "diagnosis.json").read_text())
    rows = {(row["layer"], row["role"]): row for row in found["rows"]}
    assert rows["3.weight", "gradient"]["measures"]["cosine"] == pytest.approx(1)
    assert rows["1", "accumulator: forward"]["format"] == "e8m2 chunk=64"


def test_a_training_that_is_shorter_than_the_steps(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    options = ("--epochs", "2", "--batch-size", "1024", "--steps", "500", "--every", "1")
    code, text, _ = run(capsys, *SHORT, *options, "--out", str(tmp_path), "--json")
    assert code == 0
    assert json.loads(text)["steps"] == 2  # full batches alone


def test_bfloat16_without_a_plan(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    options = ("--dtype", "bfloat16", "--optimizer", "adamw", "--writeback", "nearest")
    code, text, error = run(capsys, *SHORT, *options, "--out", str(tmp_path), "--json")
    assert code == 0, error
    found = json.loads(text)
    assert found["optimizer"] == "AdamW"
    assert {row["format"] for row in found["rows"]} == {"bf16"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--load", "{tmp}/none.json"), "cannot read {tmp}/none.json: No such file or directory"),
        (("--load", "{tmp}/bad.json"), "{tmp}/bad.json holds no diagnosis"),
        (("--steps", "0"), "steps is 0; give 1 or more"),
        (("--every", "0"), "every is 0; give an integer of 1 or more"),
        (("--rows", "-1"), "rows is -1; give 0 or more"),
        (("--accumulator", "q8"), "q8"),
        (("--chunk", "8"), "chunk=8 without an accumulator"),
        (("--accumulator", "e5m10", "--chunk", "0"), "chunk is 0"),
        (("--model", "lenet"), "unknown model 'lenet'"),
        (("--writeback", "kahn"), "unknown write-back 'kahn'"),
        (("--plan", "nothing"), "cannot read nothing"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    (tmp_path / "bad.json").write_text("[]")
    out = tmp_path / "out"
    given = [option.format(tmp=tmp_path) for option in options]
    code, text, error = run(capsys, *SHORT, "--out", str(out), *given)
    assert code == 2
    assert text == ""
    assert len(error.strip().splitlines()) == 1
    assert message.format(tmp=tmp_path) in error
    assert not out.exists()
