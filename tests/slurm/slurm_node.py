"""The one-node Slurm of the tests: started by ``start.sh`` here, or a reason why it can't be."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

START = Path(__file__).parent / "start.sh"
CANNOT = 77  # the exit code of start.sh where Slurm can't be had


@contextlib.contextmanager
def one_node() -> Iterator[str]:
    """In the block, Slurm's commands reach a node of this machine; yields a reason if they can't."""
    if shutil.which("bash") is None:
        yield "no bash"
        return
    started = subprocess.run(
        ["bash", str(START)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if started.returncode == CANNOT:
        yield started.stderr.strip().splitlines()[-1]
        return
    assert started.returncode == 0, started.stderr
    exported = dict(re.findall(r"^export (\w+)=(.*)$", started.stdout, re.MULTILINE))
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = exported["SLURM_CONF"]
    try:
        yield ""
    finally:
        subprocess.run([exported["SLURM_STOP"]], check=False)
        if before is None:
            del os.environ["SLURM_CONF"]
        else:
            os.environ["SLURM_CONF"] = before
