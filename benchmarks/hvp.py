"""Cost of a Hessian-vector product in gradients: ours against the peers, in one interleaved run.

Run: ``python benchmarks/hvp.py``. Times swing with the machine's load, so each round times the gradient and
every product once, in an order drawn anew, and the table gives medians of the per-round ratios. The gradient
is a plain forward and backward pass in eval mode, in as many batches as the product. Every time is the least
of two.
"""

from __future__ import annotations

import copy
import random
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import matplotlib
import numpy as np
import pandas as pd
import torch
from accuracy import markdown
from problems import RESULTS, gpt, next_token_loss, resnet18
from torch import Tensor, nn

from sharpbench.sharpness import LossSurface

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

# A round of the small network takes a tenth of the other's time, and its differences are smaller.
ROUNDS = {"MLP": 61, "ResNet-18": 11, "GPT": 11}
BLOCK = 4
Pair = tuple[Tensor, Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]


def networks() -> Iterator[tuple[str, nn.Module, Pair, Loss]]:
    one_label = nn.functional.cross_entropy
    for dtype in (torch.float32, torch.float64):
        torch.manual_seed(0)
        sizes = (64, 256, 256, 10)
        layers: list[nn.Module] = []
        for fan_in, fan_out in zip(sizes[:-1], sizes[1:], strict=True):
            layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
        kind = str(dtype).removeprefix("torch.")
        labels = torch.randint(0, 10, (512,))
        mlp = nn.Sequential(*layers[:-1]).to(dtype).eval()
        yield f"MLP 64-256-256-10, 512, {kind}", mlp, (torch.randn(512, 64, dtype=dtype), labels), one_label
        resnet = resnet18(width=8).to(dtype).eval()
        images = torch.randn(32, 3, 32, 32, dtype=dtype)
        yield f"ResNet-18 width 8, 32 images, {kind}", resnet, (images, labels[:32]), one_label
        text = torch.randint(0, 65, (16, 65))
        pairs = (text[:, :-1].contiguous(), text[:, 1:].contiguous())
        yield f"GPT width 128, 16 x 64 tokens, {kind}", gpt().to(dtype).eval(), pairs, next_token_loss


