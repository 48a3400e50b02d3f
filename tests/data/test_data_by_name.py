"""Data sets without a download, names, and the commands about data sets."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from archives import FILES, tiny, write_files
from typer.testing import CliRunner

from sharpbench.cli import app
from sharpbench.data import DATASETS, PUBLISHED, dataset_entry, load
from sharpbench.data.moments import pixel_moments
from sharpbench.data.text import decode, encode, read_text
from sharpbench.errors import InvalidInput


@pytest.mark.parametrize("name", ["digits", "alice"])
def test_entries_say_what_is_loaded(name: str) -> None:
    entry, data = DATASETS[name], load(name)
    assert (entry.kind, entry.shape, entry.classes) == (data.kind, data.shape, data.classes)
    assert (entry.train, entry.test) == (len(data.train), len(data.test))


def test_labels_of_a_text_are_the_characters_that_follow() -> None:
    data, text = load("alice"), read_text()
    assert torch.equal(data.train.inputs.flatten()[1:], data.train.labels.flatten()[:-1])
    assert decode(encode(text)).encode("latin-1") == text
    assert decode(data.train.inputs[0]) == text[:64].decode()
    assert decode(data.test.inputs[0]) == text[int(0.9 * len(text)) :][:64].decode("latin-1")
    assert torch.equal(data.normalise(data.train.inputs), data.train.inputs)


def test_made_up_images_can_be_told_apart_and_are_always_the_same() -> None:
    data, again = load("synthetic:3x8x8:4:400"), load("synthetic:3x8x8:4:400")
    assert torch.equal(data.train.inputs, again.train.inputs)
    assert torch.equal(data.test.inputs, again.test.inputs)
    x, y = data.normalise(data.train.inputs).flatten(1), data.train.labels
    means = torch.stack([x[y == label].mean(0) for label in range(4)])
    nearest = torch.cdist(data.normalise(data.test.inputs).flatten(1), means).argmin(1)
    assert (nearest == data.test.labels).double().mean() > 0.95
    mean, std = pixel_moments(data.train.inputs)
    assert mean == pytest.approx(data.mean, abs=1e-12)
    assert std == pytest.approx(data.std, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("cifar", "unknown dataset 'cifar'; did you mean 'cifar10'"),
        ("digits:3", "'digits' takes nothing after its name"),
        ("synthetic", "is written synthetic:CHANNELSxHEIGHTxWIDTH:CLASSES:EXAMPLES"),
        ("synthetic:3x32:10:5", "is called synthetic:"),
        ("synthetic:3x8x8:10:5", "an example of each"),
        ("synthetic:3x9999x9999:10:999999", "at most 2 GB"),
    ],
)
def test_names_that_mean_nothing(name: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        load(name)


def test_errors_of_names_say_where_they_stand() -> None:
    for name in ("cifar", "digits:3", "synthetic"):
        with pytest.raises(InvalidInput, match=r"^suite.toml: "):
            dataset_entry(name, "suite.toml")


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["data", *arguments])
    return result.exit_code, result.output


def test_fetch_list_and_verify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = FILES["mnist"]()
    published = tiny("mnist", files, "http://127.0.0.1:9/")
    monkeypatch.setitem(PUBLISHED, "mnist", published)
    monkeypatch.setenv(published.variable, str(tmp_path / "mirror"))
    write_files(tmp_path / "mirror", files)
    there = ["--to", str(tmp_path / "sets")]

    def here() -> bool:
        code, text = run("list", "--json", *there)
        assert code == 0
        (row,) = [row for row in json.loads(text) if row["name"] == "mnist"]
        assert row["download"] == sum(map(len, files.values()))
        return bool(row["here"])

    assert not here()
    code, text = run("verify", "mnist", *there)
    assert code == 2
    assert "get it by `sharpbench data fetch mnist`" in text
    code, text = run("fetch", "mnist", "digits", *there)
    assert code == 0
    assert "mnist: 50 training and 20 test examples" in text
    assert here()
    # Random pixels have not the mean of MNIST: verify must say so, and be content with the true one.
    code, text = run("verify", "mnist", *there)
    assert code == 2
    assert "but (0.13066048) is pinned" in text
    data = load_here(tmp_path)
    mean, std = pixel_moments(data)
    monkeypatch.setitem(PUBLISHED, "mnist", replace(published, mean=mean, std=std))
    code, text = run("verify", "mnist", "alice", *there)
    assert code == 0
    assert "4 parsed arrays: unchanged since parsing" in text
    (tmp_path / "mirror" / "t10k-labels-idx1-ubyte.gz").write_bytes(b"x")
    code, text = run("verify", "mnist", *there)
    assert code == 2
    assert "truncated (1 of" in text


def load_here(folder: Path) -> torch.Tensor:
    from sharpbench.data.load_published import load_published

    return load_published(PUBLISHED["mnist"], folder / "sets").train.inputs


def test_names_are_checked_before_anything_is_fetched(tmp_path: Path) -> None:
    code, text = run("fetch", "mnist", "mnits", "--to", str(tmp_path))
    assert code == 2
    assert "did you mean 'mnist'" in text
    assert list(tmp_path.iterdir()) == []


def test_the_list_is_a_table_too() -> None:
    code, text = run("list")
    assert code == 0
    for name in ("cifar10", "170 MB", "3x32x32", "alice", "tokens", "synthetic:"):
        assert name in text
