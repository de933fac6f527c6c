"""Sharded parameters (DTensor, FSDP2): the bits of the whole, however it is cut."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import limprec as lp

OPTIONS: tuple[dict[str, Any], ...] = (
    {"writeback": "stochastic"},
    {"writeback": "kahan", "compensation_rounding": "stochastic"},
    {"writeback": "kahan", "compensation_format": "ulp8"},
    {"writeback": "split"},
)

SCRIPT = textwrap.dedent(
    """
    import sys
    import torch
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    sys.path.insert(0, sys.argv[5])
    import test_sharded as test

    rank, world = int(sys.argv[1]), int(sys.argv[2])
    dist.init_process_group(
        "gloo", init_method=f"file://{sys.argv[3]}", rank=rank, world_size=world
    )
    mesh = init_device_mesh("cpu", (world,))
    result = {}
    for options in test.OPTIONS:
        model = test.network()
        fully_shard(model, mesh=mesh)

        def cut(p, whole):
            rows = -(-p.shape[0] // world)
            part = whole[rank * rows : rank * rows + p.to_local().shape[0]]
            return DTensor.from_local(
                part, mesh, p.placements, run_check=False, shape=p.shape, stride=p.stride()
            )

        optimizer = test.train(model, options, cut)
        for state in optimizer.state_dict()["state"].values():
            assert isinstance(state["exp_avg"], DTensor)
        for name, value in test.everything(model, optimizer).items():
            result[str(options) + name] = value.full_tensor()
    if rank == 0:
        torch.save(result, sys.argv[4])
    dist.destroy_process_group()
    """
)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 3)).bfloat16()


def train(model: nn.Module, options: dict[str, Any], cut: Any) -> lp.optim.AdamW:
    """Do four steps with gradients that ``cut`` makes of the whole ones."""
    optimizer = lp.optim.AdamW(model.parameters(), 0.02, seed=3, **options)
    generator = torch.Generator().manual_seed(1)
    for _ in range(4):
        for p in model.parameters():
            p.grad = cut(p, torch.randn(p.shape, generator=generator).bfloat16())
        optimizer.step()
    return optimizer


def everything(model: nn.Module, optimizer: lp.optim.AdamW) -> dict[str, torch.Tensor]:
    named = dict(model.named_parameters())
    states = {n + "state": optimizer.state[p]["exp_avg_sq"] for n, p in named.items()}
    return {n: p.detach() for n, p in named.items()} | states


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_fsdp2_gives_the_bits_of_one_process(tmp_path: Path) -> None:
    """Seven and three rows in three processes: shards of three, three and one rows, and of one."""
    world, out = 3, tmp_path / "result.pt"
    here = Path(__file__).parent
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", SCRIPT]
            + [str(a) for a in (rank, world, tmp_path / "rendezvous", out, here)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors
    sharded = torch.load(out)
    for options in OPTIONS:
        model = network()
        optimizer = train(model, options, lambda p, whole: whole)
        for name, value in everything(model, optimizer).items():
            assert torch.equal(value, sharded[str(options) + name]), (options, name)


def test_what_needs_whole_rows_or_parameters_says_so() -> None:
    """A process group of one, in this process."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        columns = nn.Parameter(distribute_tensor(torch.ones(4, 4), mesh, [Shard(1)]))
        with pytest.raises(lp.LimprecError, match="shard along dimension 0, as FSDP2 does"):
            lp.optim.SGD([columns])
        for placement in (Shard(0), Replicate()):
            rows = nn.Parameter(distribute_tensor(torch.ones(4, 4), mesh, [placement]))
            for refuses in (lp.optim.Muon, lp.optim.Adafactor):
                with pytest.raises(lp.LimprecError, match="use AdamW or SGD"):
                    refuses([rows])
            rows.grad = torch.ones_like(rows)
            lp.optim.SGD([rows], 0.1).step()
    finally:
        torch.distributed.destroy_process_group()
