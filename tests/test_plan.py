"""Plans: rules, TOML both ways, the guideline's word on the classifier, and clear errors."""

import copy
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import limprec as lp
from limprec.errors import GuidelineWarning, PlanError
from limprec.formats import parse_precision
from limprec.plan import (
    KINDS,
    OPTIMIZER_ROLES,
    TENSOR_ROLES,
    Accumulator,
    LayerPlan,
    Rule,
    Scaling,
    ready_plans,
)


def network(classes: int = 10) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 8), nn.Linear(8, classes)
    )


def test_uniform_gives_every_role_of_every_layer_one_format() -> None:
    plans = lp.Plan.uniform("dfx8", error="e5m2:stochastic").resolve(network())
    assert list(plans) == ["0", "3", "4"]
    for layer in plans.values():
        assert [str(layer[r]) for r in TENSOR_ROLES] == [
            "dfx8",
            "dfx8",
            "e5m2:stochastic",
            "dfx8",
            "fp32",
        ]


@pytest.mark.parametrize(
    ("classes", "error"), [(10, "dfx8"), (100, "dfx8"), (1000, "dfx11"), (50257, "dfx17")]
)
def test_auto_widens_the_classifiers_error_and_nothing_else(classes: int, error: str) -> None:
    plan = lp.Plan.uniform("dfx8", classifier="auto")
    layers = list(plan.resolve(network(classes)).values())
    assert str(layers[-1].error) == error
    assert str(layers[-1].weight) == "dfx8"
    assert all(str(layer.error) == "dfx8" for layer in layers[:-1])
    told = lp.Plan.uniform("dfx8", classifier="auto", num_classes=classes)
    assert str(list(told.resolve(network()).values())[-1].error) == error


@pytest.mark.parametrize(
    ("error", "classes", "widened"),
    [
        ("dfx8:stochastic", 50257, "dfx8:stochastic"),
        ("dfx3:stochastic", 1000, "dfx6:stochastic"),
        ("dfx8:toward_zero", 1000, "dfx11:toward_zero"),
        ("dfx4:stochastic16", 1000, "dfx6:stochastic16"),
        ("dfx4:stochastic4", 1000, "dfx11:stochastic4"),
        ("mxfp8_e4m3", 1000, "mxint8"),
    ],
)
def test_auto_asks_for_the_errors_own_rounding(error: str, classes: int, widened: str) -> None:
    plan = lp.Plan.uniform("dfx8", error=error, classifier="auto")
    assert str(list(plan.resolve(network(classes)).values())[-1].error) == widened


def test_too_few_bits_at_the_classifier_warn() -> None:
    plan = lp.Plan.uniform("dfx8")
    plan.resolve(network(100))
    message = (
        r"plan dfx8: the error of '4', the last layer, loses half of the softmax's gradient: dfx8"
        r" has 8 bits, 1000 classes need 10 \(advised 11\); set error = \"auto\""
    )
    with pytest.warns(GuidelineWarning, match=message):
        lp.convert(network(1000), plan)
    with pytest.warns(GuidelineWarning, match="fx8.4 has 4 fraction bits, 100 classes need 6;"):
        lp.Plan.uniform("fx8.4", num_classes=100).resolve(network())
    for silent in (
        lp.Plan.uniform("dfx8", classifier="auto"),
        lp.Plan.uniform("dfx8:stochastic"),
        lp.Plan.uniform("dfx8", classifier="fp32"),
        lp.Plan.uniform("nvfp4"),
        lp.Plan.uniform("dfx8", num_classes=10),
    ):
        silent.resolve(network(1000))
    lp.Plan.uniform("dfx2").resolve(network(1))  # one output feeds no softmax


def test_a_classifier_of_its_own() -> None:
    layers = list(lp.Plan.uniform("dfx8", classifier="fp32").resolve(network()).values())
    assert {str(layers[-1][r]) for r in TENSOR_ROLES} == {"fp32"}
    assert str(layers[0].weight) == "dfx8"


def test_layer_rules_win_over_the_classifier_and_the_default() -> None:
    plan = lp.Plan.from_toml(
        """
        version = 1
        [default]
        weight = "dfx8"
        error = "dfx8"
        [classifier]
        error = "auto"
        weight = "bf16"
        [[layer]]
        match = "4"
        weight = "e4m3"
        [[layer]]
        type = "Conv2d"
        weight = "dfx4"
        """
    )
    layers = plan.resolve(network(1000))
    assert [str(layers[n].weight) for n in ("0", "3", "4")] == ["dfx4", "dfx8", "e4m3"]
    assert str(layers["4"].error) == "dfx11"
    assert str(layers["0"].activation) == "fp32"


