"""The life of a converted model: copies, compilers, checkpoints, threads, faults."""

from __future__ import annotations

import contextlib
import copy
import gc
import io
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

import limprec as lp
from limprec.errors import ConversionError, IntegrationError
from limprec.integrations.torchvision import import_torchvision
from limprec.nn import plan_of

PLAN = lp.Plan.uniform("dfx6:stochastic", bias="dfx6:stochastic")


class Block(nn.Module):
    """A pre-norm transformer block, attention as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, 2, 4)).movedim(2, 0).transpose(2, 3)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        y: Tensor = x + self.mlp(x)
        return y


class Tiny(nn.Module):
    """A language model of two blocks; the head is tied to the table."""

    def __init__(self, recompute: str | None = None, shared: bool = False, depth: int = 2) -> None:
        super().__init__()
        self.table = nn.Embedding(13, 8)
        blocks = [Block() for _ in range(1 if shared else depth)]
        self.blocks = nn.ModuleList(blocks * 2 if shared else blocks)
        self.head = nn.Linear(8, 13, bias=False)
        self.head.weight = self.table.weight
        self.recompute = recompute

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids)
        for block in self.blocks:
            if self.recompute is None:
                x = block(x)
            else:
                x = checkpoint(block, x, use_reentrant=self.recompute == "reentrant")
        logits: Tensor = self.head(x)
        return logits


class Residual(nn.Module):
    """A network in the manner of ResNet."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4))
        self.features = nn.Sequential(nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        logits: Tensor = self.fc(self.features(x + self.body(x)))
        return logits


def tiny(**options: Any) -> Tiny:
    torch.manual_seed(0)
    return lp.convert(Tiny(**options), PLAN, seed=5, example_inputs=ids())


def residual() -> Residual:
    torch.manual_seed(0)
    return lp.convert(Residual(), PLAN, seed=5)


def ids(length: int = 6) -> Tensor:
    return torch.randint(0, 13, (2, length), generator=torch.Generator().manual_seed(2))


def images() -> Tensor:
    return torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(2))


def gradients(model: nn.Module, x: Tensor) -> list[Tensor]:
    model.zero_grad()
    output = model(x)
    output.square().mean().backward()
    return [output.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(map(torch.equal, a, b))


def step_of(model: nn.Module) -> int:
    return int(model.state_dict()["_limprec.random"][1])


def modes() -> int:
    """Return how many function modes are on."""
    return int(torch._C._len_torch_function_stack())


@pytest.fixture(autouse=True)
def _nothing_left_on() -> Iterator[None]:
    yield
    assert modes() == 0


# Checkpoints and copies


def test_plain_checkpoints_load_strictly_and_ours_load_where_nothing_is_converted() -> None:
    torch.manual_seed(9)
    plain, model = Tiny(), tiny()
    keys = set(plain.state_dict())
    assert set(model.state_dict()) == keys | {"_limprec.random"}
    result = model.load_state_dict(plain.state_dict(), strict=True)
    assert not result.missing_keys
    assert not result.unexpected_keys
    assert torch.equal(model.head.weight, plain.head.weight)
    saved = model.state_dict()
    lp.restore(model)
    assert set(model.state_dict()) == keys
    found = model.load_state_dict(saved, strict=False)
    assert found.unexpected_keys == ["_limprec.random"]
    assert torch.equal(model(ids()), plain(ids()))


def test_copies_of_copies_train_on_their_own() -> None:
    model = tiny()
    gradients(model, ids())
    twin = copy.deepcopy(copy.deepcopy(model))
    expected = gradients(model, ids())
    del model
    gc.collect()
    assert same(gradients(twin, ids()), expected)
    notes = [plan_of(p) for n, p in twin.named_parameters() if "norm" not in n]
    assert all(note is not None for note in notes)
    optimizer = lp.optim.SGD(twin.parameters(), 0.1, format="plan")
    assert str(optimizer.formats_of(twin.head.weight)["parameter"]) == "dfx6"
    optimizer.step()
    assert twin.head.weight is twin.table.weight  # still tied, and the layers see the change
    assert not torch.equal(gradients(twin, ids())[0], expected[0])


def test_a_part_can_be_copied() -> None:
    model = tiny()
    part = copy.deepcopy(model.blocks[0])
    x = torch.randn(2, 3, 8)
    assert torch.equal(part(x), model.blocks[0](x))


def test_saved_models_come_back_whole() -> None:
    model = tiny()
    gradients(model, ids())
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    twin = torch.load(file, weights_only=False)
    assert same(gradients(twin, ids()), gradients(model, ids()))
    assert plan_of(twin.head.weight) == plan_of(model.head.weight)
    assert step_of(twin) == step_of(model) == 2
    torch.save(model.state_dict(), file := io.BytesIO())
    file.seek(0)
    model.load_state_dict(torch.load(file, weights_only=True))


# Compilers


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("make", "x"),
    [(residual, images), (partial(tiny, depth=1), ids)],
    ids=["resnet", "gpt"],
)
def test_compiled_is_eager_bit_for_bit_and_compiled_once(
    make: Callable[[], nn.Module], x: Callable[[], Tensor]
) -> None:
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    eager, model = make(), make()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for step in range(4):
        assert same(gradients(compiled, x()), gradients(eager, x()))
        assert step_of(model) == step_of(eager) == step + 1
    assert counters["stats"]["unique_graphs"] == 1
    compiled.eval()
    eager.eval()
    assert torch.equal(compiled(x()), eager(x()))


