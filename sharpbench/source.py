"""The source of an optimizer of one's own: its module, and what that imports from its own package."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib
import importlib.machinery
import importlib.util
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

#: in place of a digest: the source can't be read, or changed while it was being loaded
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Source:
    """The files of a module and of what it imports from its own package, as they were at one time.

    Attributes:
        digests: module → SHA-256 of its file.
        files: module → its file.
    """

    digests: dict[str, str]
    files: dict[str, Path]

    @property
    def digest(self) -> str:
        """First 16 hex digits of the SHA-256 over all of it, or UNKNOWN where there is no source."""
        if not self.digests:
            return UNKNOWN
        lines = [f"{name} {digest}\n" for name, digest in sorted(self.digests.items())]
        return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class _Loaded:
    source: Source
    digest: str
    # Modules that its code imports later, if at all.
    lazy: frozenset[str]


_loaded: dict[str, _Loaded] = {}


def read_source(module: str) -> Source:
    """The source of ``module`` on disk now; nothing is imported.

    The files are those of the module, of the packages it lies in, and of every module that these import,
    at the top or inside of functions, directly or through others, as far as it belongs to the same
    top-level package or lies beside it in the same folder (not so in site-packages). Of modules without
    Python source (compiled ones) the file itself counts.

    >>> read_source("sys").digest, read_source("no_such_module").digest
    ('unknown', 'unknown')
    >>> list(read_source("colorsys").files)
    ['colorsys']
    """
    importlib.invalidate_caches()
    top = module.partition(".")[0]
    finder = _Finder(top)
    digests: dict[str, str] = {}
    files: dict[str, Path] = {}
    seen: set[str] = set()
    ahead = [module]
    while ahead:
        name = ahead.pop()
        if name in seen:
            continue
        seen.add(name)
        parent = name.rpartition(".")[0]
        if parent:
            ahead.append(parent)
        found = finder.find(name)
        if found is None or found.file is None:
            continue
        try:
            content = found.file.read_bytes()
        except OSError:
            continue
        files[name], digests[name] = found.file, hashlib.sha256(content).hexdigest()
        if found.file.suffix == ".py":
            ahead += _imported(content, name if found.folders else parent)
    # Without the module itself (it is given by a loader of its own, say) the rest tells nothing.
    return Source(digests, files) if module in digests else Source({}, {})


def load_module(module: str) -> ModuleType:
    """The module, imported with the source that :func:`loaded_digest` tells of; raises what that raises."""
    known = sys.modules.get(module)
    if module in _loaded and known is not None:
        return known
    before = read_source(module)
    if known is None:
        for path in before.files.values():
            _discard_stale_bytecode(path)
    imported = importlib.import_module(module)
    digest = before.digest if read_source(module).digests == before.digests else UNKNOWN
    lazy = frozenset(name for name in before.files if name not in sys.modules)
    _loaded[module] = _Loaded(before, digest, lazy)
    return imported


def loaded_digest(module: str) -> str:
    """The digest of the source that runs in this process, imported if need be; later edits don't change it.

    It is UNKNOWN where that can't be told: no source, or an edit before a part of it was imported.
    """
    load_module(module)
    found = _loaded[module]
    for name in found.lazy:
        if name in sys.modules and _digest_of(found.source.files[name]) != found.source.digests[name]:
            return UNKNOWN
    return found.digest


def refresh(module: str) -> str:
    """The digest of the source on disk. If this process has loaded another, it will import it anew."""
    now = read_source(module)
    known = _loaded.get(module)
    if known is not None and now.digests != known.source.digests:
        for name in {*known.source.files, *now.files}:
            sys.modules.pop(name, None)
            _loaded.pop(name, None)
        _loaded.pop(module, None)
    return now.digest


def module_of(optimizer: str) -> str:
    """The module of ``MODULE:CLASS``; empty for a registered name.

    >>> module_of("my_package.my_sam:MySAM"), module_of("sam")
    ('my_package.my_sam', '')
    """
    return optimizer.partition(":")[0] if ":" in optimizer else ""


@dataclass(frozen=True)
class _Found:
    """A module's file (None of a package without ``__init__``), and the folders its submodules lie in."""

    file: Path | None
    folders: tuple[Path, ...] = ()


class _Finder:
    """Finds modules by name among those that belong together, without importing any."""

    def __init__(self, top: str) -> None:
        found = _find_top(top)
        self._found: dict[str, _Found | None] = {top: found}
        folder = None
        if found is not None and (place := next(iter(found.folders), found.file)) is not None:
            folder = place.parent
        # Beside it; sharpbench itself has a digest of its own.
        self._beside = () if folder is None or _is_installed(folder) else (folder,)

    def find(self, name: str) -> _Found | None:
        if name not in self._found:
            parent, _, own = name.rpartition(".")
            if parent:
                above = self.find(parent)
                folders = above.folders if above is not None else ()
            else:
                folders = self._beside if own != "sharpbench" else ()
            self._found[name] = _find_in(folders, own)
        return self._found[name]


def _find_top(top: str) -> _Found | None:
    """A top-level module, wherever Python's own finders find it."""
    if top == "__main__":  # another module in another process
        return None
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):  # made by hand
        return None
    if spec is None:
        return None
    file = Path(spec.origin) if spec.has_location and spec.origin is not None else None
    return _Found(file, tuple(Path(place) for place in spec.submodule_search_locations or ()))


def _find_in(folders: tuple[Path, ...], name: str) -> _Found | None:
    """A module in one of the folders, looked for in Python's order: package, module, bare folder."""
    for folder in folders:
        for suffix in importlib.machinery.all_suffixes():
            if (file := folder / name / f"__init__{suffix}").is_file():
                return _Found(file, (folder / name,))
        for suffix in importlib.machinery.all_suffixes():
            if (file := folder / f"{name}{suffix}").is_file():
                return _Found(file)
    bare = tuple(folder / name for folder in folders if (folder / name).is_dir())
    return _Found(None, bare) if bare else None


def _is_installed(folder: Path) -> bool:
    """Whether unrelated modules lie in this folder: those of installed packages, or Python's own."""
    if {"site-packages", "dist-packages"} & set(folder.parts):
        return True
    paths = sysconfig.get_paths()
    return folder.resolve() in {Path(paths[name]).resolve() for name in ("stdlib", "platstdlib")}


def _imported(content: bytes, package: str) -> Iterator[str]:
    """Names of what the code may import as a module, some of which are none."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute("." * node.level + (node.module or ""), package)
            if base:
                yield base
                yield from (f"{base}.{alias.name}" for alias in node.names if alias.name != "*")
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            name = node.args[0].value
            if called in ("import_module", "__import__") and isinstance(name, str):
                yield _absolute(name, package)


def _absolute(name: str, package: str) -> str:
    """A relative name (leading dots) seen from ``package``; empty where it leads out of everything."""
    rest = name.lstrip(".")
    up = len(name) - len(rest)
    if not up:
        return rest
    parts = package.split(".") if package else []
    if up > len(parts):
        return ""
    return ".".join([*parts[: len(parts) - up + 1], *([rest] if rest else [])])


def _discard_stale_bytecode(path: Path) -> None:
    """Python takes bytecode for that of a source whose size and second of change are the same.

    An edit within a second of the last import would not be seen by a fresh process.
    """
    with contextlib.suppress(OSError, NotImplementedError, ValueError):
        bytecode = Path(importlib.util.cache_from_source(str(path)))
        if bytecode.stat().st_mtime_ns <= path.stat().st_mtime_ns:
            bytecode.unlink()


def _digest_of(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""
