"""What `sharpbench check` finds in public optimizers: docs/conformance.md is written by this script.

    python benchmarks/peers_conformance.py [--davda54 DIR]

pytorch_optimizer's SAM, GSAM, LookSAM and BSAM where it is installed, davda54/sam where the folder
that holds its sam.py is given, and this package's SAM beside them. Writes
benchmarks/results/peers_conformance.csv and docs/conformance.md.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
import warnings
from pathlib import Path

import pandas as pd

from sharpbench.errors import InvalidInput
from sharpbench.optim import OPTIMIZERS
from sharpbench.optim.conformance import CHECKS, Conformance, check

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
PEERS = ("SAM", "GSAM", "LookSAM", "BSAM")
MARKS = {"pass": "pass", "fail": "**fails**", "skip": "–"}

HEAD = """# Conformance

`sharpbench check NAME` or `sharpbench check MODULE:CLASS` runs an optimizer, yours or anybody's, through \
{checks} checks of what a sharpness-aware optimizer promises; `sharpbench check --all` runs the \
{ours} registered ones, which pass. It prints what was seen, and the usual cause of each failure:

```
sharpbench check my_package.my_sam:MySAM --set rho=0.1
```

Three constructors are understood, `Cls(base, ...)`, `Cls(params, base_optimizer, rho=...)` and \
`Cls(params, lr=...)`, and the ways in which published ports step (`step(closure)`, with or without the \
gradient at x computed before; `first_step` and `second_step`). What an optimizer does not claim is \
skipped (–), not failed: one without a closure contract can't count its evaluations, say.

A class may say what it means to be different, as attributes: `evaluates_at_weights = False` where every \
pass is at a perturbed point (momentum SAM), `perturbation_has_length_rho = False` where a perturbation \
along the gradient is meant to have another length than rho (unnormalised SAM; a parameter \
`normalize=False` says it too). Whether a perturbation is made from the gradient at all, and whether it lies \
along it, is found out by trying: random, preconditioned and masked perturbations are not measured by a rule \
that isn't theirs.

"""

PEER_HEAD = """## Public implementations

Written by `python benchmarks/peers_conformance.py` with {versions}.

"""


def judged(davda54: Path | None) -> dict[str, Conformance | str]:
    """Title → the findings, or why there are none."""
    targets = {"sharpbench SAM": "sam"}
    if davda54 is not None:
        sys.path.insert(0, str(davda54))
        targets["davda54/sam"] = "sam:SAM"
    targets |= {f"pytorch_optimizer {name}": f"pytorch_optimizer:{name}" for name in PEERS}
    results: dict[str, Conformance | str] = {}
    for title, target in targets.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the peers' own
                results[title] = check(target)
        except InvalidInput as error:
            results[title] = str(error)
        print(results[title], flush=True)
    return results


def _cell(text: str) -> str:
    """One cell of a Markdown table: a norm's bars are no borders."""
    return " ".join(text.split()).replace("|", "\\|")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--davda54", type=Path, help="folder that holds sam.py of davda54/sam")
    results = judged(parser.parse_args().davda54)
    found = {title: result for title, result in results.items() if isinstance(result, Conformance)}
    frames = [result.frame.assign(optimizer=title) for title, result in found.items()]
    table = pd.concat(frames)[["optimizer", "check", "status", "detail", "usual_cause"]]
    RESULTS.mkdir(exist_ok=True)
    table.to_csv(RESULTS / "peers_conformance.csv", index=False)
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("torch", "pytorch_optimizer")
    )
    text = [HEAD.format(checks=len(CHECKS), ours=len(OPTIMIZERS)), PEER_HEAD.format(versions=versions)]
    text.append("| check | " + " | ".join(found) + " |\n|---|" + "---|" * len(found) + "\n")
    for one in CHECKS:
        marks = [next(f for f in r.findings if f.check == one.name).status for r in found.values()]
        text.append(f"| {one.name} | " + " | ".join(MARKS[mark] for mark in marks) + " |\n")
    for title, reason in results.items():
        if isinstance(reason, str):
            text.append(f"\n{title}: {reason}\n")
    text.append("\n## What was seen\n")
    for title, result in found.items():
        if result.failures:
            text.append(f"\n**{title}**\n\n")
            text += [f"- {f.check}: {f.detail}\n" for f in result.failures]
    text.append("\n## The checks\n\n| check | what is promised |\n|---|---|\n")
    text += [f"| {one.name} | {_cell(one.asserts)} |\n" for one in CHECKS]
    (ROOT / "docs" / "conformance.md").write_text("".join(text), encoding="utf-8")


if __name__ == "__main__":
    main()