@pytest.mark.parametrize(("make", "x"), [(residual, images), (tiny, ids)], ids=["resnet", "gpt"])
def test_exported_is_eager_bit_for_bit(
    make: Callable[[], nn.Module], x: Callable[[], Tensor]
) -> None:
    model = make().eval()
    program = torch.export.export(model, (x(),))
    assert torch.equal(program.module()(x()), model(x()))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:The .grad attribute")
def test_a_function_that_nobody_has_seen_is_not_compiled() -> None:
    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.fc(x)
            return y @ y.T

    torch._dynamo.reset()
    model, x = lp.convert(Product(), PLAN), torch.randn(4, 4)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with pytest.raises(Exception, match="function is met for the first time; give example_inputs"):
        compiled(x)
    broken = torch.compile(copy.deepcopy(model), backend="eager")
    assert torch.equal(broken(x), model(x))
    model.eval()
    torch._dynamo.reset()
    assert torch.equal(compiled(x), model(x))


# Activation checkpointing


@pytest.mark.parametrize("how", ["reentrant", "not reentrant"])
def test_recomputed_blocks_round_as_they_did(how: str) -> None:
    plain, model = tiny(), tiny(recompute=how)
    for _ in range(2):
        assert same(gradients(plain, ids()), gradients(model, ids()))


@pytest.mark.parametrize("how", ["reentrant", "not reentrant"])
def test_a_shared_block_cannot_be_recomputed(how: str) -> None:
    model = tiny(recompute=how, shared=True)
    with pytest.raises(ConversionError, match=r"cannot tell which call of 'blocks\.0\.mlp\.0'"):
        gradients(model, ids())
    assert modes() == 0
    model.recompute = None
    gradients(model, ids())  # and goes on


# Around and inside


def test_autocast_is_refused_with_the_remedy() -> None:
    model = tiny()
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(ConversionError, match=r"autocast is on.*compute=\"fast\""),
    ):
        model(ids())
    model(ids())
    with torch.autocast("cpu", enabled=False):
        model(ids())


def test_autocast_around_a_compiled_model_is_refused() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(residual(), backend="eager", fullgraph=True)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(Exception, match="autocast is on"):
        compiled(images())


def test_autocast_inside_a_module_is_refused_too() -> None:
    class Inside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                y: Tensor = self.fc(x)
            return y

    with pytest.raises(ConversionError, match="autocast is on"):
        lp.convert(Inside(), PLAN)(torch.randn(2, 4))
    plain = lp.convert(Inside(), lp.Plan.uniform("fp32"))  # rounds nothing: as without us
    assert plain(torch.randn(2, 4)).dtype == torch.bfloat16


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, nullcontext])
def test_evaluation_is_the_same_with_and_without_gradients(context: Any) -> None:
    expected = tiny().eval()(ids())
    model = tiny().eval()
    with context():
        assert torch.equal(model(ids()), expected)
    assert step_of(model) == 0


