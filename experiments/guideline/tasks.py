"""The small networks and data of the experiment: one task a number of classes and a source.

A task is the same training whatever the precision: same weights, same order of samples, same
learning rates. What varies is the format of the classifier's error alone.
"""

from __future__ import annotations

import gzip
import os
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limprec.lab.data import load_data

DATA = Path(os.environ.get("LIMPREC_DATA", "../shared/data"))

NOISE = {10: 2.5, 100: 1.6, 1000: 1.2}
"""Spread of the clusters by number of classes, wide enough that fp32 makes mistakes."""
RATE = {10: 0.02, 100: 0.1, 1000: 0.5}

Batch = Callable[[torch.Generator], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Task:
    """One training: how the network is made, a training batch drawn, the test set cut up."""

    network: Callable[[], nn.Module]
    batch: Batch
    test: tuple[Tensor, Tensor]
    counts: tuple[int, ...]
    """How often each class occurs in the training set."""
    batch_size: int
    steps: int
    rate: float


def clusters(classes: int) -> Task:
    """Return Gaussian clusters in 64 dimensions around random centres, a new sample each time."""
    dimensions, noise, size = 64, NOISE[classes], 256
    fixed = torch.Generator().manual_seed(1)
    centres = torch.randn(classes, dimensions, generator=fixed)

    def draw(count: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        y = torch.randint(0, classes, (count,), generator=random)
        return centres[y] + noise * torch.randn(count, dimensions, generator=random), y

    return Task(
        network=lambda: nn.Sequential(
            nn.Linear(dimensions, 256), nn.ReLU(), nn.Linear(256, classes)
        ),
        batch=lambda random: draw(size, random),
        test=draw(4000, fixed),
        counts=(1,) * classes,
        batch_size=size,
        steps=600 if classes > 100 else 300,
        rate=RATE[classes],
    )


def words(classes: int) -> Task:
    """Return the next word of Shakespeare from three, all but the commonest words made one."""
    ids, counts = _word_ids(classes)
    cut, size = int(0.9 * len(ids)), 128
    places = torch.arange(cut, len(ids) - 3)

    def samples(at: Tensor) -> tuple[Tensor, Tensor]:
        return torch.stack([ids[at + k] for k in range(3)], 1), ids[at + 3]

    return Task(
        network=lambda: nn.Sequential(
            nn.Embedding(classes, 64),
            nn.Flatten(),
            nn.Linear(192, 128),
            nn.ReLU(),
            nn.Linear(128, classes),
        ),
        batch=lambda random: samples(torch.randint(0, cut - 3, (size,), generator=random)),
        test=samples(places),
        counts=counts,
        batch_size=size,
        steps=1500,
        rate=0.3,
    )


@cache
def _word_ids(classes: int) -> tuple[Tensor, tuple[int, ...]]:
    text = (DATA / "tinyshakespeare" / "input.txt").read_text(encoding="utf-8").lower()
    found = re.findall(r"[a-z']+|[.,;:!?]", text)
    number = {w: i + 1 for i, (w, _) in enumerate(Counter(found).most_common(classes - 1))}
    ids = torch.tensor([number.get(w, 0) for w in found])
    counts = torch.bincount(ids[: int(0.9 * len(ids))], minlength=classes)
    return ids, tuple(counts.tolist())


def mnist(classes: int) -> Task:
    """Return MNIST under a network of one hidden layer, one pass."""
    assert classes == 10
    x, y = _idx("train-images"), _idx("train-labels").long()
    size = 128
    x, test = (v.flatten(1).float() / 255 for v in (x, _idx("t10k-images")))
    mean, std = x.mean(), x.std()

    def batch(random: torch.Generator) -> tuple[Tensor, Tensor]:
        at = torch.randint(0, len(x), (size,), generator=random)
        return (x[at] - mean) / std, y[at]

    return Task(
        network=lambda: nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10)),
        batch=batch,
        test=((test - mean) / std, _idx("t10k-labels").long()),
        counts=tuple(torch.bincount(y).tolist()),
        batch_size=size,
        steps=469,
        rate=0.1,
    )


@cache
def _idx(name: str) -> Tensor:
    kind = "idx3" if "images" in name else "idx1"
    raw = gzip.decompress((DATA / "mnist" / f"{name}-{kind}-ubyte.gz").read_bytes())
    shape = [int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(raw[3])]
    return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).copy()).view(shape)


def cifar(classes: int) -> Task:
    """Return CIFAR-100 under two convolutions, two passes without augmentation."""
    data, size = load_data("cifar100", data_dir=DATA), 128
    assert classes == data.num_classes
    x, test = (torch.from_numpy(np.array(split.images)) for split in (data.train, data.test))
    y, answers = (torch.from_numpy(np.array(s.labels)) for s in (data.train, data.test))
    mean, std = (f(x[::10] / 255.0, (0, 2, 3), keepdim=True) for f in (torch.mean, torch.std))

    def batch(random: torch.Generator) -> tuple[Tensor, Tensor]:
        at = torch.randint(0, len(x), (size,), generator=random)
        return (x[at] / 255.0 - mean) / std, y[at]

    return Task(
        network=lambda: nn.Sequential(
            nn.Conv2d(3, 24, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(24, 48, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(768, classes),
        ).to(memory_format=torch.channels_last),  # a third faster
        batch=batch,
        test=((test / 255.0 - mean) / std, answers),
        counts=data.class_counts(),
        batch_size=size,
        steps=782,
        rate=0.05,
    )


SOURCES: dict[str, Callable[[int], Task]] = {
    "mnist": mnist,
    "cifar": cifar,
    "clusters": clusters,
    "words": words,
}


@dataclass(frozen=True)
class Outcome:
    """What the test set says: accuracy and mean cross entropy in nats; NaN loss if it diverged."""

    accuracy: float
    loss: float


def evaluate(network: nn.Module, task: Task) -> Outcome:
    """Run the test set in pieces."""
    x, y = task.test
    network.eval()
    right, loss = 0, 0.0
    with torch.no_grad():
        for i in range(0, len(x), 1000):
            z = network(x[i : i + 1000])
            right += int((z.argmax(1) == y[i : i + 1000]).sum())
            loss += F.cross_entropy(z, y[i : i + 1000], reduction="sum").item()
    return Outcome(right / len(x), loss / len(x))
