"""LossSurface: loss, gradient and block Hessian-vector products of a model on a data set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InvalidInput, must_be
from .batches import Batch, Batches
from .checks import folding_agrees, require_deterministic
from .isolation import has_foldable_batch_norm, isolated
from .subject import refuse_sum, select_parameters, unwrap

LossFunction = Callable[[Any, Any], Tensor]

# Beyond this the exact Hessian (d^2 doubles) no longer fits an ordinary machine.
LARGEST_DENSE = 20_000


class LossSurface:
    """The mean loss over a data set as a function of the parameters, with its derivatives.

    ``L(x) = sum_b n_b l_b(x) / sum_b n_b``, ``l_b`` the mean loss of batch b with ``n_b`` examples, in
    eval mode at fixed buffers. The model is left as it was: training flags, buffers, ``.grad``,
    ``requires_grad`` and random state.

    Args:
        model: any ``torch.nn.Module``.
        loss_fn: ``loss_fn(outputs, targets)``, a scalar *mean* over the batch.
        data: ``(inputs, targets)``, or a re-iterable of such batches in a fixed order.
        params: ``"all"``, ``"trainable"`` (those with ``requires_grad``), or names of parameters.
        batch_size: cuts ``(inputs, targets)`` into slices of this size, to bound memory.
        check: evaluate loss and gradient twice and refuse what is not deterministic.

    Attributes: ``dimension`` (d), ``parameters`` (list of tensors, in order), ``examples``, and the
    counters ``hvps``, ``gradients``, ``forwards`` (passes over the whole data set).

    Raises:
        InvalidInput: no parameters or no data, half-precision weights, a loss that is not a scalar, not
            finite or sum-reduced, or that differs on a second evaluation.

    Example:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> inputs, targets = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.zeros(2, 1)
        >>> surface = LossSurface(model, nn.functional.mse_loss, (inputs, targets))
        >>> surface.hvp(torch.tensor([1.0, 1.0]))  # H = (2/n) X^T X
        tensor([1., 4.])
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFunction,
        data: Any,
        *,
        params: str | Sequence[str] = "all",
        batch_size: int | None = None,
        check: bool = True,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise must_be("model", "a torch.nn.Module", type(model).__name__)
        self.model = unwrap(model)
        self.loss_fn = loss_fn
        self.parameters = select_parameters(self.model, params)
        self.dimension = sum(p.numel() for p in self.parameters)
        self.dtype = self.parameters[0].dtype
        for p in self.parameters:
            self.dtype = torch.promote_types(self.dtype, p.dtype)
        self.device = self.parameters[0].device
        refuse_sum(loss_fn)
        self.batches = Batches(data, batch_size, self.device)
        self.hvps = self.gradients = self.forwards = 0
        self._sizes = [p.numel() for p in self.parameters]
        self._depth = 0
        self._kept: tuple[int, list[Tensor]] | None = None
        self._double_outputs = True
        self._fold = False
        self.examples = sum(batch.count for batch in self.batches)
        if self.examples == 0:
            raise InvalidInput("data hold no examples; a loss surface needs at least one")
        if check:
            require_deterministic(self)
        if has_foldable_batch_norm(self.model):
            self._fold = folding_agrees(self)
        self.hvps = self.gradients = self.forwards = 0

    # -- one evaluation -------------------------------------------------------------------------

    @contextmanager
    def session(self) -> Iterator[None]:
        """Isolate the model once for many evaluations, and keep a single batch's gradient graph.

        Sessions nest; methods open one themselves. The parameters must not change inside.
        """
        if self._depth:
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1
            return
        with ExitStack() as stack:
            stack.enter_context(isolated(self.model, self.parameters, self._fold))
            self._depth = 1
            try:
                yield
            finally:
                self._depth = 0
                self._kept = None

    def batch_loss(self, batch: Batch, *, double: bool = False) -> Tensor:
        """The scalar loss of one batch, checked; with ``double``, reduced in float64 if it can be."""
        outputs = self.model(batch.inputs)
        if double and self._double_outputs and isinstance(outputs, Tensor) and outputs.is_floating_point():
            try:
                loss = self.loss_fn(outputs.double(), batch.targets)
            except RuntimeError:  # e.g. float32 class weights: then in the model's own precision
                self._double_outputs = False
                loss = self.loss_fn(outputs, batch.targets)
        else:
            loss = self.loss_fn(outputs, batch.targets)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            got = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise must_be("loss_fn", "a scalar mean over the batch", got, 'is it reduction="none"?')
        return loss.reshape(())

    def loss(self) -> float:
        """``L(x)``."""
        return self.loss_at(torch.zeros(self.dimension, dtype=self.dtype, device=self.device))

    def gradient(self) -> Tensor:
        """``grad L(x)``, shape ``(d,)``, in the parameters' dtype."""
        with self.session():
            total = self._accumulator(1)
            for batch in self.batches:
                _, pieces = self.batch_gradient(batch)
                total[0] += _flatten(pieces).to(total.dtype) * (batch.count / self.examples)
            self.gradients += 1
            return total[0].to(self.dtype)

    def gradient_at(self, offset: Tensor) -> Tensor:
        """``grad L(x + offset)``; the parameters are restored to the last bit."""
        self._check_vectors(offset)
        with self.session(), self._moved() as move:
            move(offset.detach().to(self.device, self.dtype))
            return self.gradient()

    def hvp(self, vectors: Tensor) -> Tensor:
        """``H V`` for ``V`` of shape ``(d,)`` or ``(d, k)``; same shape.

        Reverse over reverse (Pearlmutter, 1994): per batch the gradient's graph is built once, then one
        backward pass through it per vector, so that a block of vectors costs about 1 + 2k gradients.
        """
        self._check_vectors(vectors)
        with self.session():
            rows = vectors.detach().reshape(self.dimension, -1).T.to(self.device, self.dtype).contiguous()
            total = self._accumulator(len(rows))
            for batch, gradient, keep in self._gradient_graphs():
                for index, row in enumerate(rows):
                    retain = keep or index < len(rows) - 1
                    product = self.backward(gradient, row, retain)
                    if self.batches.single:
                        total[index] = product
                    else:
                        total[index] += product.to(total.dtype) * (batch.count / self.examples)
            self.hvps += len(rows)
            return total.T.reshape(vectors.shape).to(self.dtype)

    def loss_at(self, offset: Tensor) -> float:
        """``L(x + offset)``; the parameters are restored to the last bit."""
        return float(self.losses_at(offset.reshape(-1, 1))[0])

    def losses_at(self, offsets: Tensor) -> Tensor:
        """``L(x + u_i)`` for the columns of ``offsets``, shape ``(d, k)``; returns ``(k,)`` float64.

        Forward passes only. Losses are reduced in float64 from the model's outputs, so that small
        differences between them survive.
        """
        self._check_vectors(offsets)
        rows = offsets.detach().reshape(self.dimension, -1).T
        with self.session(), self._moved() as move, torch.no_grad():
            totals = torch.zeros(len(rows), dtype=torch.float64)
            for batch in self.batches:
                for index, row in enumerate(rows):
                    move(row)
                    value = float(self.batch_loss(batch, double=True))
                    totals[index] += value * (batch.count / self.examples)
            self.forwards += len(rows)
            return totals

    def dense_hessian(self) -> Tensor:
        """The exact ``(d, d)`` Hessian in float64, from d double-backward columns, symmetrised.

        Raises:
            InvalidInput: more than 20 000 parameters.
        """
        if self.dimension > LARGEST_DENSE:
            raise must_be("dimension of a dense Hessian", f"<= {LARGEST_DENSE}", self.dimension)
        with self.session():
            matrix = torch.empty(self.dimension, self.dimension, dtype=torch.float64)
            for start in range(0, self.dimension, 256):
                stop = min(start + 256, self.dimension)
                block = torch.zeros(self.dimension, stop - start, dtype=self.dtype, device=self.device)
                block[torch.arange(start, stop), torch.arange(stop - start)] = 1.0
                matrix[:, start:stop] = self.hvp(block).double().cpu()
            return 0.5 * (matrix + matrix.T)

    def split(self, vector: Tensor) -> list[Tensor]:
        """A flat ``(d,)`` vector as a list of tensors shaped like ``parameters`` (views)."""
        pieces = vector.split(self._sizes)
        return [piece.view(p.shape) for piece, p in zip(pieces, self.parameters, strict=True)]

    def point(self) -> Tensor:
        """The parameters as one flat vector, a copy."""
        return _flatten([p.detach() for p in self.parameters]).to(self.dtype)

    # -- inside ---------------------------------------------------------------------------------

    def _accumulator(self, count: int) -> Tensor:
        # float64 across batches on CPU, where it is cheap; one batch has nothing to accumulate.
        wide = self.device.type == "cpu" and not self.batches.single
        dtype = torch.float64 if wide else self.dtype
        return torch.zeros(count, self.dimension, dtype=dtype, device=self.device)

    def batch_gradient(self, batch: Batch, *, create_graph: bool = False) -> tuple[Tensor, list[Tensor]]:
        """Loss of one batch and its gradient, a tensor for each parameter; zeros where unused."""
        loss = self.batch_loss(batch)
        if not loss.requires_grad:
            raise InvalidInput(
                "the loss does not depend on the parameters; is the model's output detached, or computed "
                "under no_grad?"
            )
        pieces = torch.autograd.grad(
            loss, self.parameters, create_graph=create_graph, allow_unused=True, materialize_grads=True
        )
        return loss.detach(), list(pieces)

    def _gradient_graphs(self) -> Iterator[tuple[Batch, list[Tensor], bool]]:
        """(batch, gradient with its graph, whether that graph outlives this block)."""
        # One batch: its graph serves every product of the session.
        keep = self.batches.single
        version = sum(p._version for p in self.parameters)
        for batch in self.batches:
            if keep and self._kept is not None and self._kept[0] == version:
                yield batch, self._kept[1], True
                continue
            _, gradient = self.batch_gradient(batch, create_graph=True)
            if keep:
                self._kept = (version, gradient)
            yield batch, gradient, keep

    def backward(self, gradient: list[Tensor], row: Tensor, retain: bool) -> Tensor:
        """One product, from a batch's gradient with its graph: ``d(g^T row)/dx``, flat."""
        pieces = self.split(row)
        # Constant components (a loss linear in them) carry no graph and contribute nothing.
        active = [i for i, g in enumerate(gradient) if g.requires_grad]
        if not active:
            return torch.zeros_like(row)
        try:
            products = torch.autograd.grad(
                [gradient[i] for i in active],
                self.parameters,
                [pieces[i].to(gradient[i].dtype) for i in active],
                retain_graph=retain,
                allow_unused=True,
                materialize_grads=True,
            )
        except RuntimeError as error:
            if any(
                sign in str(error) for sign in ("derivative for", "once_differentiable", "double backward")
            ):
                raise InvalidInput(
                    f"an operator of this model has no second derivative, so no Hessian: {error}"
                ) from error
            raise
        return _flatten(products)

    @contextmanager
    def _moved(self) -> Iterator[Callable[[Tensor], None]]:
        """Hands out ``move(offset)``, which sets the parameters to x + offset; x comes back at the end."""
        saved = [p.detach().clone() for p in self.parameters]

        def move(offset: Tensor) -> None:
            for p, before, piece in zip(self.parameters, saved, self.split(offset), strict=True):
                torch.add(before, piece.to(before), out=p.data)

        try:
            yield move
        finally:
            # Through .data, past autograd's version counter: every bit comes back, so a gradient graph
            # kept by the session stays valid.
            for p, before in zip(self.parameters, saved, strict=True):
                p.data.copy_(before)

    def _check_vectors(self, vectors: Tensor) -> None:
        if vectors.ndim not in (1, 2) or vectors.shape[0] != self.dimension:
            shape = tuple(vectors.shape)
            raise must_be("vectors", f"of shape ({self.dimension},) or ({self.dimension}, k)", shape)


def _flatten(pieces: Sequence[Tensor]) -> Tensor:
    return torch.cat([piece.detach().reshape(-1) for piece in pieces])
