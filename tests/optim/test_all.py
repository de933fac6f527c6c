"""The suite that every optimizer passes; ``specs`` says what is particular to each."""

import copy
import io
import math
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import problem
from specs import (
    ADAMW,
    BF16,
    E4M3,
    E5M2,
    FP32,
    KEEPINGS,
    LION,
    SGD,
    SPECS,
    Keeping,
    OptimizerSpec,
    Options,
    gradients,
    run,
)
from torch import Tensor, nn

import limprec as lp
from limprec.errors import FormatError, OptimizerError
from limprec.kernels.steps import SECOND_MOMENTS, WriteBack
from limprec.optim import UpdateEvent
from limprec.optim.base import WriteBackOptimizer
from limprec.optim.storage import DEFAULTS, carry_storage

every_optimizer = pytest.mark.parametrize("spec", SPECS, ids=str)
every_write_back = pytest.mark.parametrize("writeback", list(WriteBack))
KEPT = [
    pytest.param(writeback, keeping, id=f"{writeback}-{name}")
    for writeback in WriteBack
    for name, keeping in KEEPINGS.items()
    if writeback is not WriteBack.SPLIT or (keeping.dtype == BF16 and keeping.format == "bf16")
]


def everything(optimizer: WriteBackOptimizer, params: Iterable[Tensor]) -> list[dict[str, Any]]:
    """Return copies of the parameters and all that is kept beside them."""
    return [copy.deepcopy({"p": p.detach(), **optimizer.state[p]}) for p in params]


def assert_same(a: Sequence[dict[str, Any]], b: Sequence[dict[str, Any]]) -> None:
    """Same tensors: names, dtypes, shapes and bits."""
    assert len(a) == len(b)
    for one, other in zip(a, b, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            if not isinstance(value, Tensor):
                assert value == other[name], name
                continue
            assert (value.dtype, value.shape) == (other[name].dtype, other[name].shape), name
            assert torch.equal(_bytes(value), _bytes(other[name])), name


def _bytes(x: Tensor) -> Tensor:
    return x.detach().contiguous().view(-1).view(torch.uint8)


# What it computes


@every_optimizer
@settings(max_examples=20)
@given(data=st.data())
def test_nearest_in_the_own_format_is_torch(spec: OptimizerSpec, data: st.DataObject) -> None:
    """Equal within the spec's ulps of the largest parameter a step, over all arguments."""
    options = {name: data.draw(st.sampled_from(values), name) for name, values in spec.grid.items()}
    if not spec.allowed(options):
        return
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]), "dtype")
    seed, steps = data.draw(st.integers(0, 2**16), "seed"), 8
    ours, theirs = spec.parameters(dtype, seed), spec.parameters(dtype, seed)
    mine = spec.ours(ours, lr=spec.lr, **options, writeback="nearest")
    run(mine, ours, range(steps), seed)
    run(spec.peer(theirs, lr=spec.lr, **options), theirs, range(steps), seed)
    largest = max(float(p.detach().abs().max()) for p in theirs)
    tolerance = steps * spec.ulps * torch.finfo(dtype).eps * largest
    for a, b in zip(ours, theirs, strict=True):
        assert float((a - b).detach().abs().max()) <= tolerance
        assert a.dtype == dtype


@every_optimizer
def test_defaults_are_those_of_torch(spec: OptimizerSpec) -> None:
    if not spec.peer.__module__.startswith("torch."):
        return
    p = nn.Parameter(torch.zeros(2, 2))
    ours, theirs = spec.ours([p]).defaults, spec.peer([p]).defaults
    for name in ("lr", *spec.grid):
        assert ours[name] == theirs[name], name


