"""Mutations, all drawn from hypothesis: of bytes, of nested values, and of files in a folder."""

from __future__ import annotations

import copy
import json
import os
import shutil
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

DEEP: Any = None
for _ in range(200):
    DEEP = [DEEP]
# What somebody, or a failing disk, might put where something else was expected.
ODD: list[Any] = [
    None, True, False, 0, 1, -1, 3, 0.5, -0.0, 1e308, 1e-320, float("nan"), float("inf"), -float("inf"),
    2**31, 2**63, 2**64, 10**400, "", " ", "\n", "a\tb", "\x1b[2J", "\0", "𝔖𝔞𝔪", "\ud800", "../..", "/etc",
    "sgd", "sam", "done", "nan", "1", "x" * 5000, "a:b", ":", "json:dumps", [], [[]], [None], [0, 0], {},
    {"": {}}, {"seed": 0}, DEEP,
]  # fmt: skip
odd_values = st.sampled_from(ODD)


def mutated_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """One to three cuts, insertions, repetitions or flips."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(content)))
        stop = min(len(content), start + draw(st.integers(0, 40)))
        kind = draw(st.sampled_from(["cut", "end", "insert", "repeat", "flip"]))
        if kind == "cut":
            content = content[:start] + content[stop:]
        elif kind == "end":
            content = content[:start]
        elif kind == "insert":
            content = content[:start] + draw(st.binary(max_size=12)) + content[start:]
        elif kind == "repeat":
            content = content[:stop] + content[start:stop] * draw(st.integers(1, 50)) + content[stop:]
        else:
            content = content[:start] + bytes(b ^ 0x55 for b in content[start:stop]) + content[stop:]
    return content


def mutated_value(draw: st.DrawFn, value: Any) -> Any:
    """One to three entries, anywhere, replaced, dropped, renamed or doubled."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 3))):
        value = _mutated_once(draw, value)
    return value


def _mutated_once(draw: st.DrawFn, value: Any) -> Any:
    if not isinstance(value, dict | list) or not value or draw(st.integers(0, 9)) == 0:
        return copy.deepcopy(draw(odd_values))
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = draw(st.sampled_from(keys))
    kind = draw(st.sampled_from(["within", "within", "within", "drop", "rename", "double"]))
    if kind == "within":
        value[key] = _mutated_once(draw, value[key])
    elif kind == "drop":
        del value[key]
    elif isinstance(value, list):
        value.append(copy.deepcopy(value[key]))
    else:
        name = draw(st.one_of(st.sampled_from([*keys, "", "a.b", "𝔖", "rho", "seed"]), st.text(max_size=5)))
        value[name] = value.pop(key) if kind == "rename" else copy.deepcopy(value[key])
    return value


def mutate_file(draw: st.DrawFn, path: Path) -> str:
    """Damage one file on disk; returns what was done."""
    kinds = ["bytes", "bytes", "empty", "gone", "folder", "loop", "dangling", "pipe", "device", "unreadable"]
    kind = draw(st.sampled_from([*kinds, *(["json"] * 8 if path.suffix == ".json" else [])]))
    content = path.read_bytes()
    if kind == "json" and not _is_json(content):  # damaged before
        kind = "bytes"
    if kind == "json":
        value = mutated_value(draw, json.loads(content))
        # Python's NaN and Infinity, and lone surrogates as escapes: what json.loads accepts again.
        path.write_text(json.dumps(value), encoding="utf-8")
    elif kind == "bytes":
        path.write_bytes(mutated_bytes(draw, content))
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "unreadable":
        path.chmod(0)
    else:
        path.unlink()
        if kind == "folder":
            path.mkdir()
            (path / "inside").write_bytes(content)
        elif kind == "loop":
            path.symlink_to(path.name)
        elif kind == "dangling":
            path.symlink_to("nowhere")
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind == "device":
            path.symlink_to("/dev/zero")
    return f"{kind} {path.name}"


def _is_json(content: bytes) -> bool:
    try:
        json.loads(content)
    except ValueError:
        return False
    return True


def mutate_folder(draw: st.DrawFn, folder: Path) -> list[str]:
    """Damage one to three things below ``folder``."""
    done = []
    for _ in range(draw(st.integers(1, 3))):
        files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
        if not files:
            break
        path = draw(st.sampled_from(files))
        kind = draw(st.sampled_from(["file", "file", "file", "file", "swap", "stranger", "run"]))
        if kind == "swap":
            other = draw(st.sampled_from(files))
            content = path.read_bytes()
            path.write_bytes(other.read_bytes())
            other.write_bytes(content)
            done.append(f"swap {path.name} {other.name}")
        elif kind == "stranger":
            name = draw(st.sampled_from(["0" * 16, "𝔖", " ", ".tmp", "result.json", "\udcff"]))
            (path.parent / name).mkdir(exist_ok=True) if not (path.parent / name).exists() else None
            done.append(f"stranger {name!a}")
        elif kind == "run" and path.parent != folder:
            parent = path.parent
            shutil.rmtree(parent)
            how = draw(st.sampled_from(["file", "link", "gone"]))
            if how == "file":
                parent.write_bytes(b"not a directory")
            elif how == "link":
                parent.symlink_to(parent.name)
            done.append(f"run {how}")
        else:
            done.append(mutate_file(draw, path))
    return done


def toml_text(table: dict[str, Any]) -> str:
    """A table as TOML, as far as TOML can say it; what it can't say becomes what Python would print."""
    lines = [f"{_key(key)} = {_inline(value)}" for key, value in table.items() if not _is_section(value)]
    for key, value in table.items():
        if _is_section(value):
            for inner in [value] if isinstance(value, dict) else value:
                lines.append(f"[{_key(key)}]" if isinstance(value, dict) else f"[[{_key(key)}]]")
                lines += [f"{_key(name)} = {_inline(entry)}" for name, entry in inner.items()]
    return "\n".join(lines) + "\n"


def _is_section(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(isinstance(entry, dict) for entry in value)
    return isinstance(value, dict)


def _key(key: str) -> str:
    return key if key.isidentifier() and key.isascii() else json.dumps(key)


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(key)} = {_inline(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_inline(entry) for entry in value) + "]"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else str(value)
