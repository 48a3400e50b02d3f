"""A training in its own process, for tests that kill it: ``python killed_training.py SPEC DIRECTORY``."""

import sys
from pathlib import Path

from sharpbench.bench.run import execute
from sharpbench.spec import RunSpec

if __name__ == "__main__":
    spec, directory = Path(sys.argv[1]), Path(sys.argv[2])
    print("ready", flush=True)
    execute(RunSpec.model_validate_json(spec.read_text()), directory)
