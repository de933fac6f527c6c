"""The README's promises: its Python runs, its commands exist, its figures are those measured."""

import re
import shlex
from pathlib import Path

import pytest

from limprec.cli import COMMANDS, main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_examples_run_one_after_the_other() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len(blocks) == 2
    scope: dict[str, object] = {}
    for code in blocks:
        exec(compile(code, "README.md", "exec"), scope)
        assert scope["logits"].isfinite().all()  # type: ignore[attr-defined]


def test_the_commands_exist() -> None:
    named = set(re.findall(r"`limprec (\w+)", README))
    assert named == set(COMMANDS)
    for target in re.findall(r"^make (\w+)", README, re.M):
        assert f"\n{target}:" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_the_guideline_prints_what_the_readme_shows(capsys: pytest.CaptureFixture[str]) -> None:
    (command, shown) = re.findall(r"^\$ limprec (.*?)\n(.*?)```", README, re.M | re.S)[0]
    assert main(shlex.split(command)) == 0
    assert capsys.readouterr().out.split() == shown.split()


def test_the_figure_is_the_committed_one() -> None:
    table = (ROOT / "experiments" / "lenet5-mnist-dfx8" / "table.md").read_text(encoding="utf-8")
    rows = [line for line in README.splitlines() if line.startswith("| ") and "%" in line]
    assert len(rows) >= 4
    for row in rows:
        assert [c.strip() for c in row.split("|")[1:3]] in [
            [c.strip() for c in line.split("|")[1:3]] for line in table.splitlines()
        ]
