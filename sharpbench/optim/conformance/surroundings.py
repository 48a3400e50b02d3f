"""What a second look must leave alone: buffers, modules and random streams."""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import nn

from .finding import Defect, NotApplicable, promise
from .problem import Trial, network
from .subject import Subject


@promise(
    "buffers touched once",
    "BatchNorm statistics updated in every pass; the momentum = 0 trick, which still counts batches and "
    "loses the momentum when interrupted: save and restore the buffers",
)
def buffers_once(subject: Subject) -> None:
    """After a step BatchNorm's statistics and counter are those of one plain forward pass at x.

    The modules are left as they were (training mode, momentum).
    """
    trial = Trial(subject, batchnorm=True)
    twin = network(batchnorm=True).double()
    norm = next(m for m in trial.model.modules() if isinstance(m, nn.BatchNorm1d))
    for index in range(3):
        twin.load_state_dict(trial.model.state_dict())
        twin(trial.batches[index][0])
        trial.step(index)
        for (name, found), expected in zip(trial.model.named_buffers(), twin.buffers(), strict=True):
            short = name.rpartition(".")[2]
            if short == "num_batches_tracked" and not torch.equal(found, expected):
                extra = int(found) - int(expected) + 1
                raise Defect(f"num_batches_tracked grew by {extra} in step {index}")
            if subject.evaluates_at_weights and not torch.equal(found, expected):
                off = (found - expected).abs().max().item()
                raise Defect(f"{short} is {off:.1e} off one plain forward pass after step {index}")
        if norm.momentum != 0.1 or not norm.training:
            raise Defect(f"BatchNorm was left with momentum {norm.momentum}, training {norm.training}")


@promise(
    "same dropout mask in all passes",
    "the random stream is not rewound before the second pass, so that it differentiates another network "
    "(save torch's random state before the first pass, set it before each other, end where the first ended)",
)
def same_mask(subject: Subject) -> str:
    """All passes of a step draw the same dropout mask; the stream ends where one plain pass leaves it."""
    trial = Trial(subject, dropout=True)
    several = 0
    for index in range(4):
        torch.manual_seed(index)
        step = trial.step(index)
        after = torch.get_rng_state()
        masks = [e.mask for e in step.evaluations if e.mask is not None]
        for mask in masks[1:]:
            several += 1
            if not torch.equal(mask, masks[0]):
                share = (mask != masks[0]).double().mean().item()
                raise Defect(f"in step {index} the masks of two passes differ in {share:.0%} of the units")
        torch.manual_seed(index)
        trial.model(trial.batches[index][0])
        if not torch.equal(after, torch.get_rng_state()):
            raise Defect(f"step {index} leaves the random stream elsewhere than one forward pass does")
    return f"{several} further passes with the mask of the first" if several else "one pass a step"


@promise(
    "global random streams left alone",
    "drawing perturbations, masks or coins from torch's global generator: data order and dropout of the run "
    "then depend on the optimizer (use a torch.Generator of its own)",
)
def global_streams_alone(subject: Subject) -> None:
    """The streams of torch, numpy and random stand still where the network draws nothing.

    The trajectory does not depend on the global seeds either.
    """
    ends = []
    for seed in (11, 12):
        torch.manual_seed(seed)
        trial = Trial(subject)
        before = _streams()
        trial.run(5)
        for name, old, new in zip(("torch", "numpy", "random"), before, _streams(), strict=True):
            if old != new:
                raise Defect(f"the optimizer draws from the global stream of {name}")
        ends.append(trial.weights())
    if not torch.equal(*ends):
        raise Defect("the weights depend on the global seed, though the network draws nothing")


def _streams() -> tuple[bytes, str, str]:
    return (
        bytes(torch.get_rng_state().numpy()),
        repr(np.random.get_state(legacy=False)),
        repr(random.getstate()),
    )


@promise(
    "gradients zeroed in place are no trap",
    "keeping a reference to p.grad of the first pass, which the second pass overwrites: clone it, or take it "
    "out of p.grad",
)
def zeroed_in_place(subject: Subject) -> None:
    """A closure that calls ``zero_grad(set_to_none=False)`` gives the same weights, bit for bit."""
    dropped, kept = Trial(subject), Trial(subject, keep_gradients=True)
    torch.manual_seed(0)
    dropped.run(5)
    torch.manual_seed(0)
    kept.run(5)
    off = (dropped.weights() - kept.weights()).abs().max().item()
    if not off == 0:
        raise Defect(f"after 5 steps the weights differ by {off:.1e}")


@promise(
    "gradient accumulation equals the whole batch",
    "the second pass sees the last micro-batch only, or the mean over the parts is missing",
)
def accumulation(subject: Subject) -> str:
    """``step([closure, closure])`` over halves of the mini-batch gives the weights of ``step(closure)``."""
    whole, parts = Trial(subject), Trial(subject)
    for index in range(3):
        torch.manual_seed(index)
        step = whole.step(index)
        if step.examples_seen:
            raise NotApplicable("chooses among the examples of each part, by its definition")
        torch.manual_seed(index)
        try:
            parts.step_in_parts(index, 2)
        except Exception as error:
            if subject.takes_base_first and index:
                raise
            raise NotApplicable(f"step takes one closure only ({type(error).__name__} for a list)") from None
    off = (whole.weights() - parts.weights()).abs().max().item()
    if not off <= 1e-9:  # rules that choose by comparison are separated by rounding only
        raise Defect(f"after 3 steps the weights differ by {off:.1e}")
    return f"within {off:.0e}"