class LossModule(nn.Module):
    """The loss as curvlinops wants it: a module that says that it is a mean."""

    reduction = "mean"

    def __init__(self, loss: Loss) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.loss(outputs, targets)


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def products(
    model: nn.Module, data: Pair, loss: Loss, stack: ExitStack
) -> dict[str, tuple[Callable[[], object], int]]:
    """Name → (action, products it computes)."""
    # On copies: while a session is open its model evaluates BatchNorm as an affine map, for peers too.
    one = LossSurface(copy.deepcopy(model), loss, data)
    parts = LossSurface(copy.deepcopy(model), loss, data, batch_size=len(data[1]) // 4)
    rows = torch.randn(BLOCK, one.dimension, dtype=one.dtype).T  # each vector contiguous
    found: dict[str, tuple[Callable[[], object], int]] = {
        "sharpbench": (lambda: one.hvp(rows[:, 0]), 1),
        f"sharpbench, block of {BLOCK}": (lambda: one.hvp(rows), BLOCK),
        "sharpbench, 4 batches": (lambda: parts.hvp(rows[:, 0]), 1),
    }
    for surface in (one, parts):  # graphs stay between products, as in a spectral pass
        stack.enter_context(surface.session())
    pieces = [piece.clone() for piece in one.split(rows[:, 0])]
    if any(isinstance(module, nn.Conv2d) for module in model.modules()):
        # The layout that products choose for images; what the gradient itself would cost in it.
        nhwc = copy.deepcopy(model).to(memory_format=torch.channels_last)
        images = data[0].to(memory_format=torch.channels_last)
        parameters = list(nhwc.parameters())
        found["the gradient in NHWC"] = (
            lambda: torch.autograd.grad(loss(nhwc(images), data[1]), parameters), 1
        )  # fmt: skip
    try:
        from pyhessian import hessian
        from pyhessian.utils import hessian_vector_product

        peer = hessian(model, loss, data=data, cuda=False)
        found["PyHessian, one batch"] = (lambda: hessian_vector_product(peer.gradsH, peer.params, pieces), 1)
        loader = hessian(model, loss, dataloader=[data], cuda=False)
        found["PyHessian, loader"] = (lambda: loader.dataloader_hv_product(pieces), 1)
    except ImportError as error:
        print(f"PyHessian left out: {error}")
    try:
        from curvlinops import HessianLinearOperator

        operator = HessianLinearOperator(
            model, LossModule(loss), list(model.parameters()), [data], check_deterministic=False
        )
        found["curvlinops"] = (lambda: operator @ rows[:, 0], 1)
        found[f"curvlinops, block of {BLOCK}"] = (lambda: operator @ rows, BLOCK)
    except (ImportError, TypeError) as error:
        print(f"curvlinops left out: {error}")
    try:
        from hessian_eigenthings.operators.hessian import HessianOperator

        def batch_loss(network: nn.Module, batch: Pair) -> Tensor:
            return loss(network(batch[0]), batch[1])

        thing = HessianOperator(model, [data], batch_loss)
        found["hessian-eigenthings"] = (lambda: thing.matvec(rows[:, 0]), 1)
    except ImportError as error:
        print(f"hessian-eigenthings left out: {error}")
    return found


def main() -> None:
    warnings.filterwarnings("ignore", "Using backward")
    torch.set_num_threads(1)
    records = []
    for name, model, data, loss in networks():
        parameters = list(model.parameters())

        def gradient(
            model: nn.Module = model,
            data: Pair = data,
            loss: Loss = loss,
            parameters: list[Tensor] = parameters,
        ) -> object:
            return torch.autograd.grad(loss(model(data[0]), data[1]), parameters)

        def gradient_in_parts(
            model: nn.Module = model,
            data: Pair = data,
            loss: Loss = loss,
            parameters: list[Tensor] = parameters,
        ) -> None:
            size = len(data[1]) // 4
            for x, y in zip(data[0].split(size), data[1].split(size), strict=True):
                torch.autograd.grad(loss(model(x), y), parameters)

        stack = ExitStack()
        actions = products(model, data, loss, stack)
        ratios: dict[str, list[float]] = {key: [] for key in actions}
        for action, _ in actions.values():
            for _ in range(4):
                action()  # warm: graphs, recordings, caches
        units, chance = [], random.Random(0)
        for _ in range(ROUNDS[name.split()[0]]):
            whole, cut = (min(seconds(action) for _ in range(2)) for action in (gradient, gradient_in_parts))
            units.append(whole)
            for key in chance.sample(sorted(actions), len(actions)):
                action, count = actions[key]
                unit = cut if "batches" in key else whole
                ratios[key].append(min(seconds(action) for _ in range(2)) / unit / count)
        stack.close()
        for key, values in ratios.items():
            low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
            records.append(
                {"network": name, "product": key, "gradients": round(middle, 2), "q25": round(low, 2),
                 "q75": round(high, 2), "gradient_ms": round(1e3 * float(np.median(units)), 2)}
            )  # fmt: skip
            print(f"{name:40s} {key:28s} {middle:5.2f} [{low:.2f}, {high:.2f}]", flush=True)
    frame = pd.DataFrame(records)
    RESULTS.mkdir(exist_ok=True)
    frame.to_csv(RESULTS / "hvp.csv", index=False)
    wide = frame.pivot(index="product", columns="network", values="gradients").reset_index()
    text = (
        "# Cost of a Hessian-vector product, in gradients\n\n"
        f"2 CPU cores, 1 thread, torch {torch.__version__}; medians of {ROUNDS['MLP']} "
        f"interleaved rounds (MLP) and of {ROUNDS['GPT']} (ResNet-18, GPT). "
        "`python benchmarks/hvp.py`.\n\n"
        + markdown(wide)
        + "\n\nThe unit is the gradient of the model as it is "
        "given, in NCHW memory; products on images run in NHWC, where the gradient too is cheaper (its own "
        "row). On one batch of an MLP a kept graph's second backward pass does 1.86 times a gradient's "
        "multiplications; from the third product on ours runs the recorded kernels alone, sums of matrix "
        "products in one kernel each. Of the GPT, LayerNorm, GELU, softmax and cross-entropy are evaluated "
        "in forms that are cheap to differentiate twice. In single precision the products' large matrix "
        "multiplications are oneDNN's, which on processors that MKL does not know take half of its time; "
        "the gradient's are those of the model as it is given.\n\n![cost](hvp.png)\n"
    )
    (RESULTS / "hvp.md").write_text(text, encoding="utf-8")
    figure, axes = plt.subplots(2, 3, figsize=(16, 7))
    for axis, (name, group) in zip(axes.flat, frame.groupby("network", sort=False), strict=True):
        colours = ["black" if p.startswith("sharpbench") else "silver" for p in group["product"]]
        axis.barh(group["product"], group["gradients"], color=colours)
        axis.invert_yaxis()
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("gradients per product")
    figure.tight_layout()
    figure.savefig(RESULTS / "hvp.png", dpi=90)


if __name__ == "__main__":
    main()
