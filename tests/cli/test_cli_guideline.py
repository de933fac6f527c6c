"""The command ``guideline``."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import pytest
from torch import nn

import limprec
from limprec.cli import main


@pytest.mark.parametrize(
    ("classes", "least", "advised"),
    [(10, 4, 5), (100, 7, 8), (1000, 10, 11), (10000, 14, 15), (50257, 16, 17), (1024, 11, 11)],
)
def test_guideline_as_json(capsys, classes, least, advised):
    assert main(["guideline", "--classes", str(classes), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["least"], answer["advised"]) == (least, advised)
    assert answer["num_classes"] == classes
    assert list(answer) == sorted(answer)


def test_guideline_passes_every_option_on(capsys):
    options = {
        "family": "fixed",
        "rounding": "toward_zero",
        "batch": 64,
        "reduction": "mean",
        "loss_scale": 3.0,
        "label_smoothing": 0.1,
        "amax": 0.5,
        "scale_exponent": 2,
    }
    given = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    assert main(["guideline", "--classes=1000", "--json", *given]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer == json.loads(json.dumps(limprec.guideline(1000, **options).as_dict()))
    assert {name: answer[name] for name in options} == options
    assert main(["guideline", "--classes=9", "--family=float", "--mantissa-bits=3", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["unit"], answer["mantissa_bits"]) == ("exponent bits", 3)


def test_guideline_for_people(capsys):
    assert main(["guideline", "--classes", "1000"]) == 0
    answer = limprec.guideline(1000)
    assert capsys.readouterr().out.splitlines() == [
        "The last layer, 1000 classes, fixed point, rounding nearest",
        "",
        "             least  advised        such as",
        "error           10       11  bits  dfx11",
        "logits           3        5  bits  dfx5",
        "softmax sum     20       24  bits  fx24.13",
        "",
        answer.reason,
        "",
        answer.logits.reason,
        "",
        answer.accumulator.reason,
    ]


def test_a_chart_in_text(capsys):
    assert main(["guideline", "--classes", "30", "--chart"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"     30  {'#####+':<21}   5  6" in lines
    assert lines[-1] == "1000000  ####################+  20 21"


def test_a_page(capsys, tmp_path):
    pytest.importorskip("plotly")
    path = tmp_path / "deep" / "page.html"
    assert main(["guideline", "--classes", "1000", "--family", "float", "--page", str(path)]) == 0
    text = path.read_text(encoding="utf-8")
    assert text.count("Plotly.newPlot(") == 3
    assert "1000 classes" in text
    assert limprec.guideline(1000, family="float").accumulator.reason in text
    assert "<script src=" not in text
    assert f"Page: {path}" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["5 3 900\n10", "[5, 3, 900, 10]", "5,3,900,10\n"])
def test_counts_from_a_file(capsys, tmp_path, text):
    path = tmp_path / "counts.txt"
    path.write_text(text)
    for more in ([], ["--classes", "4"]):
        assert main(["guideline", "--counts", str(path), "--json", *more]) == 0
        answer = json.loads(capsys.readouterr().out)
        assert answer == json.loads(
            json.dumps(limprec.guideline(class_counts=[5, 3, 900, 10]).as_dict())
        )
    assert answer["rarest"] == 3 / 918


def test_counts_of_a_data_set(capsys):
    pytest.importorskip("sklearn")
    assert main(["guideline", "--counts", "digits", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["num_classes"] == 10
    assert 0.09 < answer["rarest"] < 0.1


@pytest.fixture
def zoo(monkeypatch):
    """A module of models, for --model."""
    module = types.ModuleType("limprec_test_zoo")
    module.big = lambda: nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 1000))
    module.plain = lambda: nn.ReLU()
    module.broken = lambda: 1 / 0
    module.number = lambda: 7
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module.__name__


def test_a_model_names_the_classes(capsys, zoo):
    assert main(["guideline", "--model", f"{zoo}:big", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_classes"] == 1000


@pytest.mark.parametrize(
    ("text", "enough", "error", "words"),
    [
        ("error = 'dfx8'", False, "dfx8", "is below the guideline: dfx8 has 8 bits, 1000 classes"),
        ("error = 'dfx10'", True, "dfx10", "error dfx10: enough; auto would give dfx11."),
        ("error = 'dfx8:stochastic'", True, "dfx8:stochastic", "dfx8:stochastic: enough."),
        ("error = 'mxfp8_e4m3'", True, "mxfp8_e4m3", "enough; auto would give mxint8."),
        ("error = 'fx8.4'", False, "fx8.4", "fx8.4 has 4 fraction bits, 1000 classes need 9"),
        ("error = 'e5m2'", True, "e5m2", "enough"),
        ("error = 'e5m2'\n[scaling]\ntensors = 'current'", True, "de5m2", "de5m2: enough."),
        ("error = 'de2m1'", False, "de2m1", "de2m1 has 2 exponent bits, 1000 classes need 4."),
        ("error = 'dfx8'\n[classifier]\nerror = 'auto'", True, "dfx11", "auto, which gives the"),
    ],
)
def test_a_plan_is_judged(capsys, tmp_path, zoo, text, enough, error, words):
    path = tmp_path / "plan.toml"
    path.write_text(f"version = 1\n[default]\n{text}\n")
    for where in (["--classes", "1000"], ["--model", f"{zoo}:big"]):
        assert main(["guideline", "--plan", str(path), *where]) == 0
        assert words in capsys.readouterr().out.splitlines()[-1]
        assert main(["guideline", "--plan", str(path), *where, "--json"]) == 0
        said = json.loads(capsys.readouterr().out)["plan"]
        assert (said["enough"], said["error"]) == (enough, error)


def test_a_plan_says_family_and_rounding(capsys):
    assert main(["guideline", "--plan", "dfx8", "--classes", "50257", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["family"], answer["rounding"]) == ("fixed", "stochastic")
    assert answer["plan"]["error"] == "dfx8:stochastic"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--classes", "5", "--counts", "COUNTS"], "num_classes is 5, class_counts has 2; leave"),
        (["--counts", "nowhere.txt"], "nowhere.txt is no file and no data set; give one: digits"),
        (["--counts", "WORDS"], "'many' is no count; give a whole number for each class"),
        (["--counts", "EMPTY"], "is empty"),
        (["--counts", "BYTES"], "is no text file"),
        (["--classes", "5", "--model", "ZOO:big"], "--model with --classes; leave one of them out"),
        (["--counts", "COUNTS", "--model", "ZOO:big"], "--model with --counts"),
        (["--model", "resnet"], "'resnet' names no model; write MODULE:NAME"),
        (["--model", "no_such_module:big"], "cannot build no_such_module:big: ModuleNotFoundError"),
        (["--model", "ZOO:small"], "cannot build limprec_test_zoo:small: AttributeError"),
        (["--model", "ZOO:broken"], "ZeroDivisionError: division by zero; name something that"),
        (["--model", "ZOO:plain"], "has no linear or convolution layer; give --classes instead"),
        (["--model", "ZOO:number"], "has no linear or convolution layer"),
        (["--plan", "dfx8"], "plan dfx8 has no num_classes; give --classes or --model"),
        (["--plan", "nowhere.toml", "--classes", "9"], "cannot read nowhere.toml"),
        (["--plan", "PLAN", "--classes", "9"], "plan is for 10 classes, not 9; leave one of"),
        (["--plan", "dfx8", "--classes", "9", "--family", "float"], "--family with --plan, which"),
        (["--plan", "dfx8", "--classes", "9", "--rounding", "up"], "--rounding with --plan, which"),
        (["--plan", "POSIT", "--classes", "9"], "no rule for posit8; use fixed"),
        (["--classes", "9", "--label-smoothing", "1.5"], "label_smoothing is 1.5; give a number"),
        (["--classes", "9", "--family", "float", "--amax", "1"], "amax with family 'float'"),
        (["--classes", "9", "--family", "mx", "--scale-exponent", "1"], "scale_exponent with fam"),
        (
            ["--classes", "9", "--block", "32"],
            "block with family 'fixed'; leave it out or",
        ),
        (["--classes", "9", "--sampled", "9"], "sampled is 9; give an integer from 1 to 8"),
        (["--counts", "COUNTS", "--sampled", "1"], "sampled with class_counts; leave one of"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line(capsys, tmp_path, zoo, argv, message):
    files = {
        "COUNTS": b"3 4",
        "WORDS": b"3 many",
        "EMPTY": b" \n",
        "BYTES": b"\xff\xfe\x00",
        "PLAN": b"version = 1\nnum_classes = 10\n",
        "POSIT": b"version = 1\n[default]\nerror = 'posit8'\n",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    given = [str(tmp_path / a) if a in files else a.replace("ZOO", zoo) for a in argv]
    assert main(["guideline", *given]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("limprec: error: ")
    assert message in err
    assert err.count("\n") == 1


def test_a_bad_page_is_one_line(capsys, tmp_path):
    pytest.importorskip("plotly")
    blocked = tmp_path / "file"
    Path(blocked).write_text("")
    assert main(["guideline", "--classes", "9", "--page", str(blocked / "page.html")]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
