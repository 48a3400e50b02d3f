"""The closure of a mini-batch that can also say what each example loses."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.optim import Optimizer

from ..errors import InvalidInput


class BatchLoss:
    """``zero_grad``, mean loss, ``backward``; ``losses()`` gives the examples' own losses, shape (n,).

    Any callable that follows the closure contract will do for most rules; those that look at single
    examples (ESAM, sparse SAM with Fisher masks) need this one.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 3)
        >>> opt = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> x, y = torch.zeros(4, 2), torch.tensor([0, 1, 2, 0])
        >>> closure = BatchLoss(opt, lambda: torch.nn.functional.cross_entropy(model(x), y, reduction="none"))
        >>> closure.losses().shape, closure().shape
        (torch.Size([4]), torch.Size([]))
    """

    def __init__(self, optimizer: Optimizer, losses: Callable[[], Tensor]) -> None:
        self.optimizer = optimizer
        self.losses = losses

    def __call__(self) -> Tensor:
        self.optimizer.zero_grad()
        loss = self.losses().mean()
        # fp16: the optimizer knows its scaler; a plain one has none.
        scaled = getattr(self.optimizer, "scaled", None)
        (loss if scaled is None else scaled(loss)).backward()
        return loss


def example_losses(closure: Callable[[], Tensor], method: str) -> Callable[[], Tensor]:
    """The closure's ``losses``.

    Raises:
        InvalidInput: a plain closure, which can't tell examples apart.
    """
    losses = getattr(closure, "losses", None)
    if not callable(losses):
        raise InvalidInput(
            f"{method} needs the loss of each example: pass sharpbench.optim.BatchLoss(opt, losses) as the "
            "closure, with losses() returning a tensor of shape (n,)"
        )
    found: Callable[[], Tensor] = losses
    return found
