"""SGD against torch.optim, its states and checkpoints, and its manners."""

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import limprec as lp
from limprec.errors import FormatError, OptimizerError
from limprec.optim import UpdateEvent

WRITE_BACKS = ["nearest", "stochastic", "kahan", "master"]


def problem(dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[nn.Module, Any]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).to(dtype)
    generator = torch.Generator().manual_seed(9)
    x = torch.randn(32, 6, generator=generator).to(dtype)
    y = torch.randint(3, (32,), generator=generator)

    def loss() -> torch.Tensor:
        return nn.functional.cross_entropy(model(x).float(), y)

    return model, loss


def fit(loss: Callable[[], torch.Tensor], optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()


@settings(max_examples=25, deadline=None)
@given(
    momentum=st.sampled_from([0.0, 0.5, 0.9]),
    dampening=st.sampled_from([0.0, 0.1]),
    weight_decay=st.sampled_from([0.0, 0.01]),
    nesterov=st.booleans(),
    maximize=st.booleans(),
    double=st.booleans(),
)
def test_nearest_in_the_own_format_is_torch_sgd(
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
    maximize: bool,
    double: bool,
) -> None:
    """Equal to torch within 4 ulps of the largest parameter a step (torch contracts a * b + c)."""
    if nesterov and (momentum == 0 or dampening != 0):
        return
    dtype = torch.float64 if double else torch.float32
    options: dict[str, Any] = {
        "lr": 0.1,
        "momentum": momentum,
        "dampening": dampening,
        "weight_decay": weight_decay,
        "nesterov": nesterov,
        "maximize": maximize,
    }
    (ours, our_loss), (theirs, their_loss) = problem(dtype), problem(dtype)
    fit(our_loss, lp.optim.SGD(ours.parameters(), **options, writeback="nearest"), 10)
    fit(their_loss, torch.optim.SGD(theirs.parameters(), **options), 10)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        tolerance = 10 * 4 * torch.finfo(dtype).eps * float(b.detach().abs().max())
        assert float((a - b).detach().abs().max()) <= tolerance


@pytest.mark.parametrize("writeback", WRITE_BACKS)
@pytest.mark.parametrize(
    ("dtype", "format", "state", "memory"),
    [
        (torch.float32, "dfx8", "dfx8:stochastic", torch.float32),
        (torch.float32, "e4m3", "bf16", torch.bfloat16),
        (torch.bfloat16, None, None, torch.bfloat16),
        (torch.float16, None, "e5m2:stochastic", torch.float8_e5m2),
    ],
)
def test_parameters_and_states_stay_in_their_formats(
    writeback: str, dtype: torch.dtype, format: str | None, state: str | None, memory: torch.dtype
) -> None:
    model, loss = problem(dtype)
    optimizer = lp.optim.SGD(
        model.parameters(), 0.05, 0.9, writeback=writeback, format=format, state_format=state
    )
    fit(loss, optimizer, 5)
    for p in model.parameters():
        assert p.dtype == dtype
        assert torch.equal(lp.quantize(p.detach(), format or _name(dtype)), p)
        buffer = optimizer.state[p]["momentum_buffer"]
        assert buffer.dtype == memory
        buffer = buffer.float()
        assert torch.equal(lp.quantize(buffer, (state or _name(dtype)).split(":")[0]), buffer)
        if writeback == "master":
            assert optimizer.state[p]["master"].dtype == torch.float32
        assert ("compensation" in optimizer.state[p]) == (writeback == "kahan")


def _name(dtype: torch.dtype) -> str:
    return {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}[dtype]


def test_making_the_optimizer_rounds_and_remembers() -> None:
    p = nn.Parameter(torch.tensor([0.3, -0.7, 1.0]))
    before = p.detach().clone()
    optimizer = lp.optim.SGD([p], writeback="kahan", format="e4m3", compensation_format="fp32")
    assert torch.equal(p.detach(), lp.quantize(before, "e4m3"))
    assert torch.equal(p.detach() + optimizer.state[p]["compensation"], before)


@pytest.mark.parametrize("writeback", WRITE_BACKS)
@pytest.mark.parametrize(("dtype", "format"), [(torch.float32, "dfx8"), (torch.bfloat16, None)])
def test_save_kill_load_goes_on_bit_for_bit(
    writeback: str, dtype: torch.dtype, format: str | None
) -> None:
    def make(model: nn.Module) -> lp.optim.SGD:
        return lp.optim.SGD(
            model.parameters(),
            0.05,
            0.9,
            writeback=writeback,
            format=format,
            state_format=None if format is None else "dfx8:stochastic",
            compensation_rounding="stochastic",
            seed=5,
        )

    straight, straight_loss = problem(dtype)
    straight_optimizer = make(straight)
    fit(straight_loss, straight_optimizer, 8)

    stopped, stopped_loss = problem(dtype)
    first = make(stopped)
    fit(stopped_loss, first, 4)
    file = io.BytesIO()
    torch.save({"model": stopped.state_dict(), "optimizer": first.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file)
    resumed, resumed_loss = problem(dtype, seed=1)
    second = make(resumed)
    resumed.load_state_dict(saved["model"])
    second.load_state_dict(saved["optimizer"])
    fit(resumed_loss, second, 4)

    for a, b in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
        for name, value in straight_optimizer.state[a].items():
            assert torch.equal(value, second.state[b][name])
            assert value.dtype == second.state[b][name].dtype


def test_loading_does_not_share_the_checkpoints_tensors() -> None:
    model, loss = problem(torch.bfloat16)
    optimizer = lp.optim.SGD(model.parameters(), 0.1, 0.9, writeback="master")
    fit(loss, optimizer, 1)
    saved = copy.deepcopy(optimizer.state_dict())
    kept = copy.deepcopy(saved)
    optimizer.load_state_dict(saved)
    fit(loss, optimizer, 2)
    for number, state in saved["state"].items():
        for name, value in state.items():
            assert torch.equal(value, kept["state"][number][name])


def test_groups_have_their_own_options() -> None:
    model, loss = problem()
    weights = [p for p in model.parameters() if p.dim() > 1]
    biases = [p for p in model.parameters() if p.dim() == 1]
    optimizer = lp.optim.SGD(
        [{"params": weights, "format": "dfx6"}, {"params": biases, "writeback": "nearest"}], lr=0.1
    )
    fit(loss, optimizer, 2)
    assert all("compensation" in optimizer.state[p] for p in weights)
    assert all("compensation" not in optimizer.state[p] for p in biases)
    assert all(torch.equal(lp.quantize(p.detach(), "dfx6"), p) for p in weights)


def test_formats_of_tells_what_is_kept() -> None:
    model, _ = problem()
    lp.convert(model, lp.Plan.load("dfx8"))
    optimizer = lp.optim.SGD(model.parameters(), 0.1, 0.9, writeback="kahan", format="plan")
    for p in model.parameters():
        kept = {role: str(fmt) for role, fmt in optimizer.formats_of(p).items()}
        assert kept == dict.fromkeys(
            ("parameter", "gradient", "compensation", "momentum_buffer"), "dfx8"
        )
    with pytest.raises(OptimizerError, match="not a parameter of this optimizer"):
        optimizer.formats_of(torch.zeros(1))


def test_observers_see_each_write_back_and_can_be_removed() -> None:
    model, loss = problem()
    optimizer = lp.optim.SGD(model.parameters(), 0.1, writeback="kahan", format="dfx8")
    events: list[UpdateEvent] = []
    stop = optimizer.observe(lambda p, event: events.append(event))
    fit(loss, optimizer, 1)
    assert len(events) == 4
    assert all(e.carry_before is not None for e in events)
    stop()
    fit(loss, optimizer, 1)
    assert len(events) == 4


def test_a_nan_gradient_is_not_eaten() -> None:
    p = nn.Parameter(torch.ones(2))
    optimizer = lp.optim.SGD([p], 0.1, 0.9, writeback="kahan", format="bf16")
    p.grad = torch.tensor([float("nan"), 1.0])
    optimizer.step()
    assert p.isnan().tolist() == [True, False]


def test_closure_and_schedulers_work() -> None:
    model, loss = problem()
    optimizer = lp.optim.SGD(model.parameters(), 0.1, writeback="kahan", format="bf16")
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)

    def closure() -> float:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return float(value.detach())

    first = optimizer.step(closure)
    schedule.step()
    assert optimizer.param_groups[0]["lr"] == 0.05
    second = optimizer.step(closure)
    assert first is not None
    assert second is not None
    assert second < first


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"lr": -1.0}, OptimizerError, "lr is -1.0; give 0 or more"),
        ({"writeback": "kahn"}, OptimizerError, "unknown write-back 'kahn'; use one of nearest"),
        ({"momentum": 1.0}, OptimizerError, "momentum is 1.0; give 0 or more, less than 1"),
        ({"nesterov": True}, OptimizerError, "nesterov without momentum"),
        ({"seed": -3}, OptimizerError, "seed is -3"),
        ({"format": "dfx40"}, FormatError, "use a float64 carrier"),
        ({"format": "q8"}, FormatError, "unknown format 'q8'"),
        ({"compensation_rounding": "up!"}, FormatError, "unknown rounding"),
    ],
)
def test_bad_options_change_nothing(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    p = nn.Parameter(torch.tensor([0.3, 0.7]))
    with pytest.raises(error, match=message):
        lp.optim.SGD([p], **options)
    assert p.tolist() == torch.tensor([0.3, 0.7]).tolist()
