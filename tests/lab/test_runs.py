"""Training runs, comparisons and their reports, on the embedded digits."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import limprec as lp
from limprec.errors import LabError, LimprecError, OptimizerError, PlanError
from limprec.integrations.lightning import pl
from limprec.lab import table
from limprec.lab.compare import compare
from limprec.lab.data import DataSet, load_data
from limprec.lab.models import MODELS, Task, build_model
from limprec.lab.optimizers import OPTIMIZERS
from limprec.lab.report import write_report
from limprec.lab.run import RunConfig, RunResult
from limprec.lab.trainer import Training, train
from limprec.lab.variants import variants

PLAN = lp.Plan.load("dfx8")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    return load_data("digits", cache_dir=tmp_path_factory.mktemp("cache"))


def config(**changes: object) -> RunConfig:
    base = RunConfig.usual("mlp", "digits", PLAN, "kahan", epochs=2, batch_size=256)
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def state_of(folder: Path) -> dict[str, torch.Tensor]:
    loaded = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=False)
    weights: dict[str, torch.Tensor] = loaded["state_dict"]
    return weights


def test_a_run_learns_and_measures(digits: DataSet, run_folder: Path) -> None:
    result = train(config(epochs=4, batch_size=64), digits, run_folder)
    assert result.accuracy > 0.85
    assert [record["epoch"] for record in result.history] == [1, 2, 3, 4]
    assert result.history[-1]["train_loss"] < result.history[0]["train_loss"] / 2
    assert result.total_state_bits == 32
    assert result.updates_lost is not None
    assert 0 <= result.updates_lost < 0.5
    # two layers of 1024 x 256 and 256 x 10: two products and three, 0.3 pJ each
    assert result.mac_energy == pytest.approx((2 * 262_144 + 3 * 2_560) * 0.3e-12)
    assert RunResult.load(run_folder / "result.json") == result
    for name in ("checkpoints/last.ckpt", "metrics.csv"):
        assert (run_folder / name).is_file()
    assert list(run_folder.glob("events.out.tfevents.*"))


class Killed(pl.Callback):
    """Ends a run in the middle of its second epoch, as a crash would."""

    def on_train_batch_start(self, trainer: pl.Trainer, *rest: object) -> None:
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt


@pytest.mark.parametrize("writeback", ["kahan", "stochastic"])
def test_killed_and_resumed_is_bit_for_bit_the_same(
    digits: DataSet, tmp_path: Path, writeback: str
) -> None:
    run = config(writeback=writeback)
    straight = train(run, digits, tmp_path / "straight")
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        train(run, digits, tmp_path / "killed", callbacks=(Killed(),))
    assert not (tmp_path / "killed" / "result.json").exists()
    with pytest.raises(LabError, match="holds a run; add --resume or choose another --out"):
        train(run, digits, tmp_path / "killed")
    resumed = train(run, digits, tmp_path / "killed", resume=True)
    assert resumed.history == straight.history
    assert resumed.updates_lost == straight.updates_lost
    assert resumed.movement_lost == straight.movement_lost is not None
    first, second = state_of(tmp_path / "straight"), state_of(tmp_path / "killed")
    assert list(first) == list(second)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_seed_decides(digits: DataSet, tmp_path: Path) -> None:
    runs = [
        train(config(epochs=1, seed=seed), digits, tmp_path / str(i))
        for i, seed in enumerate([1, 1, 2])
    ]
    losses = [run.loss for run in runs]
    assert losses[0] == losses[1] != losses[2]


def test_variants_name_the_rounding_of_a_compensation() -> None:
    rows = variants(config(epochs=1), ["kahan", "kahan-stochastic", "lazy"])
    roundings = [row.config.compensation_rounding for row in rows]
    assert roundings == [None, "nearest", "stochastic", None]


def test_a_comparison_ends_in_a_table_and_a_page_and_goes_on(
    digits: DataSet, tmp_path: Path
) -> None:
    rows = variants(config(epochs=1), ["nearest", "kahan-stochastic"])
    started: list[str] = []

    def start(row: object) -> list[pl.Callback]:
        started.append(row.label)  # type: ignore[attr-defined]
        return []

    results = compare(rows, digits, tmp_path, on_start=start)
    assert started == ["fp32", "dfx8 nearest", "dfx8 kahan-stochastic"]
    assert compare(rows, digits, tmp_path, on_start=start) == results
    assert len(started) == 3  # nothing finished is run again
    cells = table.rows(results)
    assert [row[0] for row in cells] == started
    assert [row[6] for row in cells] == ["96", "24", "32"]
    assert [row[7] for row in cells] == ["100 %", "6.5 %", "6.5 %"]
    page = write_report(results, tmp_path / "report.html", "limprec compare").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")[:2000]
    for cell in cells[1]:
        assert cell in page
    assert "<script" in page
    text = table.write_markdown(results, tmp_path / "table.md", "limprec compare").read_text()
    assert text.count("\n| dfx8") == 2
    assert results[0].environment["limprec"] in text


def test_real_bfloat16_is_kept_and_counted(digits: DataSet, run_folder: Path) -> None:
    run = config(plan=None, dtype="bfloat16", wide_products=True, epochs=4, batch_size=64)
    result = train(run, digits, run_folder)
    assert result.accuracy > 0.85
    assert result.state_bits == dict.fromkeys(
        ("parameter", "gradient", "compensation", "momentum_buffer"), 16
    )
    assert all(w.dtype == torch.bfloat16 for w in state_of(run_folder).values())
    # bfloat16: 3 products of a float multiply and an fp32 add, cheaper than fp32's
    plain = train(config(plan=None, writeback="nearest", epochs=1), digits, run_folder / "fp32")
    assert 0.2 < result.mac_energy / plain.mac_energy < 0.7


def test_adamw_trains_a_model_of_text(tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("so shaken as we are, so wan with care, " * 60)
    text = load_data(f"text:{file}", context=16)
    run = RunConfig.usual(
        "gpt-mini", text.name, None, "kahan",
        optimizer="adamw", dtype="bfloat16", epochs=4, batch_size=16, context=16, warmup=5,
    )  # fmt: skip
    assert (run.lr, run.weight_decay, run.momentum) == (1e-3, 0.01, 0)
    optimizer = Training(run, text).configure_optimizers()
    assert isinstance(optimizer["optimizer"], lp.optim.AdamW)
    result = train(run, text, tmp_path / "run")
    assert result.history[-1]["test_loss"] < 0.8 * result.history[0]["test_loss"]
    assert result.state_bits["exp_avg_sq"] == 16


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_every_optimizer_moves_the_model(digits: DataSet, name: str) -> None:
    run = RunConfig.usual("mlp", "digits", None, "kahan", optimizer=name, dtype="bfloat16")
    training = Training(run, digits)
    optimizer = training.configure_optimizers()["optimizer"]
    assert type(optimizer).__name__ == OPTIMIZERS[name].kind
    before = [p.detach().clone() for p in training.parameters()]
    training(torch.randn(4, 1, 32, 32)).square().mean().backward()
    optimizer.step()
    assert not any(torch.equal(a, b) for a, b in zip(before, training.parameters(), strict=True))


def test_a_momentum_where_there_is_none_is_refused(digits: DataSet) -> None:
    run = config(optimizer="adamw", momentum=0.9)
    with pytest.raises(LabError, match=r"adamw takes no momentum of 0\.9; leave it out"):
        Training(run, digits).configure_optimizers()


def test_the_rate_rises_and_falls(digits: DataSet) -> None:
    run = config(lr=1.0, warmup=3, epochs=10)
    made = Training(run, digits).configure_optimizers()
    schedule = made["lr_scheduler"]["scheduler"].lr_lambdas[0]
    rates = [schedule(step) for step in range(61)]
    assert rates[:3] == sorted(rates[:3])
    assert 0.24 < rates[0] < 0.26
    assert max(rates) == rates[3] > 0.98
    assert rates[-1] == 0


def test_several_seeds_give_mean_and_spread(digits: DataSet, tmp_path: Path) -> None:
    base = config(epochs=1, dtype="bfloat16", plan=None)
    rows = variants(base, ["nearest"], seeds=2)
    assert [row.title for row in rows] == [
        "fp32, seed 0",
        "bfloat16 nearest, seed 0",
        "fp32, seed 1",
        "bfloat16 nearest, seed 1",
    ]
    assert [row.config.dtype for row in rows[:2]] == ["float32", "bfloat16"]
    results = compare(rows, digits, tmp_path)
    cells = table.rows(results)
    assert [row[0] for row in cells] == ["fp32", "bfloat16 nearest"]
    accuracies = [100 * r.accuracy for r in results if r.label == "fp32"]
    middle, half = sum(accuracies) / 2, abs(accuracies[0] - accuracies[1]) / 2**0.5
    assert cells[0][1] == f"{middle:.2f} ± {half:.2f} %"
    gaps = [
        100 * (b.accuracy - a.accuracy) for a, b in zip(results[::2], results[1::2], strict=True)
    ]
    assert cells[1][2].startswith(f"{sum(gaps) / 2:+.2f} ± ")
    assert cells[0][2] == ""
    assert "2 seeds" in table.markdown(results)
    assert "seed 0, 1" in table.write_markdown(results, tmp_path / "t.md", "x").read_text()
    page = write_report(results, tmp_path / "report.html", "x").read_text()
    assert "seed 0, 1." in page
    assert page.count('"name":"bfloat16 nearest"') == 2  # one curve a chart, not one a seed


def test_a_plan_that_does_not_fit_is_refused_before_anything_runs(
    digits: DataSet, tmp_path: Path
) -> None:
    plan = lp.Plan.from_toml("version = 1\n[[layer]]\nmatch = 'conv*'\nweight = 'dfx8'")
    with pytest.raises(PlanError, match="'conv\\*' matches no layer"):
        compare(variants(config(plan=plan), ["kahan"]), digits, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", list(MODELS))
def test_every_model_converts_and_learns_a_step(name: str) -> None:
    kind = MODELS[name].kind
    task = Task(kind, (3, 32, 32) if kind == "image" else (16,), 10)
    model = lp.convert(build_model(name, task, seed=0), PLAN)
    x = torch.randn(4, 3, 32, 32) if kind == "image" else torch.randint(10, (4, 16))
    logits = model(x)
    assert logits.shape == ((4, 10) if kind == "image" else (4, 16, 10))
    logits.square().mean().backward()
    optimizer = lp.optim.SGD(model.parameters(), 0.1, 0.9, format="plan")
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.step()
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(p.isfinite().all() for p in model.parameters())


def test_models_are_seeded_and_leave_the_global_generator() -> None:
    task = Task("image", (1, 28, 28), 10)
    state = torch.random.get_rng_state()
    a, b, c = (build_model("lenet5", task, seed) for seed in (0, 0, 1))
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(a.fc1.weight, b.fc1.weight)  # type: ignore[arg-type,union-attr]
    assert not torch.equal(a.fc1.weight, c.fc1.weight)  # type: ignore[arg-type,union-attr]
    assert sum(p.numel() for p in a.parameters()) == 61_706  # LeCun et al. 1998, padded by 2


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: config(model="lenet"), LabError, "unknown model 'lenet'; did you mean 'lenet5'"),
        (lambda: config(epochs=0), LabError, "epochs is 0; give 1 or more"),
        (lambda: config(lr=0.0), LabError, "lr is 0.0; give more than 0"),
        (lambda: config(seed=-1), LabError, "seed is -1"),
        (lambda: config(warmup=-1), LabError, "warmup is -1; give 0 or more"),
        (
            lambda: config(optimizer="adam2"),
            LabError,
            "unknown optimizer 'adam2'; use one of sgd, adam, adamw",
        ),
        (
            lambda: config(plan=None, dtype="float16"),
            LabError,
            "unknown dtype 'float16'; use float32 or bfloat16",
        ),
        (
            lambda: config(dtype="bfloat16"),
            LabError,
            "a plan simulates its formats in float32, not in bfloat16; leave out the plan",
        ),
        (lambda: variants(config(), ["kahan"], seeds=0), LabError, "seeds is 0; give 1 or more"),
        (lambda: variants(config(plan=None), ["kahan"]), LabError, "no plan; give one"),
        (lambda: variants(config(), ["kahan", "kahan"]), LabError, "a write-back twice"),
        (lambda: variants(config(), ["kahn"]), OptimizerError, "unknown write-back 'kahn'"),
        (
            lambda: build_model("gpt-mini", Task("image", (1, 28, 28), 10), 0),
            LabError,
            "gpt-mini takes text data, not image; use lenet5 or mlp or resnet20",
        ),
        (
            lambda: build_model("lenet5", Task("image", (1, 64, 64), 10), 0),
            LabError,
            "use 28x28 or 32x32",
        ),
    ],
)
def test_errors(make: Callable[[], object], error: type[LimprecError], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_a_damaged_result_says_so(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps({"label": "x"}))
    with pytest.raises(LabError, match=r"result\.json is damaged.*; delete it"):
        RunResult.load(path)


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0, "0 %"),
        (1, "100 %"),
        (0.0652, "6.5 %"),
        (0.99994, "99.99 %"),
        (0.000012, "0.001 %"),
        (2e-8, "< 0.001 %"),
    ],
)
def test_percent_tells_nearly_all_from_all(share: float, text: str) -> None:
    assert table.percent(share) == text


def test_training_is_the_same_with_and_without_counting(digits: DataSet) -> None:
    training = Training(config(), digits)
    assert training.configure_optimizers()["optimizer"].param_groups[0]["writeback"] == "kahan"


@pytest.mark.parametrize("name", ["fp16", "fp8"])
def test_a_run_scales_its_loss_and_tensors_and_goes_on(
    name: str, digits: DataSet, tmp_path: Path
) -> None:
    plan = lp.Plan.load(name)
    if name == "fp8":
        scaling = dataclasses.replace(plan.scaling, tensors="delayed")
        plan = dataclasses.replace(plan, scaling=scaling)
    run = config(plan=plan, epochs=2)
    straight = train(run, digits, tmp_path / "straight")
    assert straight.history[-1]["train_loss"] < straight.history[0]["train_loss"]
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        train(run, digits, tmp_path / "killed", callbacks=(Killed(),))
    resumed = train(run, digits, tmp_path / "killed", resume=True)
    assert resumed.history == straight.history
    loaded = torch.load(tmp_path / "straight/checkpoints/last.ckpt", weights_only=False)
    assert ("LossScale" in loaded) == (name == "fp16")
    late = [key for key in loaded["state_dict"] if "_limprec.scales." in key]
    assert bool(late) == (name == "fp8")
