"""Is this machine fit to run suites? Versions, devices, threads, space."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from .diagnosis import Finding

SUPPORTED_PYTHON = ((3, 11), (3, 13))
LITTLE_SPACE = 2**30
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def environment(place: Path) -> Iterator[Finding]:
    """Everything worth knowing before a suite is started; ``place`` is where runs would be written."""
    yield _python()
    yield from _packages()
    yield from _device()
    yield from _threads()
    yield _space(place)
    yield from _writable({"place of the runs": place, "temporary files": Path(tempfile.gettempdir()),
                          "cache": cache_folder()})  # fmt: skip


def tested_versions() -> dict[str, str]:
    """Package → version, as ``constraints.txt`` pins what the tests ran with; empty without that file.

    >>> tested_versions()["torch"]
    '2.13.0'
    """
    package = Path(__file__).resolve().parent.parent
    for path in (package / "constraints.txt", package.parent / "constraints.txt"):
        if path.is_file():
            lines = path.read_text(encoding="utf-8").splitlines()
            pins = (line.partition("==") for line in lines if "==" in line and not line.startswith("#"))
            return {name.strip().lower().replace("_", "-"): pin.strip() for name, _, pin in pins}
    return {}


def cache_folder() -> Path:
    """Where libraries keep what they download or compute once."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def _python() -> Finding:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    low, high = SUPPORTED_PYTHON
    if low <= sys.version_info[:2] <= high:
        return Finding("ok", "python", found)
    return Finding("note", "python", f"{found}; tested are {low[0]}.{low[1]} to {high[0]}.{high[1]}")


def _packages() -> Iterator[Finding]:
    tested = tested_versions()
    others = []
    for name in _dependencies():
        try:
            found = version(name)
        except PackageNotFoundError:
            yield Finding("wrong", name, "is not installed; pip install -c constraints.txt sharpbench")
            continue
        pin = tested.get(name)
        if pin is not None and found.partition("+")[0] != pin:
            others.append(f"{name} {found} (tested: {pin})")
    if others:
        yield Finding("note", "packages", f"other versions than tested: {', '.join(others)}")
    else:
        yield Finding("ok", "packages", f"as tested, torch {version('torch')}")


def _dependencies() -> list[str]:
    """Names of what sharpbench needs, extras aside."""
    try:
        declared = requires("sharpbench") or []
    except PackageNotFoundError:
        declared = ["torch", "numpy", "scipy", "pandas", "pyarrow", "pydantic", "filelock"]
    names = []
    for requirement in declared:
        if "extra ==" not in requirement:
            name = "".join(c if c.isalnum() or c in "-_." else " " for c in requirement).split()[0]
            names.append(name.lower().replace("_", "-"))
    return names


def _device() -> Iterator[Finding]:
    import torch

    if not torch.cuda.is_available():
        yield Finding("ok", "devices", "the CPU; torch sees no CUDA device")
        return
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        yield Finding("ok", f"cuda:{index}", f"{name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free")


def _threads() -> Iterator[Finding]:
    from .launch.slots import available_cores

    cores = available_cores()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    busy = f"; load {load:.1f}" if load > 0.5 else ""
    yield Finding("ok", "cores", f"{cores} may be used (of {os.cpu_count()}){busy}")
    if load > cores:
        yield Finding("note", "cores", "others are computing here: timings will mean little")
    for name in THREADS:
        value = os.environ.get(name, "")
        if value and (not value.isdigit() or int(value) > cores):
            yield Finding("note", name, f"is {value!r}; runs set their own number of threads (task.threads)")


def _space(place: Path) -> Finding:
    existing = next((path for path in (place, *place.absolute().parents) if path.exists()), Path("/"))
    free = shutil.disk_usage(existing).free
    text = f"{free / 2**30:.1f} GiB free for {place}"
    return Finding("ok" if free > LITTLE_SPACE else "note", "disk", text)


def _writable(places: dict[str, Path]) -> Iterator[Finding]:
    for name, place in places.items():
        existing = next((path for path in (place, *place.absolute().parents) if path.exists()), Path("/"))
        try:
            # Tried, not asked: permissions don't tell of read-only mounts and full disks.
            with tempfile.NamedTemporaryFile(dir=existing) as probe:
                probe.write(b"x")
                probe.flush()
        except OSError as error:
            yield Finding("wrong", name, f"{existing} can't be written ({error.strerror})")
