"""The command that measures a finished run or a checkpoint again."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import console, simple_table

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table
    from torch import Tensor, nn

    from ..spec import RunSpec


def measure(
    subject: Annotated[
        Path,
        typer.Argument(help="A run directory, or a checkpoint (.safetensors, or .pt with weights only)."),
    ],
    model: Annotated[str | None, typer.Option(help="Model of a checkpoint: see `list models`.")] = None,
    dataset: Annotated[str, typer.Option(help="Data set of a checkpoint: see `list datasets`.")] = "digits",
    measures: Annotated[
        list[str] | None,
        typer.Option("--measure", help="A group of measures; may be repeated. Default: the run's."),
    ] = None,
    hvps: Annotated[
        int | None,
        typer.Option(min=6, help="Budget of Hessian-vector products.", show_default="the run's, or 100"),
    ] = None,
    examples: Annotated[
        int | None, typer.Option(min=1, help="Training examples.", show_default="the run's, or 512")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the table: .csv or .parquet.")] = None,
) -> None:
    """How sharp is a trained network? One table, each value with its error.

    A run is measured on its own training set, with the labels that it was trained on.
    """
    from ..errors import InvalidInput
    from ..files import atomic_path

    if out is not None and out.suffix not in (".csv", ".parquet"):
        raise InvalidInput(f"--out must end in .csv or .parquet, but got {out.name!r}")
    network, data, settings = _load(subject, model, dataset, examples)
    if measures:
        settings["measures"] = tuple(measures)
    if hvps is not None:
        settings["hvps"] = hvps
    from ..sharpness import measure as measure_network
    from ..training.batch import mean_cross_entropy

    screen = console()
    with console(stderr=True).status("measuring loss and gradient") as status:
        card = measure_network(
            network,
            mean_cross_entropy,
            data,
            progress=lambda group: status.update(f"measuring {group}"),
            **settings,
        )
    screen.print(_table(card.frame))
    for row, note in card.notes.items():
        screen.print(f"{row}: {note}", markup=False, highlight=False)
    if out is not None:
        with atomic_path(out) as temporary:
            if out.suffix == ".csv":
                card.frame.to_csv(temporary, index=False)
            else:
                card.frame.to_parquet(temporary, index=False)
        typer.echo(str(out))


def _table(frame: pd.DataFrame) -> Table:
    """Value and interval to four digits; exact values and lower bounds have no interval to show."""
    rows: list[list[str]] = []
    row: Any
    for row in frame.itertuples(index=False):
        without = row.std_error == 0 or math.isnan(row.ci_low)
        interval = "" if without else f"[{row.ci_low:.4g}, {row.ci_high:.4g}]"
        # Rows without an interval that are not converged (lower bounds, undefined) have a note of their own.
        remark = "" if row.converged else "see note" if without else "wide"
        rows.append([row.measure, f"{row.value:.4g}", interval, str(row.hvps), remark])
    return simple_table(["measure", "value", "95 % interval", "hvps", ""], rows)


def _load(
    subject: Path, model: str | None, dataset: str, examples: int | None
) -> tuple[nn.Module, tuple[Tensor, Tensor], dict[str, Any]]:
    """The network, the examples that define its surface, and the settings of measure()."""
    from ..errors import InvalidInput

    if not subject.exists():
        raise InvalidInput(f"{subject} does not exist; pass a run directory or a checkpoint")
    if subject.is_dir():
        if model is not None:
            raise InvalidInput("--model is for checkpoints; a run directory names its own")
        return _load_run(subject, examples)
    if model is None:
        raise InvalidInput("a checkpoint needs --model NAME (see `sharpbench list models`)")
    return _load_checkpoint(subject, model, dataset, examples or 512)


def _load_run(
    directory: Path, examples: int | None
) -> tuple[nn.Module, tuple[Tensor, Tensor], dict[str, Any]]:
    import pandas as pd
    import torch

    from ..data import load
    from ..errors import InvalidInput
    from ..models import build_model
    from ..training.streams import stream, stream_seed

    for name in ("spec.json", "model.safetensors", "labels.parquet"):
        if not (directory / name).is_file():
            raise InvalidInput(f"{directory} holds no {name}; is it a finished run (OUT/runs/RUN_ID)?")
    spec = _spec(directory / "spec.json")
    data = load(spec.task.dataset)
    labels = pd.read_parquet(directory / "labels.parquet")
    network = build_model(spec.task.model, data.shape, data.classes)
    _fill(network, directory / "model.safetensors")
    # The examples that the run itself was measured on, unless another number is asked for.
    size = min(examples or spec.measure.examples, len(labels))
    chosen = torch.randperm(len(labels), generator=stream(spec.seed, "measure_examples"))[:size]
    index = torch.tensor(labels["index"].to_numpy())[chosen]
    inputs = data.normalise(data.train.inputs[index])
    if "label" in labels:
        targets = torch.tensor(labels["label"].to_numpy(), dtype=torch.int64)[chosen]
    else:  # a text is its own labels
        targets = data.train.labels[index]
    settings = {
        "measures": spec.measure.measures,
        "hvps": spec.measure.hvps,
        "rho": spec.measure.rho,
        "damping": spec.measure.damping,
        "seed": stream_seed(spec.seed, "measure_probes") % 2**31,
    }
    return network, (inputs, targets), settings


def _load_checkpoint(
    path: Path, model: str, dataset: str, examples: int
) -> tuple[nn.Module, tuple[Tensor, Tensor], dict[str, Any]]:
    from ..data import load
    from ..models import build_model

    data = load(dataset)
    network = build_model(model, data.shape, data.classes)
    _fill(network, path)
    inputs = data.normalise(data.train.inputs[:examples])
    return network, (inputs, data.train.labels[:examples]), {}


def _spec(path: Path) -> RunSpec:
    from pydantic import ValidationError

    from ..errors import InvalidInput
    from ..spec import RunSpec

    try:
        return RunSpec.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (ValidationError, ValueError) as error:
        raise InvalidInput(f"{path} is not a run's specification: {str(error).splitlines()[0]}") from error


def _fill(network: nn.Module, path: Path) -> None:
    """Load weights: safetensors, or a torch file that holds tensors only."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from ..errors import InvalidInput

    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
            state = state.get("model", state.get("state_dict", state))
        network.load_state_dict(state)
    except (SafetensorError, RuntimeError, OSError, AttributeError, EOFError) as error:
        raise InvalidInput(
            f"{path} does not hold the weights of this network: {str(error).splitlines()[0]}"
        ) from error
    except Exception as error:
        # torch.load's own refusal of anything but tensors is a pickle error.
        if type(error).__name__ != "UnpicklingError":
            raise
        raise InvalidInput(
            f"{path} holds more than tensors and is not loaded; save model.state_dict()"
        ) from error
    network.eval()
