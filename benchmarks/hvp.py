"""Cost of a Hessian-vector product in gradients: ours against PyHessian, interleaved medians.

Run: ``OMP_NUM_THREADS=1 python benchmarks/hvp.py``. Times swing with the machine's load, so each round times
the gradient and every product once, and the table gives medians of the per-round ratios.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from sharpbench.sharpness import LossSurface

ROUNDS = 15


def networks() -> dict[str, tuple[nn.Module, torch.Tensor]]:
    mlp = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
    layers: list[nn.Module] = []
    channels = 3
    for width in (16, 16, 32, 32):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    conv = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))
    return {
        "mlp 64-256-256-10, 512": (mlp, torch.randn(512, 64)),
        "conv + BN, 64": (conv, torch.randn(64, 3, 16, 16)),
    }


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def peers(
    model: nn.Module, data: tuple[torch.Tensor, torch.Tensor], rows: torch.Tensor
) -> Callable[[], object]:
    from pyhessian import hessian
    from pyhessian.utils import hessian_vector_product

    peer = hessian(model, nn.functional.cross_entropy, data=data, cuda=False)
    shapes = [p.shape for p in model.parameters()]
    pieces = [
        piece.view(shape)
        for piece, shape in zip(rows[0].split([s.numel() for s in shapes]), shapes, strict=True)
    ]
    return lambda: hessian_vector_product(peer.gradsH, peer.params, pieces)


def main() -> None:
    torch.manual_seed(0)
    for name, (model, inputs) in networks().items():
        data = (inputs, torch.randint(0, 10, (len(inputs),)))
        model.eval()
        surface = LossSurface(model, nn.functional.cross_entropy, data)
        rows = torch.randn(10, surface.dimension)
        peer = peers(model, data, rows)
        with surface.session():
            surface.hvp(rows[0])
            actions = {
                "ours, one vector": lambda s=surface, r=rows: s.hvp(r[0]),
                "ours, block of 10": lambda s=surface, r=rows: s.hvp(r.T),
                "PyHessian, graph kept": peer,
            }
            ratios: dict[str, list[float]] = {key: [] for key in actions}
            for _ in range(ROUNDS):
                unit = seconds(surface.gradient)
                for key, action in actions.items():
                    ratios[key].append(seconds(action) / unit / (10 if "block" in key else 1))
        for key, values in ratios.items():
            print(f"{name:26s} {key:24s} {np.median(values):5.2f} gradients")


if __name__ == "__main__":
    main()
