"""Runs whose forward bits move along a schedule."""

from pathlib import Path

import pytest
import torch

import limprec as lp
from limprec.errors import LabError, LimprecError
from limprec.integrations.lightning import pl
from limprec.lab.data import DataSet, load_data
from limprec.lab.run import RunConfig
from limprec.lab.trainer import Training, train
from limprec.nn import layer_plan
from limprec.schedule import Cyclic

SCHEDULE = Cyclic(3, 8, cycles=2)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    return load_data("digits", cache_dir=tmp_path_factory.mktemp("cache"))


def config(schedule: Cyclic | None = SCHEDULE, plan: str = "dfx8") -> RunConfig:
    planned = None if plan == "fp32" else lp.Plan.load(plan)
    return RunConfig.usual(
        "mlp", "digits", planned, "kahan", epochs=2, batch_size=256, schedule=schedule
    )


class Bits(pl.Callback):
    """Notes the weights' format in each step and each test batch; may end the run as a crash."""

    def __init__(self, last: int | None = None) -> None:
        self.last, self.steps = last, list[str]()
        self.tests: set[str] = set()

    def on_before_backward(self, trainer: pl.Trainer, module: Training, loss: torch.Tensor) -> None:
        self.steps.append(self.name(module))
        if len(self.steps) == self.last:
            raise KeyboardInterrupt

    def on_validation_batch_end(
        self, trainer: pl.Trainer, module: Training, *_: object, **__: object
    ) -> None:
        self.tests.add(self.name(module))

    @staticmethod
    def name(module: Training) -> str:
        plans = (layer_plan(m) for m in module.model.modules() if isinstance(m, torch.nn.Linear))
        return str(next(plan for plan in plans if plan).weight)


def test_bits_follow_the_step_and_tests_take_the_most(digits: DataSet, tmp_path: Path) -> None:
    seen = Bits()
    result = train(config(), digits, tmp_path / "moved", callbacks=(seen,))
    total = len(seen.steps)
    assert seen.steps == [f"dfx{SCHEDULE.bits(t, total)}" for t in range(total)]
    assert set(seen.steps) > {"dfx3", "dfx8"}
    assert seen.tests == {"dfx8"}
    assert result.config["schedule"] == "3-8x2"
    assert result.mac_energy < 0.8 * train(config(None), digits, tmp_path / "static").mac_energy


def test_a_resumed_run_goes_on_in_the_same_bits(digits: DataSet, tmp_path: Path) -> None:
    straight = Bits()
    expected = train(config(), digits, tmp_path / "straight", callbacks=(straight,))
    killed, resumed = Bits(last=len(straight.steps) - 2), Bits()
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        train(config(), digits, tmp_path / "killed", callbacks=(killed,))
    result = train(config(), digits, tmp_path / "killed", resume=True, callbacks=(resumed,))
    assert result.history == expected.history
    assert resumed.steps == straight.steps[-len(resumed.steps) :]
    assert 0 < len(resumed.steps) < len(straight.steps)


def test_bad_input(digits: DataSet, tmp_path: Path) -> None:
    with pytest.raises(LabError, match="schedule 3-8x2 without a plan; give a plan"):
        config(plan="fp32")
    with pytest.raises(LimprecError, match="900 cycles in"):
        train(config(Cyclic(3, 8, cycles=900)), digits, tmp_path / "run")
    with pytest.raises(LimprecError, match="no layer has forward bits to change"):
        train(config(plan="fp16"), digits, tmp_path / "run")
    assert not (tmp_path / "run").exists()
