"""``limprec train`` and ``limprec compare`` as a user types them, rightly and wrongly."""

import json
from pathlib import Path

import pytest
from PIL import Image

from limprec.cli import main


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = main(list(argv))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def plan(folder: Path, text: str) -> str:
    path = folder / "plan.toml"
    path.write_text("version = 1\n" + text)
    return str(path)


def pictures(folder: Path, *, damaged: bool = False) -> Path:
    for split in ("train", "test"):
        for number, name in enumerate(("cat", "dog")):
            (folder / split / name).mkdir(parents=True)
            for i in range(4):
                image = Image.new("RGB", (32, 32), (60 * i, 90 * number, 9))
                image.save(folder / split / name / f"{i}.png")
    if damaged:
        (folder / "train" / "dog" / "2.png").write_bytes(b"not a picture")
    return folder


def test_train_then_resume(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    options = ("--model", "mlp", "--data", "digits", "--epochs", "1", "--batch-size", "256")
    code, text, _ = run(capsys, "train", *options, "--out", out)
    assert code == 0
    assert "test accuracy" in text
    assert f"Results in {out}" in text
    code, _, error = run(capsys, "train", *options, "--out", out)
    assert code == 2
    assert "holds a run; add --resume or choose another --out" in error
    code, text, _ = run(capsys, "train", *options, "--out", out, "--resume", "--json")
    assert code == 0
    result = json.loads(text)
    assert result["config"]["writeback"] == "kahan"
    assert len(result["history"]) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("eight",), "schedule 'eight'; write e.g. 3-8, or 3-8x16 for 16 cycles"),
        (("8-3",), "8 to 3 bits; give 2 <= low <= high"),
        (("3-8", "--plan", "fp32"), "schedule 3-8x32 without a plan; give a plan"),
        (("3-8", "--plan", "fp16"), "no layer has forward bits to change; give weights"),
        (("3-8x99", "--epochs", "1", "--batch-size", "512"), "99 cycles in 2 steps; train longer"),
    ],
)
def test_train_refuses_a_schedule(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    usual = ("--model", "mlp", "--data", "digits", "--out", str(tmp_path / "run"))
    code, _, error = run(capsys, "train", *usual, "--schedule", *options)
    assert code == 2
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_compare_prints_the_table_and_names_the_page(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    options = ("--model", "mlp", "--epochs", "1", "--batch-size", "256", "--writebacks", "kahan")
    code, text, _ = run(capsys, "compare", *options, "--out", str(out))
    assert code == 0
    lines = text.splitlines()
    assert lines[0].split()[:2] == ["training", "accuracy"]
    assert lines[1].startswith("fp32")
    assert lines[2].startswith("dfx8 kahan")
    assert f"Report: {out / 'report.html'}" in text
    assert (out / "report.html").is_file()
    assert (out / "table.md").is_file()
    code, text, _ = run(capsys, "compare", *options, "--out", str(out), "--json")
    assert [row["label"] for row in json.loads(text)] == ["fp32", "dfx8 kahan"]


def test_compare_in_real_bfloat16_over_seeds(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    options = ("--model", "mlp", "--dtype", "bfloat16", "--optimizer", "adamw", "--seeds", "2")
    few = ("--epochs", "1", "--batch-size", "256", "--writebacks", "nearest")
    code, text, error = run(capsys, "compare", *options, *few, "--out", str(tmp_path / "run"))
    assert code == 0, error
    lines = text.splitlines()
    assert [line.split("  ")[0] for line in lines[1:3]] == ["fp32", "bfloat16 nearest"]
    assert all("±" in line for line in lines[1:3])
    code, _, error = run(capsys, "compare", *options[:4], "--seeds", "0")
    assert code == 2
    assert "seeds is 0; give 1 or more" in error


def test_train_on_a_folder_of_pictures(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    data = f"imagefolder:{pictures(tmp_path / 'pictures')}"
    options = ("--model", "lenet5", "--data", data, "--epochs", "1", "--batch-size", "4")
    code, text, error = run(capsys, "train", *options, "--out", str(tmp_path / "run"), "--json")
    assert code == 0, error
    assert json.loads(text)["accuracy"] in (0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1)


@pytest.mark.parametrize("model", ["gpt-mini", "lstm"])
def test_train_on_text(capsys: pytest.CaptureFixture[str], tmp_path: Path, model: str) -> None:
    file = tmp_path / "text.txt"
    file.write_text("so shaken as we are, so wan with care, " * 40)
    options = (
        "--model",
        model,
        "--data",
        f"text:{file}",
        "--context",
        "16",
        "--batch-size",
        "16",
    )
    code, text, error = run(
        capsys, "train", *options, "--epochs", "1", "--out", str(tmp_path / "run"), "--json"
    )
    assert code == 0, error
    assert json.loads(text)["loss"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--model", "lenet"), "unknown model 'lenet'; did you mean 'lenet5'?"),
        (("--data", "minst"), "minst"),
        (("--data", "mnist", "--data-dir", "{tmp}/nowhere"), "{tmp}/nowhere"),
        (("--data", "imagefolder:{tmp}/nowhere"), "{tmp}/nowhere"),
        (("--data", "text:{tmp}/nowhere.txt"), "{tmp}/nowhere.txt"),
        (("--plan", "dfx9"), "cannot read dfx9: No such file or directory; give a TOML file or"),
        (("--plan", "{unknown}"), "unknown format 'q8'"),
        (("--plan", "{wide}"), "fx32.16 has 31 significant bits, float32 carries 24"),
        (("--plan", "{nolayer}"), "rule 'conv9' matches no layer; the layers are conv1, conv2"),
        (("--plan", "{role}"), "unknown role 'weigth'; did you mean 'weight'?"),
        (("--epochs", "0"), "epochs is 0; give 1 or more"),
        (("--epochs", "three"), "three"),
        (("--lr", "-1"), "lr is -1.0; give more than 0"),
        (("--speed", "9"), "--speed"),
        (("--dtype", "float16"), "unknown dtype 'float16'; use float32 or bfloat16"),
        (("--dtype", "bfloat16", "--plan", "dfx8"), "leave out the plan or the dtype"),
        (("--optimizer", "adm"), "unknown optimizer 'adm'; use one of sgd"),
        (("--warmup", "-1"), "warmup is -1; give 0 or more"),
    ],
)
@pytest.mark.parametrize("command", ["train", "compare"])
def test_bad_input_is_one_line_and_leaves_nothing(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    options: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.delenv("LIMPREC_DATA", raising=False)
    monkeypatch.setenv("no_proxy", "*")
    texts = {
        "unknown": "[default]\nweight = 'q8'",
        "wide": "[default]\nweight = 'fx32.16'",
        "nolayer": "[[layer]]\nmatch = 'conv9'\nweight = 'dfx8'",
        "role": "[default]\nweigth = 'dfx8'",
    }
    for name, text in texts.items():
        (tmp_path / name).mkdir()
        plan(tmp_path / name, text)
    places = {"tmp": str(tmp_path), **{n: str(tmp_path / n / "plan.toml") for n in texts}}
    out = tmp_path / "out"
    given = ("--data", "digits", *(o.format(**places) for o in options))
    code, text, error = run(capsys, command, *given, "--out", str(out))
    assert code == 2
    assert text == ""
    assert len(error.strip().splitlines()) == 1, error
    assert error.startswith("limprec: error: ")
    assert message.format(**places) in error
    assert not out.exists()


def test_a_damaged_image_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = pictures(tmp_path / "pictures", damaged=True)
    out = tmp_path / "out"
    code, _, error = run(capsys, "train", "--data", f"imagefolder:{folder}", "--out", str(out))
    assert code == 2
    assert len(error.strip().splitlines()) == 1
    assert str(folder / "train" / "dog" / "2.png") in error
    assert not out.exists()


def test_a_write_back_that_is_none_or_does_not_fit(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, _, error = run(capsys, "train", "--writeback", "kahn")
    assert code == 2
    assert "unknown write-back 'kahn'; use one of nearest" in error
    out = tmp_path / "out"
    fp32 = ("--data", "digits", "--plan", "fp32", "--out", str(out))
    code, _, error = run(capsys, "train", *fp32, "--writeback", "split")
    assert code == 2
    assert "split needs bfloat16 parameters" in error
    assert not out.exists()
