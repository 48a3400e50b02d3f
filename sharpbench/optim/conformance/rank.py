"""One of the two processes of the data-parallel check."""

from __future__ import annotations

import json
import os
import pickle
import sys
from datetime import timedelta
from pathlib import Path

import torch
from torch import Tensor, nn

from .finding import describe
from .problem import Trial
from .subject import Subject

RANKS = 2
STEPS = 4
READY = "ready"


def main() -> None:
    """Reads the subjects from the folder, and appends an answer for each to a file until one fails."""
    rank, folder, seconds = int(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo",
        init_method=(folder / "store").as_uri(),
        rank=rank,
        world_size=RANKS,
        timeout=timedelta(seconds=seconds),
    )
    torch.distributed.barrier()
    (folder / f"{READY}-{rank}").touch()
    subjects: list[Subject] = pickle.loads((folder / "subjects").read_bytes())
    with _answers_file(folder, rank).open("w") as answers:
        for subject in subjects:
            answer = run(subject, rank)
            answers.write(json.dumps([subject.target, answer]) + "\n")
            answers.flush()
            if answer:
                # The other rank may be in a collective we never join: no polite end is possible.
                os._exit(0)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def run(subject: Subject, rank: int) -> str:
    """What went wrong with ``subject`` on this rank; empty when all is well."""
    try:
        # Ranks of a real run shuffle their data differently, so their global streams differ.
        torch.manual_seed(100 + rank)
        trial = Trial(subject, wrap=nn.parallel.DistributedDataParallel, shard=rank)
        for index in range(STEPS):
            trial.step(index)
            off = _spread(trial.weights())
            if not off == 0:
                return f"after step {index} the weights of the two ranks differ by {off:.1e}"
    except Exception as error:
        if "timed out" in str(error).lower():
            return "one rank waits in a collective that the other does not join"
        return describe(error)
    return ""


def answers_of(folder: Path, rank: int) -> dict[str, str]:
    """What a rank has answered so far, by target."""
    file = _answers_file(folder, rank)
    lines = file.read_text().splitlines() if file.exists() else []
    return dict(json.loads(line) for line in lines)


def _answers_file(folder: Path, rank: int) -> Path:
    return folder / f"answers-{rank}"


def _spread(weights: Tensor) -> float:
    gathered = [torch.empty_like(weights) for _ in range(RANKS)]
    torch.distributed.all_gather(gathered, weights)
    return (gathered[0] - gathered[1]).abs().max().item()
