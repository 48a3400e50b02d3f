"""One rank of two: every optimizer on half of each mini-batch. Run by test_optim_ddp.py."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from optim_problem import NAMES, Problem, problem, sgd
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sharpbench.functionals import log_det_measure
from sharpbench.optim import SharpnessAware, UniversalSAM, build, complete_parameters

STEPS = 4
# Parameters under which a rule shows all it has within four steps.
SET: dict[str, dict[str, Any]] = {
    "esam": {"beta": 1.0, "gamma": 1.0},  # every example; otherwise each rank chooses among its own
    "frob_sam": {"weight": 0.5, "rho": 0.05},
    "looksam": {"k": 2},
    "ssam_d": {"update_every": 2},
    "ssam_f": {"update_every": 2},
    "trace_sam": {"n_samples": 2, "sampling": "antithetic"},
}
CASES = [*NAMES, "universal"]


def optimizer(name: str, p: Problem, model: nn.Module | None) -> SharpnessAware:
    base = sgd(p.model, weight_decay=0.01)
    if name == "universal":
        return UniversalSAM(base, log_det_measure(1.0), rho=0.1, n_samples=2, model=model)
    return build(name, base, model, **complete_parameters(name, SET.get(name, {}), total_steps=STEPS))


def weights_after(name: str, rank: int | None) -> Tensor:
    """After STEPS steps, alone (rank None) or as one of two."""
    p = problem(seed=3)
    model = None
    if rank is not None:
        p.batches = [(x.chunk(2)[rank], y.chunk(2)[rank]) for x, y in p.batches]
        plain = p.model
        model = p.model = DistributedDataParallel(plain)
        p.model, opt = model, optimizer(name, Problem(plain, p.batches), model)
        p.run(opt, STEPS)
        p.model = plain
    else:
        p.run(optimizer(name, p, None), STEPS)
    return p.weights()


def main() -> None:
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=(folder / "meeting").as_uri(), rank=rank, world_size=2)
    torch.save({name: weights_after(name, rank) for name in CASES}, folder / f"weights-{rank}")
    dist.barrier()
    # No orderly end: on a busy machine PyTorch's own clean-up sometimes aborts the process.
    os._exit(0)


if __name__ == "__main__":
    main()
