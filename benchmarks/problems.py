"""The problems of the benchmarks: networks at hand, and exact Hessians as operators."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from sharpbench.models.char_transformer import CharTransformer
from sharpbench.sharpness import LossSurface

RESULTS = Path(__file__).parent / "results"


class Block(nn.Module):
    """A residual block of two 3x3 convolutions."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.short: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.short = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(out)) + self.short(x))


def resnet18(width: int = 8, classes: int = 10) -> nn.Module:
    """ResNet-18 in its CIFAR form; width 64 is the usual one."""
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    inputs = width
    for stage in range(4):
        for block in range(2):
            outputs = width * 2**stage
            layers.append(Block(inputs, outputs, 2 if stage and not block else 1))
            inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))


def gpt(vocabulary: int = 65, longest: int = 64, width: int = 128, depth: int = 4) -> nn.Module:
    """A GPT of 818 176 weights, its attention written out: the fused kernels have no second derivative."""
    return CharTransformer(longest, vocabulary, width=width, depth=depth)


def next_token_loss(logits: Tensor, tokens: Tensor) -> Tensor:
    """The mean cross-entropy over all tokens of all texts."""
    return nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten())


@dataclass
class MatrixOperator:
    """A known symmetric matrix as an operator that counts its products."""

    matrix: Tensor
    hvps: int = 0

    def __post_init__(self) -> None:
        self.dimension = len(self.matrix)
        self.dtype, self.device = self.matrix.dtype, self.matrix.device

    def session(self) -> AbstractContextManager[None]:
        return nullcontext()

    def hvp(self, vectors: Tensor) -> Tensor:
        self.hvps += 1 if vectors.ndim == 1 else vectors.shape[1]
        return self.matrix @ vectors


def trained_hessians() -> dict[str, Tensor]:
    """Exact float64 Hessians of an MLP 64-24-10 (1810 weights) on 512 digits: init, middle, end."""
    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))[:512]
    inputs, targets = torch.tensor(digits.data / 16.0)[order], torch.tensor(digits.target)[order]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    found = {}
    for epoch in range(61):
        if epoch in (0, 6, 60):
            name = {0: "init", 6: "middle", 60: "end"}[epoch]
            surface = LossSurface(model, nn.functional.cross_entropy, (inputs, targets))
            found[name] = surface.dense_hessian()
        for batch in torch.randperm(512).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs[batch]), targets[batch]).backward()
            optimizer.step()
    return found
