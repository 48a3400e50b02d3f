"""Loss and accuracy of a network on given examples."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from .feed import Examples


@torch.no_grad()
def evaluate(
    model: nn.Module,
    examples: Examples,
    *,
    labels: Tensor | None = None,
    label_noise: float = 0.0,
    batch_size: int = 1024,
    autocast: AbstractContextManager[object] | None = None,
) -> tuple[float, float]:
    """Mean cross-entropy and share of right answers, in eval mode; the training flag is put back.

    With ``label_noise`` p, both are expectations over labels that are replaced by another of the K classes
    with probability p: the targets are 1 - p on the label and p/(K - 1) on every other class. This is what
    a network trained under that noise is to be compared with on new data.

    Args:
        model: inputs → logits (n, K), or (n, length, K) for tokens, each of which counts as an answer.
        examples: what to evaluate on.
        labels: instead of the examples' own.
        label_noise: p.
        batch_size: examples a forward pass.
        autocast: a context for the forward passes.

    Returns:
        (loss, accuracy), sums taken in float64.
    """
    flags = [(module, module.training) for module in model.modules() if module.training]
    model.eval()
    given = examples.labels if labels is None else labels
    loss = torch.zeros((), dtype=torch.float64, device=given.device)
    right = torch.zeros((), dtype=torch.float64, device=given.device)
    for start in range(0, len(given), batch_size):
        x, _ = examples.plain(start, start + batch_size)
        y = given[start : start + batch_size].flatten()
        with autocast or nullcontext():
            logits = model(x)
        if logits.dtype in (torch.bfloat16, torch.float16):
            logits = logits.float()
        logits = logits.flatten(0, -2)
        if label_noise:
            other = label_noise / (logits.shape[1] - 1)
            targets = torch.full_like(logits, other).scatter_(1, y.unsqueeze(1), 1.0 - label_noise)
            loss += nn.functional.cross_entropy(logits, targets, reduction="sum").double()
            right += targets.gather(1, logits.argmax(1, keepdim=True)).double().sum()
        else:
            loss += nn.functional.cross_entropy(logits, y, reduction="sum").double()
            right += (logits.argmax(1) == y).sum()
    for module, flag in flags:
        module.training = flag
    return loss.item() / given.numel(), right.item() / given.numel()
