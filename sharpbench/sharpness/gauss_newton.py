"""GaussNewton: products with the generalised Gauss-Newton matrix, the Fisher matrix of classifiers."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor

from ..errors import InvalidInput
from .batches import Batch
from .flat import whole
from .functions import cheap_functions
from .surface import LossSurface


class GaussNewton:
    """``G = (1/n) sum_n J_n^T (d²l_n/df²) J_n`` with J the Jacobian of the outputs f (Schraudolph, 2002).

    H without the curvature of the network itself, so positive semi-definite for a loss convex in the
    outputs. For cross-entropy of logits and for squared error it is the Fisher matrix under the model's own
    label distribution, whatever the labels of the data are (Martens, 2020, section 9.2).

    ``J v`` comes from two backward passes (no forward mode, which some layers get wrong), ``J^T`` from one.

    Raises:
        InvalidInput: the model's output is not one tensor.

    Example:
        >>> from torch import nn
        >>> model, data = nn.Linear(2, 1, bias=False), (torch.eye(2), torch.ones(2, 1))
        >>> surface = LossSurface(model, nn.functional.mse_loss, data)
        >>> GaussNewton(surface).hvp(torch.tensor([1.0, 2.0]))  # = H: the model is linear
        tensor([1., 2.])
    """

    def __init__(self, surface: LossSurface) -> None:
        self.surface = surface
        self.dimension, self.dtype, self.device = surface.dimension, surface.dtype, surface.device
        self.hvps = 0
        outputs = next(iter(surface.outputs()))[0]
        if not isinstance(outputs, Tensor):
            raise InvalidInput(
                f"the Gauss-Newton matrix needs a model with one output tensor, but got "
                f"{type(outputs).__name__}; wrap the model so that it returns what the loss is made of"
            )

    def session(self) -> AbstractContextManager[None]:
        """The surface's session."""
        return self.surface.session()

    def hvp(self, vectors: Tensor) -> Tensor:
        """``G V`` for V of shape ``(d,)`` or ``(d, k)``."""
        surface = self.surface
        rows = vectors.detach().reshape(self.dimension, -1).T.to(self.device, self.dtype).contiguous()
        total = torch.zeros_like(rows, dtype=torch.float64 if self.device.type == "cpu" else self.dtype)
        with self.session():
            for batch in surface.batches:
                self._add_batch(batch, rows, total)
            surface.shards.sum(total)
        self.hvps += len(rows)
        return total.T.reshape(vectors.shape).to(self.dtype)

    def _add_batch(self, batch: Batch, rows: Tensor, total: Tensor) -> None:
        surface, parameters = self.surface, self.surface.parameters
        with cheap_functions():
            outputs: Tensor = surface.model(batch.inputs)
        leaf = outputs.detach().requires_grad_(True)
        loss = surface.evaluate.loss_of(leaf, batch.targets)
        (slope,) = torch.autograd.grad(loss, leaf, create_graph=True)
        # J^T w is linear in w, so its derivative by w along v is J v.
        weights = torch.zeros_like(outputs, requires_grad=True)
        pulled = torch.autograd.grad(
            outputs, parameters, weights, create_graph=True, allow_unused=True, materialize_grads=True
        )
        live = [i for i, g in enumerate(pulled) if g.requires_grad]
        for index, row in enumerate(rows):
            pieces = surface.split(row)
            (pushed,) = torch.autograd.grad(
                [pulled[i] for i in live],
                weights,
                [pieces[i].to(pulled[i].dtype) for i in live],
                retain_graph=True,
                materialize_grads=True,
                allow_unused=True,
            )
            if not slope.requires_grad:  # a loss linear in the outputs has no curvature there
                continue
            (curved,) = torch.autograd.grad(slope, leaf, pushed, retain_graph=True)
            result = torch.autograd.grad(
                outputs, parameters, curved, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            flat = torch.cat([piece.reshape(-1) for piece in whole(result)])
            total[index].add_(flat.to(total.dtype), alpha=surface.share(batch))