precisions = st.sampled_from(
    ["dfx8", "dfx8:stochastic16", "e4m3", "de5m2:stochastic", "bf16", "fx8.4:toward_zero", "nvfp4"]
)
accumulators = st.builds(
    Accumulator,
    st.builds(parse_precision, precisions),
    st.none() | st.integers(1, 4096),
    st.booleans(),
    st.sampled_from(["sequential", "tree", "aligned:8:3"]),
    st.none() | st.sampled_from(["fp16", "bf16:toward_zero"]),
)
tensors = st.dictionaries(st.sampled_from(TENSOR_ROLES), precisions)
roles = st.tuples(tensors, st.none() | accumulators).map(
    lambda pair: {**pair[0], **({} if pair[1] is None else {"accumulator": pair[1]})}
)
texts = st.text(st.characters(codec="utf-8"), max_size=20)
plans = st.builds(
    lp.Plan,
    default=roles,
    first=roles,
    classifier=roles | roles.map(lambda r: {**r, "error": "auto"}),
    norm=tensors,
    layers=st.lists(
        st.builds(
            Rule,
            st.text(st.sampled_from('abc.*[]?"\\ é'), min_size=1, max_size=8),
            st.none() | st.sampled_from(sorted(KINDS)),
            roles,
        ),
        max_size=3,
    ).map(tuple),
    optimizer=st.dictionaries(st.sampled_from(OPTIMIZER_ROLES), precisions),
    scaling=st.builds(
        Scaling,
        st.just("dynamic") | st.floats(2.0**-20, 2.0**20) | st.integers(1, 2**20),
        st.sampled_from(["none", "current", "delayed"]),
        st.integers(1, 1024),
    ),
    hadamard=st.sampled_from([0, 2, 16, 128]),
    num_classes=st.none() | st.integers(2, 10**6),
    name=texts,
    description=texts,
)


@given(plans)
def test_toml_round_trip(plan: lp.Plan) -> None:
    assert lp.Plan.from_toml(plan.to_toml()) == plan
    assert hash(lp.Plan.from_toml(plan.to_toml())) == hash(plan)
    assert pickle.loads(pickle.dumps(plan)) == plan
    assert copy.deepcopy(plan) == plan


def test_save_and_load(tmp_path: Path) -> None:
    plan = lp.Plan.uniform("e4m3", gradient="e5m2:stochastic")
    plan.save(tmp_path / "plan.toml")
    assert lp.Plan.load(tmp_path / "plan.toml") == plan
    assert [p.name for p in tmp_path.iterdir()] == ["plan.toml"]


def test_ready_plans_load_and_name_their_idea() -> None:
    assert "dfx8" in ready_plans()
    for name, path in ready_plans().items():
        plan = lp.Plan.load(name)
        assert plan == lp.Plan.load(path)
        assert plan.name == name
        assert plan.description
        plan.resolve(network())


def test_the_table_shows_every_layer() -> None:
    table = lp.Plan.load("dfx8").table(network(1000))
    lines = table.splitlines()
    assert lines[0].split() == ["layer", "type", *TENSOR_ROLES]
    assert lines[3].split()[:5] == ["4", "Linear", "dfx8", "dfx8", "dfx8:stochastic"]
    assert lines[-1] == "optimizer: momentum dfx8:stochastic, compensation dfx8"


def test_the_table_shows_sections_sums_and_scales() -> None:
    plan = lp.Plan(
        default={"weight": "e4m3", "accumulator": "e6m9 chunk=64 kahan"},
        first={"weight": "bf16"},
        norm={"activation": "fp16"},
        optimizer={"parameter": "fp32", "momentum": "bf16"},  # type: ignore[dict-item]  # read
        scaling=Scaling("dynamic", "delayed", 8),
        hadamard=16,
    )
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    assert plan.table(model).splitlines() == [
        "layer  type       weight  activation  error  gradient  bias  accumulator",
        "0      Linear     bf16    fp32        fp32   fp32      fp32  e6m9 chunk=64 kahan",
        "1      LayerNorm  fp32    dfp16       fp32   fp32      fp32  -",
        "2      Linear     de4m3   fp32        fp32   fp32      fp32  e6m9 chunk=64 kahan",
        "optimizer: parameter fp32, momentum bf16, compensation as the parameter",
        "scaling: loss dynamic, tensors delayed by 8 forwards",
        "rotations: Hadamard, in blocks of 16",
    ]


def test_how_parameters_are_stored() -> None:
    plan = lp.Plan.uniform("dfx4", bias="bf16", parameter="fp32", classifier="fp32")
    first, *_, last = plan.resolve(network()).values()
    assert str(first.stored("weight", plan.optimizer)) == "fp32"
    assert str(first.stored("bias", plan.optimizer)) == "bf16"
    narrow = lp.Plan.uniform("dfx4", parameter="dfx8", classifier="fp32")
    assert str(last.stored("weight", narrow.optimizer)) == "fp32"  # nothing rounds it
    assert str(first.stored("weight", lp.Plan.uniform("dfx4").optimizer)) == "dfx4"
    model = lp.convert(network(), narrow)
    lp.optim.SGD(model.parameters(), lr=0.1, format="plan")
    weight = model[3].weight
    assert weight.equal(lp.quantize(weight, "dfx8"))
    assert not weight.equal(lp.quantize(weight, "dfx4"))


