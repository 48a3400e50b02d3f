"""Loss and accuracy of a network on given images."""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.no_grad()
def evaluate(
    model: nn.Module, inputs: Tensor, labels: Tensor, *, label_noise: float = 0.0, batch_size: int = 1024
) -> tuple[float, float]:
    """Mean cross-entropy and share of right answers, in eval mode; the training flag is put back.

    With ``label_noise`` p, both are expectations over labels that are replaced by another of the K classes
    with probability p: the targets are 1 - p on the label and p/(K - 1) on every other class. This is what
    a network trained under that noise is to be compared with on new data.

    Returns:
        (loss, accuracy), sums taken in float64.
    """
    flag = model.training
    model.eval()
    loss = torch.zeros((), dtype=torch.float64, device=labels.device)
    right = torch.zeros((), dtype=torch.float64, device=labels.device)
    for x, y in zip(inputs.split(batch_size), labels.split(batch_size), strict=True):
        logits = model(x)
        other = label_noise / (logits.shape[1] - 1)
        targets = torch.full_like(logits, other).scatter_(1, y.unsqueeze(1), 1.0 - label_noise)
        loss += nn.functional.cross_entropy(logits, targets, reduction="sum").double()
        right += targets.gather(1, logits.argmax(1, keepdim=True)).double().sum()
    model.train(flag)
    return loss.item() / len(labels), right.item() / len(labels)
