"""``limprec search`` as a user types it, rightly and wrongly."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from limprec.cli import main

TINY = ("--model", "mlp", "--data", "digits", "--epochs", "1", "--batch-size", "256", "--lr", "0.1")


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = main(list(argv))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_search_then_train_what_it_found(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    few = ("--trials", "3", "--formats", "dfx5,dfx7", "--within", "100", "--seeds", "1")
    code, text, error = run(capsys, "search", *TINY, *few, "--out", str(out))
    assert code == 0, error
    assert "The front" in text
    assert "less energy than dfx8" in text
    assert "of test accuracy; 3 plans trained" in text
    assert f"Plan: {out / 'plan.toml'}" in text
    assert "1 of 3: dfx8 (reference)" in error
    page = (out / "search.html").read_text(encoding="utf-8")
    assert "Accuracy against energy" in page
    assert page.count("Plotly.newPlot") == 1
    code, text, _ = run(capsys, "search", *TINY, *few, "--out", str(out), "--json")
    assert code == 0
    found = json.loads(text)
    assert found["saving"] > 0.1
    assert [t["number"] for t in found["trials"]] == [0, 1, 2]
    assert found["chosen"]["plan"] == (out / "plan.toml").read_text(encoding="utf-8")
    plan = ("--plan", str(out / "plan.toml"), "--out", str(tmp_path / "trained"))
    code, text, error = run(capsys, "train", *TINY, *plan)
    assert code == 0, error
    assert "test accuracy" in text
    code, text, error = run(capsys, "search", *TINY, *few, "--writeback", "nearest",
                            "--out", str(out))  # fmt: skip
    assert code == 2
    assert text == ""
    assert len(error.strip().splitlines()) == 1
    assert "has writeback 'kahan', not 'nearest'; choose another --out or --study" in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--objective", "time"), "unknown objective 'time'; use energy or memory"),
        (("--formats", "dfx4,dfx99x"), "dfx99x"),
        (("--formats", ","), "no formats; name some"),
        (("--plan", "fp32"), "no plan to start from; give one, e.g. --plan dfx8"),
        (("--model", "lenet"), "unknown model 'lenet'; did you mean 'lenet5'?"),
        (("--technology", "5nm"), "5nm"),
        (("--trials", "0"), "trials is 0; give 1 or more"),
        (("--storage", "nosuch://user:secret@host/db"), "cannot use nosuch://***@host/db"),
        (("--writeback", "split"), "split"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    out = tmp_path / "out"
    code, text, error = run(capsys, "search", *TINY, *options, "--out", str(out))
    assert code == 2, error
    assert text == ""
    assert len(error.strip().splitlines()) == 1, error
    assert message in error
    assert "secret" not in error
    assert not out.exists()


def test_without_optuna_it_names_the_extra() -> None:
    code = (
        "import sys; sys.modules['optuna'] = None; from limprec.cli import main; sys.exit(main())"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, "search"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 2
    assert run.stderr.strip() == (
        "limprec: error: search: Optuna is not installed;"
        " install it with: pip install 'limprec[search]'"
    )