@pytest.mark.parametrize("fault", [KeyboardInterrupt, ValueError])
def test_a_fault_in_a_forward_leaves_nothing_on(fault: type[BaseException]) -> None:
    model, other = tiny(), tiny()
    for _ in range(2):
        other(ids())

    def break_off(*_: Any) -> None:
        assert modes() == 1
        raise fault

    handle = model.blocks[1].mlp.register_forward_pre_hook(break_off)  # type: ignore[union-attr,operator]
    with pytest.raises(fault):
        model(ids())
    assert modes() == 0
    handle.remove()
    assert same(gradients(model, ids()), gradients(other, ids())) is False  # one step behind
    model.load_state_dict(other.state_dict())
    assert same(gradients(model, ids()), gradients(other, ids()))


def test_a_converted_part_of_a_model_that_is_not() -> None:
    torch.manual_seed(0)
    whole = Tiny()
    alone = copy.deepcopy(whole)
    lp.convert(whole.blocks[0], PLAN)
    before, after = alone(ids()), whole(ids())
    assert not torch.equal(before, after)
    x = alone.table(ids())
    lp.convert(alone.blocks[0], PLAN)
    x = alone.blocks[1](alone.blocks[0](x))
    assert torch.equal(F.linear(x, alone.head.weight), after)  # nothing outside the part rounds
    assert "blocks.0._limprec.random" in whole.state_dict()


def test_parts_called_by_themselves_round_as_in_the_whole() -> None:
    model = residual().eval()
    x = F.relu(model.stem(images()))
    assert torch.equal(model.fc(model.features(x + model.body(x))), model(images()))


def test_a_module_may_call_itself() -> None:
    class Recursive(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor, depth: int = 2) -> Tensor:
            y: Tensor = self.fc(x) @ torch.ones(4, 4)
            return self(y.tanh(), depth - 1) if depth else y

    model = lp.convert(Recursive(), PLAN)
    model(torch.randn(3, 4)).sum().backward()
    state = model._limprec.model  # type: ignore[union-attr]
    assert state.calls == {"fc": 3, "matmul#0": 3}
    assert model.fc.weight.grad is not None


def test_other_parameters_for_one_call() -> None:
    model = residual().eval()
    other = {name: p.detach() * 2 for name, p in model.named_parameters()}
    found = functional_call(model, other, (images(),))
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2)
    assert torch.equal(model(images()), found)


def test_two_models_in_two_threads() -> None:
    expected = gradients(tiny(), ids()), gradients(residual(), images())
    models = tiny(), residual()
    found: list[Any] = [None, None]

    def train(index: int, x: Tensor) -> None:
        for _ in range(5):
            models[index].load_state_dict({"_limprec.random": torch.tensor([5, 0])}, strict=False)
            found[index] = gradients(models[index], x)

    threads = [threading.Thread(target=train, args=(i, x)) for i, x in enumerate((ids(), images()))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert same(found[0], expected[0])
    assert len(found[1]) == len(expected[1])


def test_distributed_data_parallel(tmp_path: Path) -> None:
    expected = gradients(tiny(), ids())
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    parallel = nn.parallel.DistributedDataParallel(tiny())
    try:
        assert same(gradients(parallel, ids()), expected)
        assert "module._limprec.random" in parallel.state_dict()
    finally:
        del parallel  # holding the group's last reference, it can wait for its threads for ever
        dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore")
def test_a_lightning_module(tmp_path: Path) -> None:
    with contextlib.suppress(IntegrationError):
        import_torchvision()  # lightning imports it where it is installed
    lightning = pytest.importorskip("lightning", reason="lightning is missing (limprec[lab])")

    class Module(lightning.LightningModule):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = tiny()

        def training_step(self, batch: Tensor) -> Tensor:
            logits = self.net(batch)
            return F.cross_entropy(logits.flatten(0, 1), batch.flatten())

        def configure_optimizers(self) -> Any:
            return lp.optim.SGD(self.parameters(), 0.1, writeback="kahan", format="plan")

    module = Module()
    trainer = lightning.Trainer(
        max_steps=3, accelerator="cpu", default_root_dir=tmp_path, logger=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(ids(6).repeat(6, 1), batch_size=4))
    assert step_of(module.net) == 3
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    again = Module.load_from_checkpoint(tmp_path / "x.ckpt")
    assert step_of(again.net) == 3
