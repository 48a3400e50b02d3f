"""The commands about data sets: list, fetch, verify."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from .console import console, simple_table

app = typer.Typer(
    name="data", help="Data sets: which there are, fetch them, verify them.", no_args_is_help=True
)

Names = Annotated[list[str], typer.Argument(metavar="NAME...", help="Data sets: see `sharpbench data list`.")]
Folder = Annotated[
    Path | None,
    typer.Option(
        "--to", help="Folder of all data sets.", show_default="$SHARPBENCH_DATA, or the user's cache"
    ),
]


@app.command("list")
def list_datasets(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
    folder: Folder = None,
) -> None:
    """Every data set: its kind, shape, classes and sizes, and whether it is on this machine."""
    entries = [_row(name, folder) for name in _registered()]
    if as_json:
        typer.echo(json.dumps(entries, indent=2, ensure_ascii=False))
        return
    keys = ["name", "kind", "shape", "classes", "train", "test", "download", "here"]
    console().print(simple_table(keys, [[_cell(key, entry[key]) for key in keys] for entry in entries]))


@app.command()
def fetch(names: Names, folder: Folder = None) -> None:
    """Download what is missing, check it, and parse it; later runs need no network."""
    from ..data import PUBLISHED, data_folder, dataset_entry, load
    from ..data.load_published import load_published

    entries = [dataset_entry(name) for name in names]  # an unknown name is refused before anything is fetched
    root = folder or data_folder()
    for name, entry in zip(names, entries, strict=True):
        if entry.name in PUBLISHED:
            data = load_published(PUBLISHED[name], root, progress=True)
            place = f"in {root / name}"
        else:
            data = load(name)
            place = "ready"
        typer.echo(f"{name}: {len(data.train)} training and {len(data.test)} test examples, {place}")


@app.command()
def verify(names: Names, folder: Folder = None) -> None:
    """Check again: checksums, counts, ranges of labels, pinned mean and deviation."""
    from ..data import dataset_entry
    from ..data.verify import verify as verify_one

    for name in names:
        dataset_entry(name)
    for name in names:
        typer.echo(f"{name}: ok")
        for line in verify_one(name, folder):
            typer.echo(f"  {line}")


def _registered() -> list[str]:
    from ..data import DATASETS

    return list(DATASETS)


def _row(name: str, folder: Path | None) -> dict[str, Any]:
    from ..data import DATASETS, PUBLISHED
    from ..data.verify import present

    entry = DATASETS[name]
    published = PUBLISHED.get(name)
    return {
        "name": entry.form or name,
        "kind": entry.kind,
        "shape": None if entry.shape is None else list(entry.shape),
        "classes": entry.classes,
        "train": entry.train,
        "test": entry.test,
        "download": 0 if published is None else published.download,
        # Whether a family is here depends on the rest of its name.
        "here": present(published, folder) if published else None if _own_files(name) else True,
        "summary": entry.summary,
    }


def _own_files(name: str) -> bool:
    """Whether the data set is read from files that the user brings."""
    return name in ("imagenet", "parquet", "hub")


def _cell(key: str, value: Any) -> str:
    from ..data.places import megabytes

    if value is None:
        return "yours" if key == "here" else "any"
    if key == "shape":
        return "x".join(str(side) for side in value)
    if key == "download":
        return megabytes(value) if value else ""
    if key == "here":
        return "yes" if value else "no"
    return str(value)