def test_scales_reach_every_float_that_needs_one() -> None:
    roles = {"weight": "e4m3", "activation": "fp16", "error": "bf16", "bias": "fx8.4"}
    for word in ("current", "delayed"):
        plan = lp.Plan(default=roles, scaling=Scaling(tensors=word))  # type: ignore[arg-type]
        layer = plan.resolve(network())["3"]
        assert isinstance(layer, LayerPlan)
        assert [str(layer[r]) for r in roles] == ["de4m3", "dfp16", "bf16", "fx8.4"]
    auto = lp.Plan(
        default={"error": "e2m1"}, classifier={"error": "auto"}, scaling=Scaling(tensors="current")
    )
    layers = auto.resolve(network(1000))
    assert str(layers["3"].error) == "de2m1"
    assert str(layers["4"].error).startswith("de4m1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("version = 1\n[default]\nweigth = 'dfx8'", "unknown role 'weigth'; did you mean 'weight'"),
        ("version = 1\n[default]\nweight = 'q8'", r"\[default\] weight: unknown format 'q8'"),
        ("version = 1\n[default]\nweight = 8", r"\[default\] weight: 8 is no name"),
        ("version = 1\n[default]\nweight = 'dfx8:odd'", "unknown rounding 'odd'"),
        ("version = 1\n[default]\nerror = 'auto'", r"only the error of \[classifier\]"),
        ("version = 1\nlayers = 1", "unknown key 'layers'; did you mean 'layer'"),
        ("version = 1\nlayer = 1", "layer is no list of tables"),
        ("version = 1\ndefault = 1", "default is no table"),
        ("version = 1\n[[layer]]\ntype = 'Conv'", "unknown type 'Conv'; did you mean"),
        ("version = 1\nnum_classes = 1", "num_classes is 1; give 2 or more"),
        ("version = 2", "version is 2; write version = 1"),
        ("[default]\nweight = 'dfx8'", "version is None"),
        ("version = ", "not TOML"),
        ("version = 1\n[scaling]\nloss = 0", r"loss = 0; give 'dynamic' or a number over 0"),
        ("version = 1\n[scaling]\nloss = 'static'", r"loss = 'static'; give 'dynamic'"),
        ("version = 1\n[scaling]\ntensors = 'late'", r"tensors = 'late'; use one of none, current"),
        ("version = 1\n[scaling]\nhistory = 0", "history = 0; give 1 step or more"),
        ("version = 1\n[scaling]\ntensor = 'none'", "unknown key 'tensor'; did you mean 'tensors'"),
        ("version = 1\nhadamard = 12", "hadamard is 12; give 0 or a power of two from 2 up"),
        ("version = 1\n[norm]\naccumulator = 'fp32'", "unknown role 'accumulator'"),
        ("version = 1\n[default]\naccumulator = 'e5m10 lane=2'", "'lane=2' in"),
    ],
)
def test_errors_in_a_file_name_it(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(PlanError, match=message) as caught:
        lp.Plan.load(path)
    assert str(caught.value).startswith(str(path))


def test_errors_in_a_model() -> None:
    with pytest.raises(PlanError, match="cannot read nowhere: No such file"):
        lp.Plan.load("nowhere")
    with pytest.raises(PlanError, match="no layer to convert; it needs a module that multiplies"):
        lp.Plan.uniform("dfx8").resolve(nn.ReLU())
    rule = "version = 1\n[[layer]]\nmatch = 'conv9'\nweight = 'dfx8'"
    with pytest.raises(PlanError, match="'conv9' matches no layer; the layers are 0, 3, 4"):
        lp.Plan.from_toml(rule).resolve(network())
    contradiction = """
        version = 1
        [[layer]]
        match = "3"
        weight = "dfx8"
        [[layer]]
        type = "Linear"
        weight = "dfx4"
        """
    with pytest.raises(PlanError, match="layer '3' gets weight dfx8 from '3' and dfx4 from"):
        lp.Plan.from_toml(contradiction).resolve(network())
    for match, type_, message in (
        ("bn", None, r"rule 'bn' matches no layer; 'bn' is of type BatchNorm: add type to the"),
        ("fc", "Conv2d", "rule 'fc' type Conv2d matches no layer; 'fc' is of type Linear: add"),
        ("x/*", "Matmul", None),  # it speaks of functions, which nobody has seen
        ("*", "Attention", None),  # a model need not have one
    ):
        model = nn.Sequential()
        model.add_module("fc", nn.Linear(4, 4))
        model.add_module("bn", nn.BatchNorm1d(4))
        plan = lp.Plan(layers=(Rule(match, type_, {"activation": "dfx8"}),))
        if message is None:
            plan.resolve(model)
        else:
            with pytest.raises(PlanError, match=message):
                plan.resolve(model)
    sums = lp.Plan(layers=(Rule("*", "BatchNorm", {"accumulator": "e5m10"}),))
    with pytest.raises(
        PlanError,
        match=r"rule '\*' type BatchNorm gives accumulator to 'bn', and BatchNorm has none; it has",
    ):
        sums.resolve(model)
    with pytest.raises(PlanError, match="unknown role 'weigh'"):
        lp.Plan.uniform("dfx8", weigh="dfx4")


def test_frozen() -> None:
    plan = lp.Plan.uniform("dfx8")
    with pytest.raises(TypeError):
        plan.default["weight"] = parse_precision("fp32")  # type: ignore[index]
