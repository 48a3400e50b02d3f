"""The tests of numbers as other processors would compute them: ``python tests/portable.py [ARGUMENT …]``.

Arguments are pytest's.

PyTorch, MKL, oneDNN and OpenBLAS choose their kernels by the processor's instructions and by the number of
threads, and each choice rounds differently. Their environment variables make this processor choose as
another one would, so that a test that holds on one kind of processor only is found here. Every configuration
is a run of pytest of its own; all of them run, and the script fails if one fails.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROCESSORS = {
    "no vector instructions": {
        "ATEN_CPU_CAPABILITY": "default",
        "MKL_CBWR": "COMPATIBLE",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "OPENBLAS_CORETYPE": "Prescott",
    },
    "AVX2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_CBWR": "COMPATIBLE",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "OPENBLAS_CORETYPE": "Haswell",
    },
}
# Each with another number of threads: every combination would take twice as long.
THREADS = {"no vector instructions": 1, "AVX2": 2}
COMMAND = [sys.executable, "-m", "pytest", "-q", "-n", "2", "-m", "equality", "-p", "no:cacheprovider"]


def closing_line(variables: dict[str, str], arguments: list[str]) -> tuple[int, str]:
    """Pytest's exit code and the last line it printed; all of its output is shown if it fails."""
    environment = os.environ | variables | {"PYTHONPATH": str(ROOT)}
    # Threads that wait for each other must not keep the cores from the other tests.
    environment["OMP_WAIT_POLICY"] = "PASSIVE"
    done = subprocess.run(
        [*COMMAND, *arguments], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        print(done.stdout, flush=True)
    return done.returncode, done.stdout.rstrip().rpartition("\n")[2]


def main(arguments: list[str]) -> int:
    failed = False
    for processor, variables in PROCESSORS.items():
        threads = str(THREADS[processor])
        count = {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        started = time.monotonic()
        code, line = closing_line(variables | count, arguments)
        failed |= code != 0
        seconds = time.monotonic() - started
        print(f"{processor}, {threads} thread(s), {seconds:.0f} s: {line}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
