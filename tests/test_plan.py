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
from limprec.plan import OPTIMIZER_ROLES, TENSOR_ROLES, ready_plans


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


precisions = st.sampled_from(["dfx8", "dfx8:stochastic", "e4m3", "bf16", "fx8.4:toward_zero"])
roles = st.dictionaries(st.sampled_from(TENSOR_ROLES), precisions)


@given(
    default=roles,
    classifier=roles,
    layer=roles,
    optimizer=st.dictionaries(st.sampled_from(OPTIMIZER_ROLES), precisions),
    classes=st.none() | st.integers(2, 10**6),
    name=st.text(st.characters(codec="utf-8"), max_size=20),
    match=st.text(st.sampled_from('abc.*[]?"\\ é'), min_size=1, max_size=8),
)
def test_toml_round_trip(
    default: dict[str, str],
    classifier: dict[str, str],
    layer: dict[str, str],
    optimizer: dict[str, str],
    classes: int | None,
    name: str,
    match: str,
) -> None:
    from limprec.plan import Rule

    plan = lp.Plan(
        default=default,
        classifier=classifier,
        layers=(Rule(match, None, layer), Rule("*", "Linear", {})),
        optimizer=optimizer,  # type: ignore[arg-type]
        num_classes=classes,
        name=name,
        description=name * 2,
    )
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
    with pytest.raises(PlanError, match="unknown role 'weigh'"):
        lp.Plan.uniform("dfx8", weigh="dfx4")


def test_frozen() -> None:
    plan = lp.Plan.uniform("dfx8")
    with pytest.raises(TypeError):
        plan.default["weight"] = parse_precision("fp32")  # type: ignore[index]