@every_optimizer
def test_bfloat16_follows_float64(spec: OptimizerSpec) -> None:
    """In bfloat16 at a small rate Kahan stays with float64, and nearest does not."""
    rate, steps = spec.lr / 256, range(100)
    exact = spec.parameters(torch.float64)
    start = [p.detach().clone() for p in exact]
    run(spec.make(exact, lr=rate, writeback="nearest"), exact, steps, rounded_to=BF16)
    moved = _distance(start, exact)
    off = {}
    for writeback in ("nearest", "kahan"):
        params = spec.parameters(BF16)
        options = {"state_format": "fp32", "compensation_rounding": "stochastic"}
        optimizer = spec.make(params, lr=rate, writeback=writeback, **spec.keeping(options))
        run(optimizer, params, steps)
        off[writeback] = _distance([optimizer.exact(p) for p in params], exact)
    assert off["nearest"] > 0.9 * moved  # nearly every update is lost
    assert off["kahan"] < 0.03 * moved


def _distance(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    return math.sqrt(sum(float((x - y).detach().square().sum()) for x, y in zip(a, b, strict=True)))


# What it keeps


@every_optimizer
@pytest.mark.parametrize(("writeback", "keeping"), KEPT)
def test_all_stays_in_its_format_and_memory(
    spec: OptimizerSpec, writeback: WriteBack, keeping: Keeping
) -> None:
    params = spec.parameters(keeping.dtype)
    optimizer = spec.make(params, writeback=writeback, **spec.keeping(keeping.options))
    run(optimizer, params, range(3))
    carries = {
        WriteBack.KAHAN: ("compensation", keeping.compensation),
        WriteBack.LAZY: ("pending", keeping.compensation),
        WriteBack.MASTER: ("master", FP32),
        WriteBack.SPLIT: ("low_bits", torch.int16),
    }
    for p in params:
        assert p.dtype == keeping.dtype
        assert _is_in(p, keeping.format)
        state = {n: v for n, v in optimizer.state[p].items() if isinstance(v, Tensor)}
        formats = optimizer.formats_of(p)
        expected = {n: _memory(spec, n, keeping) for n in spec.states_of(p)}
        expected |= dict([carries[writeback]]) if writeback in carries else {}
        blocks = {n + "_scale": torch.uint8 for n, t in expected.items() if t in (E4M3, E5M2)}
        blocks = {n: t for n, t in blocks.items() if not n.startswith(("compensation", "pending"))}
        assert {n: v.dtype for n, v in state.items()} == expected | blocks
        for name in expected:
            if name in formats and name + "_scale" not in blocks:
                assert _is_in(state[name], str(formats[name])), name
        assert all(state[name].numel() == -(-p.numel() // 32) for name in blocks)
        bits = optimizer.bits_of(p)
        for name in expected:
            whole = state[name].nbytes
            whole += state[name + "_scale"].nbytes if name + "_scale" in blocks else 0
            if keeping.dtype != FP32:  # a simulation keeps few bits in a wide carrier
                assert bits[name] <= 8 * whole / state[name].numel() < bits[name] + 8


def _memory(spec: OptimizerSpec, name: str, keeping: Keeping) -> torch.dtype:
    if spec.own_memory:
        return FP32
    return keeping.second if name in SECOND_MOMENTS else keeping.state


def _is_in(x: Tensor, fmt: str) -> bool:
    wide = x.detach().to(FP32)
    return bool(torch.isfinite(wide).all()) and torch.equal(lp.quantize(wide, fmt), wide)


@every_optimizer
@pytest.mark.parametrize(("writeback", "keeping"), KEPT)
def test_save_kill_load_goes_on_bit_for_bit(
    spec: OptimizerSpec, writeback: WriteBack, keeping: Keeping
) -> None:
    def make(params: Sequence[Tensor]) -> WriteBackOptimizer:
        return spec.make(params, writeback=writeback, seed=5, **spec.keeping(keeping.options))

    straight = spec.parameters(keeping.dtype)
    never_stopped = make(straight)
    run(never_stopped, straight, range(4))

    stopped = spec.parameters(keeping.dtype)
    first = make(stopped)
    run(first, stopped, range(2))
    file = io.BytesIO()
    torch.save({"params": [p.detach() for p in stopped], "optimizer": first.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file)

    resumed = spec.parameters(keeping.dtype, seed=1)
    second = make(resumed)
    with torch.no_grad():
        for p, value in zip(resumed, saved["params"], strict=True):
            p.copy_(value)
    second.load_state_dict(saved["optimizer"])
    kept = copy.deepcopy(saved["optimizer"]["state"])
    run(second, resumed, range(2, 4))
    assert_same(everything(never_stopped, straight), everything(second, resumed))
    assert_same(list(kept.values()), list(saved["optimizer"]["state"].values()))  # not shared


@every_optimizer
@every_write_back
def test_a_step_is_replayed_from_its_state_and_seed(
    spec: OptimizerSpec, writeback: WriteBack
) -> None:
    runs = []
    for seed in (3, 3, 4):
        params = spec.parameters(BF16)
        optimizer = spec.make(
            params, writeback=writeback, seed=seed, compensation_rounding="stochastic"
        )
        run(optimizer, params, range(3))
        runs.append(everything(optimizer, params))
    assert_same(runs[0], runs[1])
    if writeback in ("stochastic", "kahan", "lazy") or not spec.own_memory:
        with pytest.raises(AssertionError):
            assert_same(runs[0], runs[2])  # compensations and narrow states are stochastic


@pytest.mark.parametrize(
    ("spec", "dtype", "options", "expected"),
    [
        (SGD, FP32, {"writeback": "nearest"}, 12),
        (SGD, BF16, {}, 8),
        (SGD, E4M3, {}, 5),
        (SGD, E5M2, {"state_format": "mxfp8"}, 4),
        (SGD, E4M3, {"compensation_format": "ulp16"}, 6),
        (ADAMW, FP32, {"writeback": "nearest"}, 16),
        (ADAMW, BF16, {}, 10),
        (ADAMW, BF16, {"writeback": "split"}, 10),
        (ADAMW, BF16, {"state_format": "mxfp8"}, 8),
        (ADAMW, BF16, {"writeback": "master"}, 12),
        (ADAMW, BF16, {"writeback": "stochastic"}, 8),
    ],
    ids=lambda value: str(value),
)
def test_bytes_a_parameter(
    spec: OptimizerSpec, dtype: torch.dtype, options: Options, expected: int
) -> None:
    """Parameter, gradient, states and what the write-back keeps; a 32nd more a state in blocks."""
    p = nn.Parameter(torch.ones(64, 64).to(dtype))
    optimizer = spec.ours([p], **({"momentum": 0.9} if spec is SGD else {}), **options)
    p.grad = torch.ones_like(p)
    optimizer.step()
    tensors = [p, p.grad, *(v for v in optimizer.state[p].values() if isinstance(v, Tensor))]
    measured = sum(t.nbytes for t in tensors) / p.numel()
    blocks = sum(name.endswith("_scale") for name in optimizer.state[p])
    assert measured == expected + blocks / 32
    assert sum(optimizer.bits_of(p).values()) == 8 * measured


@every_optimizer
def test_making_the_optimizer_rounds_and_remembers(spec: OptimizerSpec) -> None:
    p = nn.Parameter(torch.tensor([[0.3, -0.7], [1.0, 3.3]]))
    before = p.detach().clone()
    optimizer = spec.make([p], writeback="kahan", format="e4m3", compensation_format="fp32")
    assert torch.equal(p.detach(), lp.quantize(before, "e4m3"))
    assert torch.equal(p.detach() + optimizer.state[p]["compensation"], before)
    assert torch.equal(optimizer.exact(p), before)


@pytest.mark.parametrize("fmt", ["mxfp8_e4m3", "mxint8", "dfx8b32"])
def test_a_compensation_in_blocks_is_simulated(fmt: str) -> None:
    """No scales lie beside it, so that it keeps values in the computing dtype."""
    p = nn.Parameter(torch.full((64,), 1.5, dtype=BF16))
    optimizer = SGD.make([p], writeback="kahan", compensation_format=fmt)
    p.grad = torch.full_like(p, 2.0**-6)
    optimizer.step()
    kept = optimizer.state[p]["compensation"]
    assert kept.dtype == FP32
    assert kept.any()
    assert torch.equal(lp.quantize(kept, fmt), kept)


@pytest.mark.parametrize(
    ("dtype", "options", "stochastic"),
    [
        (BF16, {}, True),
        (torch.float16, {}, True),
        (FP32, {}, False),
        (FP32, {"format": "e4m3"}, True),
        (BF16, {"compensation_format": "e5m2"}, True),
        (BF16, {"compensation_format": "bf16:nearest"}, False),
        (BF16, {"compensation_rounding": "nearest"}, False),
        (BF16, {"compensation_format": "fp32"}, False),
        (BF16, {"writeback": "lazy"}, False),
        (BF16, {"compensation_format": "ulp8"}, False),
        (E4M3, {}, False),
        (FP32, {"format": "dfx8"}, False),
    ],
    ids=lambda value: str(value),
)
def test_which_compensations_are_rounded_stochastically(
    dtype: torch.dtype, options: Options, stochastic: bool
) -> None:
    group: dict[str, Any] = {**DEFAULTS, **options}
    storage = carry_storage(nn.Parameter(torch.ones(4).to(dtype)), group)
    assert storage is not None
    assert storage.is_random == stochastic
    assert storage.precision.random_bits == (16 if stochastic else 32)


def test_updates_under_half_an_ulp_of_the_compensation_arrive_by_default() -> None:
    """5e-6 from 1 in bfloat16, where a compensation rounded to nearest stalls at 0.002."""
    p = nn.Parameter(torch.ones(64, dtype=BF16))
    optimizer = SGD.ours([p], lr=1.0)
    p.grad = torch.full((64,), -5e-6).to(BF16)
    for _ in range(2000):
        optimizer.step()
    way = optimizer.exact(p).double().mean() - 1
    assert float(way) == pytest.approx(-2000 * float(p.grad[0]), rel=0.02)


# Manners


@every_optimizer
def test_groups_have_their_own_options(spec: OptimizerSpec) -> None:
    narrow, plain, out = spec.parameters(BF16), spec.parameters(FP32, 1), spec.parameters(FP32, 2)
    optimizer = spec.make(
        [
            {"params": narrow},
            {"params": plain, "format": "dfx6", "writeback": "stochastic"},
            {"params": out, "writeback": "nearest", "lr": 2 * spec.lr},
        ]
    )
    run(optimizer, [*narrow, *plain, *out], range(2))
    assert all("compensation" in optimizer.state[p] for p in narrow)
    assert all(len(optimizer.state[p]) == len(spec.states_of(p)) + 1 for p in [*plain, *out])
    assert all(_is_in(p, "dfx6") for p in plain)
    alone = spec.parameters(FP32, 2)
    other = spec.make(alone, writeback="nearest", lr=2 * spec.lr)
    both = [*narrow, *plain, *alone]
    for step in range(2):
        for p, g in zip(both, gradients(both, step), strict=True):
            p.grad = g.to(p.dtype)
        other.step()
    assert all(torch.equal(a, b) for a, b in zip(alone, out, strict=True))  # opted out for good


@every_optimizer
@pytest.mark.parametrize("writeback", ["kahan", "lazy", "stochastic"])
def test_a_nan_gradient_is_not_eaten(spec: OptimizerSpec, writeback: str) -> None:
    for value in (math.nan, math.inf) if spec.elementwise else (math.nan,):
        p = nn.Parameter(torch.ones(2, 2))
        optimizer = spec.make([p], writeback=writeback, format="bf16")
        p.grad = torch.tensor([[value, 1.0], [1.0, 1.0]])
        optimizer.step()
        if spec.elementwise:
            finite = p.isfinite().flatten().tolist()
            sign = spec is LION and value == math.inf
            assert finite == [sign, True, True, True]
        else:
            assert p[0, 0].isnan()


@every_optimizer
def test_closures_and_schedulers(spec: OptimizerSpec) -> None:
    model, loss = problem()
    optimizer = spec.make(spec.chosen(model), format="bf16")
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)

    def closure() -> float:
        optimizer.zero_grad()
        value: Tensor = loss()
        value.backward()
        return float(value.detach())

    values = []
    for _ in range(5):
        values.append(optimizer.step(closure))
        schedule.step()
    assert optimizer.param_groups[0]["lr"] == spec.lr / 32
    assert values[-1] is not None
    assert values[0] is not None
    assert values[-1] < values[0]


@every_optimizer
def test_a_rate_may_be_a_tensor(spec: OptimizerSpec) -> None:
    results = []
    for lr in (spec.lr, torch.tensor(spec.lr, dtype=torch.float64)):
        params = spec.parameters(BF16)
        optimizer = spec.make(params, lr=lr)
        run(optimizer, params, range(2))
        results.append(everything(optimizer, params))
    assert_same(*results)


@every_optimizer
def test_clipping_before_the_step(spec: OptimizerSpec) -> None:
    a, b = spec.parameters(), spec.parameters()
    clipped, by_hand = spec.make(a, format="bf16"), spec.make(b, format="bf16")
    for p, q, g in zip(a, b, gradients(a, 0), strict=True):
        p.grad, q.grad = 100 * g.float(), 100 * g.float()
    norm = nn.utils.clip_grad_norm_(a, 1.0)
    clipped.step()
    for q in b:
        assert q.grad is not None
        q.grad.mul_(1 / (norm + 1e-6))
    by_hand.step()
    for p, q in zip(a, b, strict=True):
        assert torch.allclose(clipped.exact(p), by_hand.exact(q), rtol=1e-2, atol=1e-6)
    assert float(nn.utils.get_total_norm([p.grad for p in a])) == pytest.approx(1, rel=1e-4)


@every_optimizer
def test_a_scaler_skips_what_overflows(spec: OptimizerSpec) -> None:
    model, loss = problem()
    params = spec.chosen(model)
    optimizer = spec.make(params, format="bf16")
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)

    def step(factor: float) -> None:
        optimizer.zero_grad()
        scaler.scale(loss() * factor).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(params, 1e6)
        scaler.step(optimizer)
        scaler.update()

    step(1.0)
    before = everything(optimizer, params), optimizer.param_groups[0]["steps"]
    step(math.inf)
    assert_same(before[0], everything(optimizer, params))
    assert optimizer.param_groups[0]["steps"] == before[1]
    assert scaler.get_scale() == 2.0**9
    step(1.0)
    with pytest.raises(AssertionError):
        assert_same(before[0], everything(optimizer, params))


@every_optimizer
def test_maximize_climbs(spec: OptimizerSpec) -> None:
    if "maximize" not in spec.grid:
        return
    down, up = spec.parameters(), spec.parameters()
    descent, ascent = spec.make(down), spec.make(up, maximize=True)
    for p, q, g in zip(down, up, gradients(down, 0), strict=True):
        p.grad, q.grad = g.float(), -g.float()
    descent.step()
    ascent.step()
    assert all(torch.equal(p, q) for p, q in zip(down, up, strict=True))


@every_optimizer
def test_step_hooks_are_called(spec: OptimizerSpec) -> None:
    params = spec.parameters()
    optimizer = spec.make(params)
    seen: list[str] = []
    before = optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    run(optimizer, params, range(1))
    before.remove()
    run(optimizer, params, range(1))
    assert seen == ["before", "after", "after"]


@every_optimizer
@pytest.mark.parametrize("writeback", ["stochastic", "kahan"])
def test_frozen_parameters_stay_and_change_nobodys_bits(
    spec: OptimizerSpec, writeback: str
) -> None:
    """As with LoRA: a base without gradients, adapters with them."""
    results = []
    for frozen in (True, False):
        base, adapters = spec.parameters(BF16, 1), spec.parameters(BF16)
        optimizer = spec.make([*base, *adapters], writeback=writeback)
        before = everything(optimizer, base)
        for p in base:
            p.requires_grad_(not frozen)
        run(optimizer, adapters, range(2), seed=4)
        if frozen:
            assert_same(before, everything(optimizer, base))
            assert all("step" not in optimizer.state[p] for p in base)
        results.append(everything(optimizer, adapters))
    assert_same(*results)


@every_optimizer
def test_parameters_may_be_added_later(spec: OptimizerSpec) -> None:
    first, later = spec.parameters(BF16), spec.parameters(BF16, 1)
    optimizer = spec.make(first)
    run(optimizer, first, range(2))
    optimizer.add_param_group({"params": later, "lr": spec.lr / 2, "writeback": "master"})
    before = [p.detach().clone() for p in later]
    run(optimizer, [*first, *later], range(2, 4))
    assert all("master" in optimizer.state[p] for p in later)
    assert all(not torch.equal(p, q) for p, q in zip(later, before, strict=True))
    steps = [optimizer.state[p]["step"] for p in (first[0], later[0])]
    assert steps == [4, 2]


@every_optimizer
def test_no_parameters_and_no_elements(spec: OptimizerSpec) -> None:
    p = nn.Parameter(torch.empty(0, 3).bfloat16())
    optimizer = spec.make([p])
    p.grad = torch.empty_like(p)
    optimizer.step()
    assert p.shape == (0, 3)
    optimizer.zero_grad()
    optimizer.step()
    with pytest.raises(ValueError, match="empty parameter list"):
        spec.make([])


@every_optimizer
@pytest.mark.parametrize("layout", ["transposed", "strided"])
def test_layouts_change_no_bits(spec: OptimizerSpec, layout: str) -> None:
    if not spec.elementwise:  # sums are in a free order
        return
    results = []
    for plain in (True, False):
        memory = torch.randn(12, 20, generator=torch.Generator().manual_seed(0)).bfloat16()
        p = memory.T if layout == "transposed" else memory[::2, 3:]
        p = nn.Parameter(p.contiguous() if plain else p)
        optimizer = spec.make([p], writeback="kahan", compensation_rounding="stochastic")
        g = torch.randn(p.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
        for _ in range(2):
            p.grad = g.clone() if plain else torch.empty_strided(p.shape, p.stride(), dtype=BF16)
            p.grad.copy_(g)
            optimizer.step()
        results.append(everything(optimizer, [p]))
    assert_same(*results)


BAD: list[tuple[Options, type[Exception], str]] = [
    ({"lr": -1.0}, OptimizerError, "lr is -1.0; give 0 or more"),
    ({"lr": math.nan}, OptimizerError, "lr is nan; give 0 or more"),
    ({"weight_decay": -0.1}, OptimizerError, "weight_decay is -0.1; give 0 or more"),
    ({"writeback": "kahn"}, OptimizerError, "unknown write-back 'kahn'; use one of nearest"),
    ({"writeback": "split"}, OptimizerError, "split of a float32 parameter.*use kahan or master"),
    ({"seed": -3}, OptimizerError, "seed is -3"),
    ({"seed": 2**63}, OptimizerError, "seed is 9223372036854775808"),
    ({"format": "dfx40"}, FormatError, "use a float64 carrier"),
    ({"format": "q8"}, FormatError, "unknown format 'q8'"),
    ({"state_format": {"nonsense": "bf16"}}, OptimizerError, "no state nonsense"),
    ({"state_format": "q8"}, FormatError, "unknown format 'q8'"),
    ({"compensation_format": "ulp8", "format": "dfx8"}, OptimizerError, "ulp8 with a parameter in"),
    ({"compensation_format": "ulp8", "strict": True}, OptimizerError, "ulp8 with strict"),
    ({"compensation_rounding": "up!"}, FormatError, "unknown rounding"),
    ({"writebak": "kahan"}, OptimizerError, "unknown option writebak; use writeback, format"),
]


@every_optimizer
def test_bad_options_change_nothing(spec: OptimizerSpec) -> None:
    common = [case for case in BAD if case[0].keys() <= spec.keeping(case[0]).keys()]
    cases = [*common, *((options, OptimizerError, message) for options, message in spec.bad)]
    good = spec.parameters()
    optimizer = spec.make(good)
    for options, error, message in cases:
        p = nn.Parameter(torch.tensor([[0.3, 0.7]]))
        with pytest.raises(error, match=message):
            spec.make([p], **options)
        assert p.tolist() == torch.tensor([[0.3, 0.7]]).tolist()
        known = {n: v for n, v in options.items() if n in optimizer.param_groups[0]}
        if known:
            with pytest.raises(error, match=message):
                optimizer.add_param_group({"params": [p], **known})
            assert len(optimizer.param_groups) == 1
            assert p not in optimizer.state
            assert p.tolist() == torch.tensor([[0.3, 0.7]]).tolist()
    run(optimizer, good, range(1))


@every_optimizer
def test_bad_parameters_and_gradients(spec: OptimizerSpec) -> None:
    with pytest.raises(OptimizerError, match="give floating-point parameters"):
        spec.make([nn.Parameter(torch.zeros(2, 2, dtype=torch.complex64))])
    params = spec.parameters()
    optimizer = spec.make(params)
    run(optimizer, params, range(1))
    before = everything(optimizer, params), optimizer.param_groups[0]["steps"]
    params[-1].grad = torch.zeros_like(params[-1]).to_sparse()
    with pytest.raises(OptimizerError, match="give dense gradients of real numbers"):
        optimizer.step()
    assert_same(before[0], everything(optimizer, params))
    assert optimizer.param_groups[0]["steps"] == before[1]


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


@every_optimizer
@every_write_back
def test_observers_see_each_write_back_and_change_none(
    spec: OptimizerSpec, writeback: WriteBack
) -> None:
    results = []
    for watched in (True, False):
        params = spec.parameters(BF16)
        optimizer = spec.make(params, writeback=writeback)
        events: list[tuple[Tensor, UpdateEvent]] = []
        if watched:
            stop = optimizer.observe(lambda p, event, seen=events: seen.append((p, event)))
        run(optimizer, params, range(1))
        results.append(everything(optimizer, params))
        run(optimizer, params, range(1, 2))
        assert len(events) == (2 * len(params) if watched else 0)
        if watched:
            stop()
            run(optimizer, params, range(1))
            assert len(events) == 2 * len(params)
            assert all(e.update.dtype == FP32 for _, e in events)
            kept = writeback not in (WriteBack.NEAREST, WriteBack.STOCHASTIC)
            assert all((e.carry_after is not None) == kept for _, e in events)
    assert_same(*results)


@every_optimizer
@pytest.mark.filterwarnings("ignore:Dynamo:UserWarning")
def test_a_compiled_step_is_compiled_once(spec: OptimizerSpec) -> None:
    """The rate, the step and the schedule change; the compiler has nothing to do anew."""
    torch.compiler.reset()
    results = []
    for compiled in (False, True):
        params = spec.parameters(BF16)
        optimizer = spec.make(params)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        step = torch.compile(optimizer.step, backend="eager") if compiled else optimizer.step
        for number in range(5):
            for p, g in zip(params, gradients(params, number), strict=True):
                p.grad = g.to(p.dtype)
            with torch._dynamo.config.patch(error_on_recompile=number > 0):
                step()
            schedule.step()
        results.append(everything(optimizer, params))
    assert_same(*results)
    torch.compiler.reset()
