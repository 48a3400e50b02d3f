"""Every optimizer trained on shared mini-batches: run by torchrun, or alone for the reference.

``python rank_training.py DIRECTORY NAME...`` writes ``NAME.safetensors`` into the directory.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from sharpbench.bench.ready import make_ready
from sharpbench.spec import RunSpec
from sharpbench.training.loop import train
from sharpbench.training.parallel import torchrun_ranks


def main(directory: Path, names: list[str]) -> None:
    torch.set_num_threads(1)
    with torchrun_ranks() as ranks:
        for name in names:
            spec = RunSpec(
                task={"model": "mlp", "epochs": 2, "lr": 0.05, "train_fraction": 0.2, "micro_batches": 2},
                optimizer={"name": name, "label": name},
            )
            ready = make_ready(spec, torch.device("cpu"))
            ready.model.double()
            examples = [
                type(part)(part.inputs.double(), part.labels) for part in (ready.train_set, ready.test_set)
            ]
            course = train(ready.model, spec.task, spec.optimizer, 0, examples[0], examples[1], ranks=ranks)
            if ranks.first:
                save_file(
                    {
                        **ready.model.state_dict(),
                        "train_loss": torch.tensor(course.history[-1]["train_loss"], dtype=torch.float64),
                    },
                    directory / f"{name}.safetensors",
                )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
