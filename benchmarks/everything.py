"""Every measure at once on a narrow ResNet-18, against the peers for what they have: seconds and peak memory.

Run: ``python benchmarks/everything.py [SUBJECT…]``. Each subject runs in a process of its own, for its own
peak; those not named keep their rows. About 15 minutes in all.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection

import pandas as pd
import torch
from accuracy import markdown
from problems import RESULTS, resnet18
from torch import Tensor, nn

from sharpbench.sharpness import MEASURES, measure

loss = nn.functional.cross_entropy
Pair = tuple[Tensor, Tensor]


def default_card(model: nn.Module, data: Pair) -> str:
    return f"{len(measure(model, loss, data, batch_size=128).frame)} rows, each with its error"


def every_group(model: nn.Module, data: Pair) -> str:
    card = measure(model, loss, data, batch_size=128, measures=tuple(MEASURES))
    return f"{len(card.frame)} rows, each with its error"


def pyhessian(model: nn.Module, data: Pair) -> str:
    from pyhessian import hessian

    peer = hessian(model, loss, data=data, cuda=False)
    values = peer.trace(maxIter=100)
    peer.eigenvalues(maxIter=100, top_n=5)
    return f"trace ({len(values)} samples), 5 eigenvalues; density fails"


def curvlinops(model: nn.Module, data: Pair) -> str:
    from curvlinops import HessianLinearOperator, hutchinson_squared_fro, xtrace

    parts = list(zip(data[0].split(128), data[1].split(128), strict=True))
    operator = HessianLinearOperator(
        model, nn.CrossEntropyLoss(), list(model.parameters()), parts, check_deterministic=False
    )
    xtrace(operator, 50)
    hutchinson_squared_fro(operator, 50)
    return "trace (50 products), squared Frobenius norm (50)"


def eigenthings(model: nn.Module, data: Pair) -> str:
    from hessian_eigenthings.algorithms.lanczos import lanczos
    from hessian_eigenthings.operators.hessian import HessianOperator

    parts = list(zip(data[0].split(128), data[1].split(128), strict=True))
    operator = HessianOperator(model, parts, lambda network, batch: loss(network(batch[0]), batch[1]))
    lanczos(operator, k=5, max_iter=50)
    return "5 eigenvalues (50 products)"


SUBJECTS: dict[str, Callable[[nn.Module, Pair], str]] = {
    "sharpbench, default card": default_card,
    "sharpbench, every group": every_group,
    "PyHessian": pyhessian,
    "curvlinops": curvlinops,
    "hessian-eigenthings": eigenthings,
}


def alone(name: str, pipe: Connection) -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(2)
    torch.manual_seed(0)
    model = resnet18(width=8).eval()
    data = (torch.randn(512, 3, 32, 32), torch.randint(0, 10, (512,)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    try:
        what = SUBJECTS[name](model, data)
    except Exception as error:  # a peer that fails is a result of this benchmark
        what = f"failed: {type(error).__name__}: {str(error).splitlines()[0][:80]}"
    seconds = time.perf_counter() - start
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    pipe.send({"seconds": round(seconds, 1), "peak_mib": round(peak), "what": what})


def main() -> None:
    chosen = sys.argv[1:] or list(SUBJECTS)
    context = multiprocessing.get_context("spawn")
    table = RESULTS / "everything.csv"
    known = pd.read_csv(table).set_index("subject").to_dict("index") if table.exists() else {}
    for name in chosen:
        here, there = context.Pipe()
        process = context.Process(target=alone, args=(name, there))
        process.start()
        known[name] = here.recv()
        process.join()
        print(name, *known[name].values(), flush=True)
        write([{"subject": name, **known[name]} for name in SUBJECTS if name in known])


def write(rows: list[dict[str, object]]) -> None:
    frame = pd.DataFrame(rows)
    RESULTS.mkdir(exist_ok=True)
    frame.to_csv(RESULTS / "everything.csv", index=False)
    text = (
        "# Every measure at once\n\nResNet-18 of width 8, 512 random images of 32 x 32 (in batches of "
        "128 where the subject takes them), float32, 2 CPU cores, 2 threads. Peak memory above the loaded "
        "program. `python benchmarks/everything.py`.\n\n"
    )
    (RESULTS / "everything.md").write_text(text + markdown(frame) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
