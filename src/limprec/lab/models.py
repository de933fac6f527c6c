"""Reference networks, by name: one entry in one table each."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import LabError


class LeNet5(nn.Module):
    """LeCun et al. 1998 with ReLU and max pooling: two convolutions, three linear layers.

    Args:
        channels: image channels.
        size: image side, 28 (padded by 2) or 32.
        classes: outputs.
    """

    def __init__(self, channels: int, size: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 6, 5, padding=(32 - size) // 2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, size, size) to logits (N, classes)."""
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.fc1(x.flatten(1)))
        logits: Tensor = self.fc3(F.relu(self.fc2(x)))
        return logits


class MLP(nn.Sequential):
    """One hidden layer of 256: the smallest network in which updates get lost."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(inputs, 256), nn.ReLU(), nn.Linear(256, classes))


class _Block(nn.Module):
    """Two 3x3 convolutions and a shortcut without parameters (option A of He et al. 2016)."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.stride, self.widen = stride, outside - inside

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.widen:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.widen))
        y += x
        return F.relu(y, inplace=True)


class ResNetCifar(nn.Module):
    """The CIFAR ResNet of He et al. 2016, section 4.2: 6n + 2 layers of widths 16, 32, 64."""

    def __init__(self, depth: int, channels: int, classes: int) -> None:
        super().__init__()
        blocks, width, layers = (depth - 2) // 6, 16, []
        self.conv1 = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        for stage in range(3):
            for block in range(blocks):
                outside = 16 << stage
                layers.append(_Block(width, outside, 2 if stage and not block else 1))
                width = outside
        self.blocks = nn.Sequential(*layers)
        self.fc = nn.Linear(width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to logits (N, classes)."""
        x = F.relu(self.bn1(self.conv1(x)))
        for block in self.blocks:  # not self.blocks(x): a call holds its arguments until it returns
            x = block(x)
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        parts = self.qkv(x).chunk(3, -1)
        q, k, v = (part.view(n, length, self.heads, -1).transpose(1, 2) for part in parts)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        result: Tensor = self.out(y.transpose(1, 2).reshape(n, length, width))
        return result


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), _Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        y: Tensor = self.down(F.gelu(self.up(self.norm2(x))))
        return x + y


class GPT(nn.Module):
    """A pre-norm decoder with learned positions (Radford et al. 2019)."""

    def __init__(self, vocabulary: int, context: int, layers: int, width: int, heads: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(context, width)
        self.layers = nn.Sequential(*(_Layer(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                residual = name.endswith(("out.weight", "down.weight"))
                deviation = 0.02 / (2 * layers) ** 0.5 if residual else 0.02
                nn.init.normal_(parameter, std=deviation)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (N, T) to logits (N, T, vocabulary)."""
        x = self.tokens(x) + self.positions(torch.arange(x.shape[1], device=x.device))
        logits: Tensor = self.head(self.norm(self.layers(x)))
        return logits


class RecurrentLM(nn.Module):
    """Embedding, LSTM layers, and a linear layer over the words (Zaremba et al. 2014)."""

    def __init__(self, vocabulary: int, layers: int, width: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.lstm = nn.LSTM(width, width, layers, batch_first=True)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (N, T) to logits (N, T, vocabulary)."""
        hidden, _ = self.lstm(self.tokens(x))
        logits: Tensor = self.head(hidden)
        return logits


@dataclass(frozen=True)
class Task:
    """What a model is built for: shape of one input, number of classes, kind of data."""

    kind: str
    input_shape: tuple[int, ...]
    classes: int


@dataclass(frozen=True)
class Entry:
    """A model of the table: how to build it, for which data, with which usual training."""

    build: Callable[[Task], nn.Module]
    kind: str
    about: str
    lr: float
    weight_decay: float = 0.0


MODELS: dict[str, Entry] = {
    "lenet5": Entry(
        lambda t: LeNet5(t.input_shape[0], t.input_shape[1], t.classes),
        "image",
        "LeNet-5 (62 k parameters), images of 28 or 32 pixels",
        lr=0.02,
    ),
    "mlp": Entry(
        lambda t: MLP(torch.Size(t.input_shape).numel(), t.classes),
        "image",
        "one hidden layer of 256",
        lr=0.05,
    ),
    "resnet20": Entry(
        lambda t: ResNetCifar(20, t.input_shape[0], t.classes),
        "image",
        "CIFAR ResNet with 20 layers (270 k parameters)",
        lr=0.1,
        weight_decay=1e-4,
    ),
    "gpt-mini": Entry(
        lambda t: GPT(t.classes, t.input_shape[0], layers=4, width=128, heads=4),
        "text",
        "decoder of 4 layers, width 128 (0.8 M parameters)",
        lr=0.1,
    ),
    "lstm": Entry(
        lambda t: RecurrentLM(t.classes, layers=1, width=128),
        "text",
        "one LSTM layer of width 128 (0.15 M parameters)",
        lr=2.0,
    ),
}


def build_model(name: str, task: Task, seed: int) -> nn.Module:
    """Build a model of the table with seeded weights; the global generator is left as it was.

    Raises:
        LabError: for an unknown model, or data of the wrong kind or size.
    """
    entry = find_model(name)
    if entry.kind != task.kind:
        raise LabError("model", f"{name} takes {entry.kind} data, not {task.kind}", _fitting(task))
    if name == "lenet5" and task.input_shape[1:] not in ((28, 28), (32, 32)):
        raise LabError(
            "model", f"lenet5 cannot take {task.input_shape[1:]} images", "use 28x28 or 32x32"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return entry.build(task)


def find_model(name: str) -> Entry:
    """Return a model's entry.

    Raises:
        LabError: if there is none of that name.
    """
    if name not in MODELS:
        near = difflib.get_close_matches(name, MODELS, 1)
        hint = f"did you mean {near[0]!r}?" if near else "use one of " + ", ".join(MODELS)
        raise LabError("model", f"unknown model {name!r}", hint)
    return MODELS[name]


def _fitting(task: Task) -> str:
    return "use " + " or ".join(n for n, e in MODELS.items() if e.kind == task.kind)
