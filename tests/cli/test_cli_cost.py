"""``limprec cost`` as a user types it, rightly and wrongly."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import pytest

import limprec as lp
from limprec.cli import main
from limprec.costs import cost, cross_entropy
from limprec.lab.energy import measure_step
from limprec.lab.models import Task, build_model


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = main(["cost", *argv])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_json_is_what_python_says(capsys):
    options = ("--model", "resnet20", "--plan", "dfx8", "--batch-size", "8", "--steps", "100")
    code, out, _ = run(
        capsys, *options, "--technology", "7nm", "--devices", "4", "--shard", "zero2",
        "--optimizer", "adamw", "--writeback", "master", "--state-format", "e4m3", "--json",
    )  # fmt: skip
    assert code == 0
    answer = json.loads(out)
    expected = cost(
        build_model("resnet20", Task("image", (3, 32, 32), 10), seed=0),
        lp.Plan.load("dfx8"),
        (3, 32, 32),
        8,
        technology="7nm",
        optimizer="adamw",
        writeback="master",
        state_format="e4m3",
        steps=100,
        devices=4,
        shard="zero2",
        loss=cross_entropy,
    )
    assert answer == json.loads(json.dumps({"model": "resnet20", **expected.as_dict()}))
    assert set(answer["against"]) == {"fp32", "bf16"}


def test_tables_for_people(capsys):
    code, out, _ = run(
        capsys, "--model", "lenet5", "--steps", "64000", "--schedule", "3-8", "--format", "carrier"
    )
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "A training step of lenet5, batch 128, 45nm"
    assert lines[2].split() == ["a", "step", "dfx8", "fp32", "bf16"]
    assert lines[9].startswith("64,000 steps, all devices")
    assert max(len(line) for line in lines[:50] if "  " in line) <= 80
    words = {line.split()[0] for line in lines if line}
    assert {"conv1", "fc3", "activation", "weight", "element-wise", "parameter"} <= words
    assert "-36.67 % against the most bits throughout" in out
    assert "Fitted, not in the table: multiply int3" in out
    assert "Not counted: rounding itself" in out


def test_a_table_of_ones_own(capsys, tmp_path):
    table = tmp_path / "mine.toml"
    table.write_text('base = "45nm"\nfit = false\n', encoding="utf-8")
    code, _, error = run(capsys, "--model", "mlp", "--technology", str(table))
    assert code == 2
    assert error.count("\n") == 1
    assert "table 'mine' has no entry 'multiply bf16' and says fit = false" in error


def test_a_network_of_ones_own_is_made_without_values(capsys, tmp_path, monkeypatch):
    (tmp_path / "mine_for_cost.py").write_text(
        "import torch\n"
        "def wide(): return torch.nn.Linear(10**6, 10**6, bias=False)\n"
        "def other(): return 3\n"
        "def broken(): raise ValueError('no such size')\n",
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    options = ("--input-shape", "1000000", "--batch-size", "1", "--json")
    code, out, _ = run(capsys, "--model", "mine_for_cost:wide", *options)
    assert code == 0
    assert json.loads(out)["macs"]["activation"] == 10**12
    for name, message in (
        ("mine_for_cost:other", "made a int; return a torch module"),
        ("mine_for_cost:broken", "ValueError: no such size"),
        ("mine_for_cost:none", "cannot make mine_for_cost:none: AttributeError"),
        ("not_there:model", "ModuleNotFoundError: No module named 'not_there'"),
    ):
        code, _, error = run(capsys, "--model", name, *options)
        assert code == 2
        assert message in error
        assert error.count("\n") == 1
    code, _, error = run(capsys, "--model", "mine_for_cost:wide")
    assert (code, "input shape None" in error) == (2, True)


def test_the_page_holds_tables_charts_and_the_command(capsys, tmp_path: Path):
    page = tmp_path / "deep" / "cost.html"
    code, out, _ = run(capsys, "--model", "mlp", "--page", str(page))
    assert code == 0
    assert out.splitlines()[-1] == f"Page in {page}"
    text = page.read_text(encoding="utf-8")
    assert text.count('class="plotly-graph-div"') == 3
    for word in ("By layer", "By role", "ISSCC 2014", "limprec", "Not counted"):
        assert word in text
    assert 'src="http' not in text


class Monitor:
    """Stands for Zeus' monitor on a machine with one GPU, or without any counter."""

    gpu_indices: tuple = (0,)
    cpu_indices: tuple = ()

    def begin_window(self, name: str) -> None:
        pass

    def end_window(self, name: str) -> types.SimpleNamespace:
        return types.SimpleNamespace(
            time=1.0, gpu_energy={0: 5.0}, cpu_energy=None, dram_energy=None
        )


@pytest.fixture
def zeus(monkeypatch):
    module = types.ModuleType("zeus.monitor")
    module.ZeusMonitor = Monitor
    monkeypatch.setitem(sys.modules, "zeus", types.ModuleType("zeus"))
    monkeypatch.setitem(sys.modules, "zeus.monitor", module)


def test_measured_energy_beside_the_model(capsys, zeus, monkeypatch):
    options = ("--model", "gpt-mini", "--input-shape", "8", "--batch-size", "2", "--measure")
    monkeypatch.setattr(measure_step, "__kwdefaults__", {"seconds": 0.0})
    code, out, _ = run(capsys, *options, "--json")
    assert code == 0
    assert json.loads(out)["measured"]["joules"] == {"GPU 0": 5.0}
    monkeypatch.setattr(Monitor, "gpu_indices", ())
    code, out, _ = run(capsys, *options)
    assert code == 0
    assert "Measured: no energy counter on this machine." in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--technology", "3nm"), "unknown table '3nm'; use '45nm' or '7nm'"),
        (("--technology", "none.toml"), "cannot read none.toml"),
        (("--model", "resnet21"), "unknown model 'resnet21'"),
        (("--model", "gpt-mini", "--input-shape", "3,4"), "input shape '3,4' for gpt-mini"),
        (("--model", "lenet5", "--input-shape", "1,40,40"), "lenet5 cannot take (40, 40) images"),
        (("--input-shape", "3,x,3"), "input shape '3,x,3'; write 3,32,32"),
        (("--input-shape", "3,0,3"), "input shape '3,0,3'"),
        (("--classes", "1"), "1 classes; give 2 or more"),
        (("--batch-size", "0"), "batch is 0"),
        (("--optimizer", "sgdx"), "unknown optimizer 'sgdx'"),
        (("--writeback", "no"), "unknown writeback 'no'"),
        (("--schedule", "3-8"), "a schedule without plan or steps"),
        (("--schedule", "eight"), "schedule 'eight'; write e.g. 3-8"),
        (("--carrier", "fp31"), "unknown format 'fp31'"),
        (("--shard", "zero9"), "zero9"),
        (("--devices", "0"), "devices is 0"),
        (("--recompute", "stage*"), "recompute 'stage*' matches no module"),
        (("--plan", "nix"), "cannot read nix"),
    ],
)
def test_bad_input_is_one_line(capsys, options, message):
    code, out, error = run(capsys, *options)
    assert code == 2
    assert message in error
    assert error.count("\n") == 1
    assert out == ""


def test_measuring_without_zeus(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "zeus", None)
    monkeypatch.delitem(sys.modules, "zeus.monitor", raising=False)
    code, _, error = run(capsys, "--model", "mlp", "--measure")
    assert code == 2
    assert "install it: pip install 'limprec[energy]'" in error
