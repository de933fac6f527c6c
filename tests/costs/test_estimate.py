"""Energy and memory of a step, against totals worked out by hand."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from llama import Llama
from torch import nn

import limprec as lp
from limprec.costs import (
    HOROWITZ_45NM,
    cost,
    cross_entropy,
    step_energy,
    training_state_bits,
)
from limprec.errors import CostError, FormatError, PlanError

PJ = 1e-12
EIGHT = lp.Plan(
    dict.fromkeys(("weight", "activation", "error", "gradient", "bias"), "dfx8"), name="eight"
)


def network() -> nn.Module:
    """Two layers: 4 -> 3 -> 2, a bias in the second."""
    return nn.Sequential(nn.Linear(4, 3, bias=False), nn.ReLU(), nn.Linear(3, 2))


def energies(c, *keys) -> dict:
    return {key: round(value / PJ, 6) for key, value in c.by(*keys).items()}


# Batch 2. First layer: 2 x 4 x 3 = 24 multiply-adds forward, 24 for the weight's gradient, none
# for an error. Second: 2 x 3 x 2 = 12, three times. 45 nm: int8 multiply 0.2 pJ, int32 add 0.1 pJ,
# fp32 3.7 and 0.9 pJ; a tensor under 8 KB costs 10 pJ per 8 bytes.
FORWARD, ERROR, GRADIENT = 24 + 12, 12, 24 + 12
BYTE = 10 / 8
# Elements moved, forward: input 8, weight 12, result 6; 6, 6, 4. Going back, the first layer reads
# 6 errors and 8 inputs and writes 12; the second reads 4 and 6 and writes 6, twice.
MOVED = {
    "activation": (8 + 6) + (6 + 4) + 8 + 6,
    "weight": 12 + 6 + 6,
    "error": 6 + (4 + 6) + 4,
    "gradient": 12 + 6,
}
PARAMETERS = 12 + 6 + 2


def test_eight_bits_by_hand() -> None:
    c = cost(network(), EIGHT, (4,), 2)
    assert c.macs == {"activation": FORWARD, "error": ERROR, "gradient": GRADIENT}
    assert c.product_energy == pytest.approx((FORWARD + ERROR + GRADIENT) * 0.3 * PJ, rel=1e-12)
    # ReLU: 6 comparisons forward, taken twice going back, in fp32. SGD with momentum: 3
    # multiplications and 3 additions a parameter in fp32, 3 more for Kahan; one byte each of
    # gradient (read), parameter, momentum and compensation (read and written).
    assert energies(c, "role", "kind") == {
        ("activation", "multiply"): round(FORWARD * 0.2, 6),
        ("activation", "add"): round(FORWARD * 0.1, 6),
        ("activation", "SRAM 8 KB"): MOVED["activation"] * BYTE,
        ("weight", "SRAM 8 KB"): MOVED["weight"] * BYTE,
        ("error", "multiply"): round(ERROR * 0.2, 6),
        ("error", "add"): round(ERROR * 0.1, 6),
        ("error", "SRAM 8 KB"): MOVED["error"] * BYTE,
        ("gradient", "multiply"): round(GRADIENT * 0.2, 6),
        ("gradient", "add"): round(GRADIENT * 0.1, 6),
        ("gradient", "SRAM 8 KB"): (MOVED["gradient"] + PARAMETERS) * BYTE,
        ("element-wise", "add"): round(6 * 3 * 0.9, 6),
        ("parameter", "multiply"): round(3 * PARAMETERS * 3.7, 6),
        ("parameter", "add"): round((3 + 3) * PARAMETERS * 0.9, 6),
        ("parameter", "SRAM 8 KB"): 2 * PARAMETERS * BYTE,
        ("state", "SRAM 8 KB"): 2 * PARAMETERS * BYTE,
        ("compensation", "SRAM 8 KB"): 2 * PARAMETERS * BYTE,
    }
    total = 84 * 0.3 + 100 * BYTE + 16.2 + 222 + 108 + 7 * PARAMETERS * BYTE
    assert c.energy == pytest.approx(total * PJ, rel=1e-12)
    assert sum(c.by("layer").values()) == pytest.approx(c.energy, rel=1e-12)
    assert c.fitted == ()


def test_eight_bits_of_memory_by_hand() -> None:
    c = cost(network(), EIGHT, (4,), 2)
    # Kept for the backward pass: the input (2 x 4) and the result of ReLU (2 x 3), which the
    # second layer multiplies too.
    assert c.memory == {
        "parameter": PARAMETERS,
        "compensation": PARAMETERS,
        "state": PARAMETERS,
        "gradient": PARAMETERS,
        "activation": 8 + 6,
        "buffer": 0,
    }
    assert c.device_memory == c.memory
    assert c.total_memory == 4 * PARAMETERS + 14


def test_the_baselines_by_hand() -> None:
    fp32, bf16 = (cost(network(), EIGHT, (4,), 2).against[name] for name in ("fp32", "bf16"))
    products = (FORWARD + ERROR + GRADIENT) * (3.7 + 0.9)
    update = PARAMETERS * (3 * 3.7 + 3 * 0.9)
    moved = 4 * (100 + 5 * PARAMETERS) * BYTE
    assert fp32.energy == pytest.approx((products + 16.2 + update + moved) * PJ, rel=1e-12)
    assert (fp32.memory["compensation"], fp32.total_memory) == (0, 4 * (3 * PARAMETERS + 14))
    # bf16 beside a float32 copy and momentum: 2 + 2 + 4 + 4 bytes a parameter.
    assert bf16.total_memory == 12 * PARAMETERS + 2 * 14
    k = (121 * 1.1 + 576 * 3.7) / (121**2 + 576**2)  # the fit of energy.py; bf16 has 8 bits
    products = (FORWARD + ERROR + GRADIENT) * (64 * k + 0.9)
    assert bf16.product_energy == pytest.approx(products * PJ, rel=1e-12)
    assert set(bf16.fitted) == {"multiply bf16", "add bf16"}


def test_a_layer_that_the_plan_leaves_runs_in_the_carrier() -> None:
    plan = lp.Plan.from_toml("version = 1\n[[layer]]\nmatch = '2'\nweight = 'dfx8'")
    c = cost(network(), plan, (4,), 2, carrier="fp32")
    only = {k: v for k, v in energies(c, "layer", "kind").items() if k[1] == "multiply"}
    # fp32 times an 8-bit integer takes the multiplier of fp32.
    assert only["0", "multiply"] == round((48 + 3 * 12) * 3.7, 6)
    half = cost(network().bfloat16(), None, (4,), 2, against=())
    assert half.total_memory == 2 * (3 * PARAMETERS + 14)
    assert half.plan == "no plan"


@pytest.mark.filterwarnings("ignore::limprec.errors.GuidelineWarning")
def test_levels_go_by_the_size_of_the_whole_tensor() -> None:
    model = nn.Linear(1024, 512, bias=False)  # 512 KiB in 8 bits, 2 MiB in fp32
    c = cost(model, EIGHT, (1024,), 16, optimizer="sgd", writeback="nearest", against=("fp32",))
    kinds = {kind for role, kind in c.by("role", "kind") if role == "weight"}
    assert kinds == {"SRAM 1 MB"}
    weight = next(e for e in c.entries if e.role == "weight")
    assert (weight.count, weight.picojoules) == (2**19, 2**19 * 100 / 8)
    kinds = {kind for role, kind in c.against["fp32"].by("role", "kind") if role == "weight"}
    assert kinds == {"DRAM"}
    # 16 x 1024 bytes of input: 32 KB; 16 x 512 of output and error: 8 KB.
    found = {e.kind for e in c.entries if e.role == "activation"}
    assert found == {"multiply", "add", "SRAM 32 KB", "SRAM 8 KB"}
    moved = cost(model, EIGHT, (1024,), 16, residence={"weight": "DRAM"}, against=())
    assert ("weight", "DRAM") in moved.by("role", "kind")
    # The middle of Horowitz' 1300 to 2600 pJ per 64 bits.
    assert moved.by("role")["weight"] == pytest.approx(2**19 * 1950 / 8 * PJ)


def test_element_wise_work_that_is_not_fused_moves_its_tensors() -> None:
    fused, loose = (cost(network(), EIGHT, (4,), 2, fused_elementwise=f) for f in (True, False))
    # ReLU reads 6 and writes 6 numbers of 4 bytes, forward and, taken twice, going back.
    assert loose.energy - fused.energy == pytest.approx(12 * 4 * 3 * BYTE * PJ)


@pytest.mark.parametrize(
    ("writeback", "options", "compensation"),
    [
        ("nearest", {}, 0),
        ("stochastic", {}, 0),
        ("kahan", {}, 2),
        ("kahan", {"compensation_format": "ulp8"}, 1),
        ("kahan", {"compensation_format": "ulp16"}, 2),
        ("kahan", {"compensation_format": "e5m2"}, 1),
        ("lazy", {}, 2),
        ("master", {}, 4),
        ("split", {}, 2),
    ],
)
def test_bytes_beside_a_parameter(writeback, options, compensation) -> None:
    c = cost(network(), None, (4,), carrier="bf16", writeback=writeback, **options)
    assert c.memory["compensation"] == compensation * PARAMETERS
    assert c.memory["parameter"] == c.memory["state"] == 2 * PARAMETERS


@pytest.mark.parametrize(
    ("optimizer", "numbers"),
    [
        ("sgd", 0),
        ("sgd-momentum", 20),
        ("lion", 20),
        ("rmsprop", 20),
        ("adam", 40),
        ("adamw", 40),
        ("adafactor", (3 + 4) + (2 + 3) + 2),
        ("muon", 12 + 6 + 2 * 2),  # AdamW steps the bias
    ],
)
def test_states_of_the_optimizers(optimizer, numbers) -> None:
    assert cost(network(), None, (4,), optimizer=optimizer).memory["state"] == 4 * numbers
    if optimizer != "adafactor":
        c = cost(network(), None, (4,), optimizer=optimizer, state_format="e4m3")
        assert c.memory["state"] == numbers


MAKERS = {
    "sgd": lambda p, **o: lp.optim.SGD(p, 0.1, **o),
    "sgd-momentum": lambda p, **o: lp.optim.SGD(p, 0.1, 0.9, **o),
    "rmsprop": lp.optim.RMSprop,
    "lion": lp.optim.Lion,
    "adam": lp.optim.Adam,
    "adamw": lp.optim.AdamW,
    "adafactor": lp.optim.Adafactor,
}


@pytest.mark.parametrize("optimizer", MAKERS)
@pytest.mark.parametrize(
    ("dtype", "planned", "options"),
    [
        ("float32", False, {"writeback": "nearest"}),
        ("bfloat16", False, {"writeback": "kahan"}),
        ("bfloat16", False, {"writeback": "split"}),
        ("bfloat16", False, {"writeback": "master"}),
        ("bfloat16", False, {"writeback": "lazy", "compensation_format": "ulp8"}),
        ("bfloat16", False, {"writeback": "kahan", "state_format": "mxfp8"}),
        ("float32", False, {"writeback": "kahan", "format": "e4m3"}),
        ("float32", True, {"writeback": "kahan", "format": "plan"}),
        ("float32", True, {"writeback": "kahan", "format": "bf16", "state_format": "plan"}),
        ("float8_e4m3fn", False, {"writeback": "kahan"}),
    ],
)
def test_what_is_kept_is_what_the_optimizers_keep(optimizer, dtype, planned, options) -> None:
    if optimizer == "adafactor" and "state_format" in options:
        with pytest.raises(CostError, match="leave it out: its states are float32"):
            cost(network(), None, (4,), optimizer=optimizer, **options)
        return
    # A width of 32, so that blocks are full.
    model = nn.Sequential(nn.Linear(32, 64, bias=False), nn.Linear(64, 32))
    plan = lp.Plan.load("dfx8") if planned else None
    carrier = {"float32": "fp32", "bfloat16": "bf16", "float8_e4m3fn": "e4m3"}[dtype]
    given = {"format": None, **options}
    memory = cost(model, plan, (32,), 2, optimizer=optimizer, carrier=carrier, **given).memory
    if planned:
        lp.convert(model, plan)
    model = model.to(getattr(torch, dtype))
    made = MAKERS[optimizer](model.parameters(), **options)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    made.step()
    kept = training_state_bits(made)
    count = sum(p.numel() for p in model.parameters())
    found = {role: kept.pop(role) for role in ("parameter", "gradient")}
    beside = ("compensation", "pending", "master", "low_bits")
    found["compensation"] = sum(kept.pop(role, 0.0) for role in beside)
    found["state"] = sum(kept.values())
    assert {role: bits * count / 8 for role, bits in found.items()} == pytest.approx(
        {role: memory[role] for role in found}
    )


def test_muon_multiplies_matrices_in_its_step() -> None:
    model = nn.Linear(4, 3, bias=False)
    c = cost(model, None, (4,), optimizer="muon", technology="7nm", against=())
    macs = 5 * (2 * 3 * 3 * 4 + 3**3)
    found = {e.kind: e for e in c.entries if e.role == "parameter"}
    assert found["multiply"].count == macs + 5 * 12
    assert found["multiply"].picojoules == pytest.approx(macs * 0.21 + 5 * 12 * 1.31)


def test_the_plan_names_what_is_kept_beside() -> None:
    plan = dataclasses.replace(EIGHT, optimizer={"momentum": "dfx4", "compensation": "bf16"})
    c = cost(network(), plan, (4,))
    assert (c.memory["state"], c.memory["compensation"]) == (PARAMETERS / 2, 2 * PARAMETERS)
    c = cost(network(), plan, (4,), state_format="fp32", compensation_format="dfx8")
    assert (c.memory["state"], c.memory["compensation"]) == (4 * PARAMETERS, PARAMETERS)
    # As the optimizers: with a format of one's own the plan is not asked unless told.
    c = cost(network(), plan, (4,), format="bf16", compensation_format="plan")
    assert (c.memory["parameter"], c.memory["state"]) == (2 * PARAMETERS, 2 * PARAMETERS)
    assert c.memory["compensation"] == 2 * PARAMETERS


def test_blocks_carry_their_scales() -> None:
    model = nn.Linear(64, 32, bias=False)
    for name, bits in (("mxfp8_e4m3", 8.25), ("nvfp4", 4.5), ("dfx8b16", 8.5), ("dfx8", 8)):
        c = cost(model, lp.Plan.uniform(name), (64,), writeback="nearest", optimizer="sgd")
        assert c.memory["parameter"] == 64 * 32 * bits / 8


def test_frozen_parameters_keep_themselves_alone() -> None:
    model = network()
    model[0].weight.requires_grad_(False)
    c = cost(model, EIGHT, (4,), 2)
    assert (c.memory["parameter"], c.memory["gradient"], c.memory["state"]) == (20, 8, 8)
    assert c.macs == {"activation": 36, "error": 0, "gradient": 12}


@pytest.mark.parametrize(
    ("shard", "parts", "sent"),
    [
        ("none", (1, 1, 1, 1), 2 * 20),
        ("zero1", (1, 4, 4, 1), 20 + 20),
        ("zero2", (1, 4, 4, 4), 20 + 20),
        ("zero3", (4, 4, 4, 4), 20 + 2 * 20),
    ],
)
def test_sharded_layouts_by_hand(shard, parts, sent) -> None:
    c = cost(network(), EIGHT, (4,), 2, devices=4, shard=shard, steps=10)
    roles = ("parameter", "state", "compensation", "gradient")
    assert [c.device_memory[r] for r in roles] == [PARAMETERS / part for part in parts]
    assert c.device_memory["activation"] == 14
    assert ("gathered" in c.device_memory) == (shard == "zero3")
    assert sum(c.communication.values()) == 3 / 4 * sent
    assert c.memory["state"] == PARAMETERS
    assert c.run_energy == pytest.approx(10 * 4 * c.energy)
    single = cost(network(), EIGHT, (4,), 2)
    state = single.by("role")["state"]
    assert c.by("role")["state"] == pytest.approx(state / parts[1])
    assert "energy of the communication between devices" in c.outside


def test_the_sixteen_bytes_of_mixed_precision_adam() -> None:
    # Rajbhandari et al. 2020, section 3.1: 2 + 2 + 12 bytes a parameter.
    model = nn.Linear(100, 100, bias=False)
    bf16 = cost(model, None, (100,), optimizer="adamw").against["bf16"]
    roles = ("parameter", "gradient", "compensation", "state")
    assert sum(bf16.memory[r] for r in roles) == 16 * 10_000


def test_the_loss_is_counted_when_given() -> None:
    without, given = (cost(network(), EIGHT, (4,), 2, loss=f) for f in (None, cross_entropy))
    assert any("loss" in words for words in without.outside)
    assert not any("loss" in words for words in given.outside)
    # log_softmax over 2 x 2 logits keeps its result, fp32, the labels and the mean's weight.
    assert given.memory["activation"] > without.memory["activation"]
    assert "(loss)" in given.by("layer")
    assert given.macs == without.macs


def test_cyclic_precision_of_cpt() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 10))
    plan = lp.Plan.uniform("dfx8")
    schedule = lp.schedule.Cyclic(3, 8, cycles=32)
    c = cost(model, plan, (64,), 8, steps=64_000, schedule=schedule, format=None)
    assert c.schedule is not None
    assert round(-100 * c.schedule.saving, 2) == -36.67
    static = cost(model, plan, (64,), 8, steps=64_000, format=None)
    assert c.memory == static.memory  # the peak, at 8 bits
    # The mean over the schedule of static plans of so many forward bits.
    total = 0.0
    for bits, steps in c.schedule.steps_at.items():
        forward = lp.Plan.uniform(f"dfx{bits}", error="dfx8", gradient="dfx8")
        total += steps * cost(model, forward, (64,), 8, format=None).energy
    assert c.run_energy == pytest.approx(total, rel=1e-9)
    assert c.run_energy < static.run_energy
    with pytest.raises(CostError, match="no layer of plan 'bf16' has forward bits to schedule"):
        cost(model, lp.Plan.uniform("bf16"), (64,), steps=64_000, schedule=schedule)


def test_seventy_billion_parameters() -> None:
    with torch.device("meta"):
        model = Llama().bfloat16()
    assert sum(p.numel() for p in model.parameters()) == 70_553_706_496
    plan = lp.Plan.uniform("mxfp8_e4m3", error="mxfp8_e5m2", gradient="bf16")
    c = cost(
        model,
        plan,
        (4096,),
        technology="7nm",
        optimizer="adamw",
        format="bf16",
        devices=64,
        shard="zero3",
        recompute=("layers.*",),
    )
    n = 70_553_706_496
    assert [c.memory[r] / n for r in ("parameter", "compensation", "state")] == [2, 2, 4]
    assert c.device_memory["parameter"] == 2 * n / 64
    # 80 layers keep their inputs, 4096 x 8192 numbers of 2 bytes.
    assert 80 * 4096 * 8192 * 2 < c.memory["activation"] < 2 * 80 * 4096 * 8192 * 2
    # 6 multiply-adds' flops a parameter and token, attention beside it, forward again in layers.
    tokens = 3 * 4096 * (n - 128256 * 8192)
    assert 1.3 < sum(c.macs.values()) / tokens < 1.5
    assert c.against["bf16"].energy > c.energy


def test_as_plain_values_and_as_text() -> None:
    c = cost(network(), EIGHT, (4,), 2, steps=5)
    plain = json.loads(json.dumps(c.as_dict(), allow_nan=False))
    assert plain["energy"] == c.energy
    assert sum(e["joules"] for e in plain["entries"]) == pytest.approx(c.energy)
    assert plain["against"]["fp32"]["total_memory"] == c.against["fp32"].total_memory
    text = c.table()
    assert "ISSCC 2014" in text
    assert "Not counted: the loss" in text
    lines = text.splitlines()
    assert lines[0].split() == ["a", "step", "eight", "fp32", "bf16"]
    assert lines[2].split()[2:] == [
        f"{100 * c.energy / c.against['fp32'].energy:.1f}",
        "%",
        "100.0",
        "%",
        f"{100 * c.against['bf16'].energy / c.against['fp32'].energy:.1f}",
        "%",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"technology": "3nm"}, "unknown table '3nm'; use '45nm' or '7nm'"),
        ({"optimizer": "sgdm"}, "unknown optimizer 'sgdm'; use one of sgd, sgd-momentum"),
        ({"writeback": "none"}, "unknown writeback 'none'"),
        ({"writeback": "split"}, "split of dfx8 parameters; store them in bf16"),
        ({"compensation_format": "ulp8"}, "ulp8 beside dfx8 parameters; name a format"),
        ({"devices": 0}, "devices is 0"),
        ({"shard": "zero4"}, "unknown shard 'zero4'; use none, zero1"),
        ({"steps": 0}, "steps is 0"),
        ({"schedule": lp.schedule.Cyclic(3, 8)}, "a schedule without plan or steps"),
        ({"residence": {"weight": "SRAM 2 MB"}}, "has no memory 'SRAM 2 MB'; use SRAM 8 KB"),
        ({"against": ("fp64",)}, "unknown baseline 'fp64'"),
        (
            {"technology": dataclasses.replace(HOROWITZ_45NM, dram=None, sram={})},
            "table '45nm' has no memory 'DRAM'; add sram or dram to it",
        ),
        (
            {"technology": dataclasses.replace(HOROWITZ_45NM, fit=False), "accumulator": "fx16.0"},
            "table '45nm' has no entry 'add int16' and says fit = false; add the entry",
        ),
    ],
)
def test_bad_input_is_one_line(options, message) -> None:
    with pytest.raises(CostError) as caught:
        cost(network(), EIGHT, (4,), **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_formats_without_a_rule_and_unknown_ones() -> None:
    with pytest.raises(CostError, match="no rule for posit8"):
        cost(network(), lp.Plan.uniform("posit8"), (4,))
    with pytest.raises(FormatError, match="unknown format"):
        cost(network(), EIGHT, (4,), state_format="dxf8")


# The multiply-adds of ``step_energy``. conv: 2 channels x 2 x 2 places x 9 = 72 a sample, linear:
# 8 x 5 = 40. The conv is first: two products a step; the linear layer has three.
CONV, LINEAR = 2 * 72, 3 * 40


def pictures() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 5))


def test_multiply_adds_in_fp32_by_hand() -> None:
    # 45 nm: multiply 3.7 pJ, add 0.9 pJ
    expected = (CONV + LINEAR) * (3.7 + 0.9) * 1e-12
    assert step_energy(pictures(), None, (1, 4, 4)) == pytest.approx(expected, rel=1e-12)
    fp32 = lp.Plan.uniform("fp32")
    assert step_energy(pictures(), fp32, (1, 4, 4)) == pytest.approx(expected, rel=1e-12)


def test_multiply_adds_in_eight_bits_by_hand() -> None:
    # 45 nm: int8 multiply 0.2 pJ, int32 add 0.1 pJ
    model = lp.convert(pictures(), lp.Plan.load("dfx8"))
    expected = (CONV + LINEAR) * (0.2 + 0.1) * 1e-12
    energy = step_energy(model, lp.Plan.load("dfx8"), (1, 4, 4))
    assert energy == pytest.approx(expected, rel=1e-12)


def test_only_the_layer_that_differs_differs() -> None:
    plan = lp.Plan.uniform("dfx8", classifier="fp32")
    expected = (CONV * 0.3 + LINEAR * 4.6) * 1e-12
    assert step_energy(pictures(), plan, (1, 4, 4)) == pytest.approx(expected, rel=1e-12)


def test_a_plan_that_does_not_fit_is_refused() -> None:
    plan = lp.Plan.from_toml("version = 1\n[[layer]]\nmatch = 'fc'\nweight = 'dfx8'")
    with pytest.raises(PlanError, match="matches no layer"):
        step_energy(pictures(), plan, (1, 4, 4))


def test_products_are_added_in_the_accumulators_of_the_plan() -> None:
    rule = lp.plan.Rule("2", None, {"accumulator": "fp16 kahan chunk=2"})
    plan = dataclasses.replace(EIGHT, layers=(rule,))
    c = cost(network(), plan, (4,), 2)
    # The first layer adds in int32, 0.1 pJ; the second in fp16, 0.4 pJ, four times a term.
    expected = (FORWARD + ERROR + GRADIENT) * 0.2 + 48 * 0.1 + 36 * 4 * 0.4
    assert c.product_energy == pytest.approx(expected * PJ, rel=1e-12)
    given = cost(network(), plan, (4,), 2, accumulator="fp32")
    expected = (FORWARD + ERROR + GRADIENT) * (0.2 + 0.9)
    assert given.product_energy == pytest.approx(expected * PJ, rel=1e-12)
    assert all(b == c.against[n] for n, b in cost(network(), EIGHT, (4,), 2).against.items())
