"""Loss and accuracy of a network on given images."""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.no_grad()
def evaluate(model: nn.Module, inputs: Tensor, labels: Tensor, batch_size: int = 1024) -> tuple[float, float]:
    """Mean cross-entropy and share of right answers, in eval mode; the training flag is put back.

    Returns:
        (loss, accuracy), sums taken in float64.
    """
    flag = model.training
    model.eval()
    loss = torch.zeros((), dtype=torch.float64, device=labels.device)
    right = torch.zeros((), dtype=torch.int64, device=labels.device)
    for x, y in zip(inputs.split(batch_size), labels.split(batch_size), strict=True):
        logits = model(x)
        loss += nn.functional.cross_entropy(logits, y, reduction="sum").double()
        right += (logits.argmax(1) == y).sum()
    model.train(flag)
    return loss.item() / len(labels), right.item() / len(labels)
