"""Checkpoints: everything that is remembered is saved, and nothing else."""

from __future__ import annotations

import io
from typing import Any

import torch
from torch import Tensor

from .finding import Defect, promise
from .problem import Trial
from .subject import Subject

STEPS = 4


@promise(
    "state_dict loads with weights_only=True",
    "classes or functions in the state (a generator object, a numpy array, a dataclass): save tensors, "
    "numbers, strings, lists and dicts",
)
def loads_safely(subject: Subject) -> str:
    """``state_dict`` survives ``torch.save`` and ``torch.load(weights_only=True)`` unchanged."""
    trial = Trial(subject)
    trial.run(STEPS)
    state = trial.optimizer.state_dict()
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    differing = _difference(state, torch.load(file, weights_only=True))
    if differing:
        raise Defect(f"the file differs from the state at {differing}")
    return f"{len(file.getvalue())} bytes"


@promise(
    "state_dict round trip is bitwise",
    "load_state_dict that converts or drops entries (float64 state cast to float32, counters not restored)",
)
def round_trip(subject: Subject) -> None:
    """What is loaded into a fresh optimizer comes out of its ``state_dict`` bit for bit."""
    trial, fresh = Trial(subject), Trial(subject)
    trial.run(STEPS)
    state = trial.optimizer.state_dict()
    fresh.optimizer.load_state_dict(_copy(state))
    differing = _difference(state, fresh.optimizer.state_dict())
    if differing:
        raise Defect(f"loaded and saved again, the state differs at {differing}")


@promise(
    "resume equals uninterrupted",
    "a memory kept outside the state (an EMA of gradients, a mask, a step counter, a generator), or the base "
    "optimizer's momentum not saved",
)
def resumes(subject: Subject) -> str:
    """4 steps, checkpoint to a file, 4 steps in a fresh process of mind: the same weights as 8 steps."""
    whole = _seeded(Trial(subject, batchnorm=True), 0, 2 * STEPS)
    first = _seeded(Trial(subject, batchnorm=True), 0, STEPS)
    file = io.BytesIO()
    torch.save(first.optimizer.state_dict(), file)
    file.seek(0)
    second = Trial(subject, batchnorm=True, seed=5)
    second.model.load_state_dict(first.model.state_dict())
    second.optimizer.load_state_dict(torch.load(file, weights_only=True))
    _seeded(second, STEPS, STEPS)
    if not torch.equal(whole.weights(), second.weights()):
        off = (whole.weights() - second.weights()).abs().max().item()
        raise Defect(f"{STEPS} steps after the resume the weights are {off:.1e} off the uninterrupted run")
    for name in ("gradient_evaluations", "steps"):
        there, here = getattr(whole.optimizer, name, None), getattr(second.optimizer, name, None)
        if there != here:
            raise Defect(f"after the resume {name} is {here}, uninterrupted {there}")
    return f"{STEPS} + {STEPS} steps"


def _seeded(trial: Trial, start: int, steps: int) -> Trial:
    # A global seed a step: a rule that draws from the global stream is not blamed twice.
    for index in range(start, start + steps):
        torch.manual_seed(index)
        trial.step(index)
    return trial


def _copy(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {k: _copy(v) for k, v in value.items()}
    return [_copy(v) for v in value] if isinstance(value, list) else value


def _difference(left: Any, right: Any, path: str = "state") -> str:
    """Where two nested values differ; empty when they don't."""
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        same = left.dtype == right.dtype and torch.equal(left, right)
        return "" if same else path
    if isinstance(left, dict) and isinstance(right, dict):
        if left.keys() != right.keys():
            return f"{path}: keys {sorted(map(str, left.keys() ^ right.keys()))}"
        found = (_difference(left[k], right[k], f"{path}[{k!r}]") for k in left)
        return next((d for d in found if d), "")
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        if len(left) != len(right):
            return f"{path}: {len(left)} entries, {len(right)} after loading"
        found = (_difference(a, b, f"{path}[{i}]") for i, (a, b) in enumerate(zip(left, right, strict=True)))
        return next((d for d in found if d), "")
    return "" if left == right else path
