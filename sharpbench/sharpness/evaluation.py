"""Evaluator: the loss and the gradient of one batch, checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InvalidInput, must_be
from .batches import Batch
from .flat import whole
from .functions import cheap_functions

LossFunction = Callable[[Any, Any], Tensor]


class Evaluator:
    """``l_b`` and ``grad l_b`` of a model, for parameters that require gradients.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> evaluate = Evaluator(model, nn.functional.mse_loss, list(model.parameters()))
    >>> batch = Batch(torch.zeros(2, 1), torch.ones(2, 1), 2)
    >>> float(evaluate.loss(batch).detach()), evaluate.gradient(batch)
    (1.0, [tensor([[0.]])])
    """

    def __init__(self, model: nn.Module, loss_fn: LossFunction, parameters: Sequence[Tensor]) -> None:
        self.model = model
        self.loss_fn = loss_fn
        self.parameters = parameters
        #: whether the model differentiates in forward, so that it can't run under no_grad
        self.needs_grad = False
        #: whether the loss takes outputs in double precision
        self.double_outputs = True

    @contextmanager
    def values_only(self) -> Iterator[None]:
        """For values without derivatives: no graph is recorded, unless the model itself needs one."""
        with torch.set_grad_enabled(self.needs_grad):
            yield

    def loss(self, batch: Batch, *, double: bool = False) -> Tensor:
        """The scalar loss of one batch; with ``double``, reduced in float64 where that can be."""
        with cheap_functions():
            outputs = self.model(batch.inputs)
        return self.loss_of(outputs, batch.targets, double=double)

    def loss_of(self, outputs: Any, targets: Any, *, double: bool = False) -> Tensor:
        """The scalar loss of given outputs.

        Raises:
            InvalidInput: it is not one number.
        """
        loss: Any = None
        if double and self.double_outputs and isinstance(outputs, Tensor) and outputs.is_floating_point():
            try:
                loss = self.loss_fn(outputs.double(), targets)
            except RuntimeError as error:  # e.g. float32 class weights: then in the model's own precision
                if isinstance(error, torch.OutOfMemoryError):
                    raise
                self.double_outputs = False
        if loss is None:
            with cheap_functions():
                loss = self.loss_fn(outputs, targets)
        if not isinstance(loss, Tensor):
            cause = "return the loss tensor alone, without .item() and without other values"
            raise must_be("what loss_fn returns", "a scalar tensor", type(loss).__name__, cause)
        if loss.numel() != 1:
            got = tuple(loss.shape)
            raise must_be("loss_fn", "a scalar mean over the batch", got, 'is it reduction="none"?')
        return loss.reshape(())

    def loss_and_gradient(self, batch: Batch, *, create_graph: bool = False) -> tuple[Tensor, list[Tensor]]:
        """Loss of one batch and its gradient, a tensor for each parameter; zeros where unused.

        Raises:
            InvalidInput: the loss does not depend on the parameters.
        """
        loss = self.loss(batch)
        if not loss.requires_grad:
            raise InvalidInput(
                "the loss does not depend on the parameters; is the model's output detached, computed under "
                "no_grad, or a derivative taken without create_graph=True?"
            )
        try:
            pieces = torch.autograd.grad(
                loss, self.parameters, create_graph=create_graph, allow_unused=True, materialize_grads=True
            )
        except RuntimeError as error:
            if "a second time" not in str(error):
                raise
            raise InvalidInput(
                "the model's graph is freed before the loss is differentiated; does forward call backward(), "
                "or autograd.grad without create_graph=True?"
            ) from error
        return loss.detach(), whole(pieces)

    def gradient(self, batch: Batch) -> list[Tensor]:
        """The gradient of one batch."""
        return self.loss_and_gradient(batch)[1]

    def gradient_graph(self, batch: Batch) -> list[Tensor]:
        """The gradient of one batch with the graph that a product walks back through."""
        return self.loss_and_gradient(batch, create_graph=True)[1]
