"""Static, cyclic and learned forward bits on LeNet-5 and MNIST: accuracy against cost.

python experiments/schedules-lenet5-mnist/schedules.py [--seeds 3] [--epochs 1]

Every run has a file in ``results``; those that are there are not run again.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import limprec as lp
from limprec.costs import cpt_cost
from limprec.lab.data import DataSet, load_data
from limprec.lab.models import Task, build_model
from limprec.nn import set_bits

HERE = Path(__file__).parent
STATIC, CYCLIC, LEARNED = (8, 5, 3), lp.schedule.Cyclic(3, 8, cycles=32), (0.0, 0.002, 0.005)
BATCH, RATE, BETAS_RATE, ERROR_BITS = 100, 0.02, 0.1, 8


def run(way: str, value: float, data: DataSet, seed: int, epochs: int) -> dict[str, float]:
    """Train one network; return its test accuracy and its mean cost against static 8 bits."""
    task = Task(data.kind, tuple(data.input_shape), data.num_classes)
    model = lp.convert(build_model("lenet5", task, seed), lp.Plan.load("cpt"), seed=seed)
    macs: Counter[str] = Counter()
    for product in lp.costs.trace(model, data.input_shape).products:
        macs[product.layer] += product.macs
    batches = data.train_batches(BATCH, seed=seed)
    groups: list[dict[str, object]] = [{"params": model.parameters()}]
    cyclic = learned = None
    if way == "cyclic":
        cyclic = lp.schedule.BitScheduler(model, CYCLIC, epochs * len(batches))
    elif way == "learned":
        learned = lp.schedule.LearnedBits(model, lp.schedule.Learnable(3, 8), macs)
        groups.append({"params": learned.parameters(), "lr": BETAS_RATE})
    else:
        set_bits(model, int(value))
    optimizer = torch.optim.SGD(groups, lr=RATE, momentum=0.9)
    names = learned.layers if learned else ("conv1", "conv2", "fc1", "fc2")
    shares = {name: macs[name] / sum(macs[n] for n in names) for name in names}
    costs = []
    for epoch in range(epochs):
        batches.set_epoch(epoch)
        for x, y in batches:
            bits = learned.bits if learned else dict.fromkeys(names, _bits(cyclic, value))
            costs.append(sum(shares[n] * cpt_cost(bits[n], ERROR_BITS) for n in names))
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            if learned:
                loss = loss + value * learned.penalty()
            loss.backward()
            optimizer.step()
            for moving in filter(None, (cyclic, learned)):
                moving.step()
    with cyclic.widest() if cyclic else nullcontext():
        accuracy = _test(model, data)
    cost = statistics.mean(costs) / cpt_cost(8, ERROR_BITS) - 1
    return {"accuracy": accuracy, "cost": cost, **({} if learned is None else learned.bits)}


def _bits(cyclic: lp.schedule.BitScheduler | None, value: float) -> int:
    return cyclic.bits if cyclic else int(value)


def _test(model: nn.Module, data: DataSet) -> float:
    model.eval()
    right = count = 0
    with torch.no_grad():
        for x, y in data.test_batches(1000):
            right += int((model(x).argmax(1) == y).sum())
            count += y.numel()
    return right / count


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=1)
    options = parser.parse_args()
    data = load_data("mnist")
    ways = [("static", float(b)) for b in STATIC] + [("cyclic", 0.0)]
    ways += [("learned", weight) for weight in LEARNED]
    print("| forward bits | accuracy, each seed | mean | cost |\n|---|---|---|---|")
    for way, value in ways:
        found = []
        for seed in range(options.seeds):
            file = HERE / "results" / f"{way}-{value:g}-{options.epochs}-{seed}.json"
            if not file.exists():
                made = run(way, value, data, seed, options.epochs)
                file.write_text(json.dumps(made) + "\n", encoding="utf-8")
            found.append(json.loads(file.read_text(encoding="utf-8")))
        accuracies = [100 * f["accuracy"] for f in found]
        cost = statistics.mean(f["cost"] for f in found)
        name = {"static": f"static {value:g}", "cyclic": f"cyclic {CYCLIC}"}.get(
            way, f"learned 3-8, penalty {value:g}"
        )
        each = " / ".join(f"{a:.2f}" for a in accuracies)
        print(f"| {name} | {each} | {statistics.mean(accuracies):.2f} | {100 * cost:+.1f} % |")


if __name__ == "__main__":
    main()
