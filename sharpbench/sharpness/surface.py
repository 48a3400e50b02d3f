"""LossSurface: loss, gradient and block Hessian-vector products of a model on a data set."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..errors import must_be, unknown_name
from .batches import Batch, Batches, Weight
from .checks import adopt_form, adopt_formulation, require_deterministic
from .data_checks import require_matching, require_parts
from .decomposition import halve
from .differences import central_difference, displaced
from .evaluation import Evaluator, LossFunction
from .flat import BatchMean, Layout, flatten
from .graphs import GradientGraphs
from .inner_derivatives import differentiates_in_forward
from .isolation import isolated
from .layers import LayerForm
from .memory import within_memory
from .operator import dense
from .shards import Shards
from .spectrum import LARGEST_DENSE
from .structures import map_tensors
from .subject import refuse_renormalising, refuse_sum, select_parameters, unwrap, warn_of_train_mode
from .weighting import Weighting

Formulation = Literal["auto", "double_backward", "central_difference"]


class LossSurface:
    """The mean loss over a data set as a function of the parameters, with its derivatives.

    ``L(x) = sum_b w_b l_b(x) / sum_b w_b``, ``l_b`` the loss of batch b and ``w_b`` its ``weight`` (by
    default its number of examples), in eval mode at fixed buffers. The model is left as it was: training
    flags, buffers, ``.grad``, ``requires_grad`` and random state.

    Args:
        model: any ``torch.nn.Module``.
        loss_fn: ``loss_fn(outputs, targets)``, a scalar; a mean over the batch unless ``weight`` is given.
        data: ``(inputs, targets)``, or a re-iterable of such batches in a fixed order.
        params: ``"all"``, ``"trainable"`` (those with ``requires_grad``), a name or pattern such as
            ``"layer4.*"``, or a list of these.
        batch_size: cuts ``(inputs, targets)`` into slices of this size, to bound memory; L stays what it is.
        check: evaluate loss and gradient twice and refuse what is not deterministic; where data are in parts,
            compare a loss and its gradient with those of its parts.
        formulation: ``"double_backward"`` (exact), ``"central_difference"`` of the gradient, or ``"auto"``:
            the first, and the second with one warning where an operator has no second derivative.
        memory: bytes that gradient graphs kept between products may take; 40 % of what is free by default.
        distributed: ``data`` is this rank's shard; sums go over all ranks of the default process group.
        weight: ``None``: the loss of a batch is a mean over its examples, and ``w_b`` is their number.
            ``"sum"``: it is a sum over its examples, and so is L. A function ``weight(inputs, targets)``: it
            is a mean over something else, whose amount in a batch this function returns, such as the number
            of unpadded tokens or the sum of the targets' class weights.

    Attributes: ``dimension`` (d), ``parameters`` (list of tensors, in order), ``examples``, and the
    counters ``hvps``, ``gradients``, ``forwards`` (passes over the whole data set).

    Warns:
        MeasuredInEvalMode: modules that act otherwise in eval mode came in train mode.
        LossDependsOnBatches: a list of batches whose losses are no weighted means over their examples.

    Raises:
        InvalidInput: no parameters or no data, half-precision weights, a loss that is not a scalar, not
            finite, or that differs on a second evaluation; a loss that ``batch_size`` or shards would change,
            or that is a sum without ``weight="sum"``; derivatives taken in ``forward`` without
            ``create_graph=True``; an operator whose second derivative is missing or wrong.

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
        formulation: Formulation = "auto",
        memory: int | None = None,
        distributed: bool = False,
        weight: Weight = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise must_be("model", "a torch.nn.Module", type(model).__name__)
        if formulation not in ("auto", "double_backward", "central_difference"):
            raise unknown_name("formulation", formulation, ("auto", "double_backward", "central_difference"))
        refuse_sum(loss_fn, weight)
        self.model = unwrap(model)
        refuse_renormalising(self.model)
        self.parameters = select_parameters(self.model, params)
        self.layout = Layout(self.parameters)
        self.dimension = self.layout.dimension
        self.dtype = self.parameters[0].dtype
        for p in self.parameters:
            self.dtype = torch.promote_types(self.dtype, p.dtype)
        self.device = self.parameters[0].device
        if check:
            warn_of_train_mode(self.model)
        self.shards = Shards(distributed)
        self.evaluate = Evaluator(self.model, loss_fn, self.parameters)
        self.graphs = GradientGraphs(self.parameters, memory)
        self.formulation: str = formulation
        self.form: LayerForm = "own"
        self.hvps = self.gradients = self.forwards = 0
        self._depth = 0
        together = self.shards.together
        self.batches: Batches | list[Batch] = together(
            lambda: Batches(data, batch_size, self.device, weight), self.device
        )
        self.weight = weight
        self._weighting = Weighting.of(self.batches, weight, self.shards, self.device)
        self._whole = self._weighting.single
        #: why batches can't be cut when memory runs out; "" where they can, None while not known
        self.indivisible: str | None = None
        together(lambda: require_matching(self), self.device)
        self.evaluate.needs_grad = together(lambda: differentiates_in_forward(self), self.device)
        if check:
            together(lambda: require_parts(self), self.device)
            together(lambda: require_deterministic(self), self.device)
        if formulation == "auto":
            self.formulation = together(lambda: adopt_formulation(self), self.device)
        self.form = together(lambda: adopt_form(self), self.device)
        self.graphs.clear()
        self.hvps = self.gradients = self.forwards = 0

    # -- values ---------------------------------------------------------------------------------

    def loss(self) -> float:
        """``L(x)``."""
        return self.loss_at(torch.zeros(self.dimension, dtype=self.dtype, device=self.device))

    def loss_at(self, offset: Tensor) -> float:
        """``L(x + offset)``; the parameters are restored to the last bit."""
        return float(self.losses_at(offset.reshape(-1, 1))[0])

    def losses_at(self, offsets: Tensor) -> Tensor:
        """``L(x + u_i)`` for the columns of ``offsets``, shape ``(d, k)``; returns ``(k,)`` float64.

        Forward passes only. Losses are reduced in float64 from the model's outputs, so that small
        differences between them survive.
        """
        return self._sum_at(offsets, lambda batch: self.evaluate.loss(batch, double=True), self.share)

    def mean_at(self, offsets: Tensor, statistic: Callable[[Batch], Tensor]) -> Tensor:
        """Mean over the examples of a scalar ``statistic(batch)`` at ``x + u_i``, shape ``(k,)`` float64."""
        return self._sum_at(offsets, statistic, lambda batch: batch.count / self.examples)

    def _sum_at(
        self, offsets: Tensor, statistic: Callable[[Batch], Tensor], share: Callable[[Batch], float]
    ) -> Tensor:
        self.layout.check(offsets)
        rows = offsets.detach().reshape(self.dimension, -1).T

        def attempt() -> Tensor:
            totals = torch.zeros(len(rows), dtype=torch.float64)
            with displaced(self.parameters, self.split) as move, self.evaluate.values_only():
                for batch in self.batches:
                    for index, row in enumerate(rows):
                        move(row)
                        totals[index] += float(statistic(batch).detach()) * share(batch)
            return totals

        with self.session():
            totals = self.shards.sum(within_memory(self, attempt).to(self.device)).cpu()
            self.forwards += len(rows)
            return totals

    def outputs(self) -> Iterator[tuple[Any, Any]]:
        """(outputs, targets) of every batch of this rank, without a graph; one forward pass."""
        with self.session(), self.evaluate.values_only():
            for batch in self.batches:
                yield map_tensors(self.model(batch.inputs), Tensor.detach), batch.targets
            self.forwards += 1

    def gradient(self) -> Tensor:
        """``grad L(x)``, shape ``(d,)``, in the parameters' dtype."""

        def attempt() -> Tensor:
            total = self._mean(1)
            for batch in self.batches:
                total.add(0, self.evaluate.gradient(batch), self.share(batch))
            return total.value()[0]

        with self.session():
            total = self.shards.sum(within_memory(self, attempt))
            self.gradients += 1
            return total.to(self.dtype)

    def gradient_at(self, offset: Tensor) -> Tensor:
        """``grad L(x + offset)``; the parameters are restored to the last bit."""
        self.layout.check(offset)
        with self.session(), displaced(self.parameters, self.split) as move:
            move(offset.detach().to(self.device, self.dtype))
            return self.gradient()

    def hvp(self, vectors: Tensor) -> Tensor:
        """``H V`` for ``V`` of shape ``(d,)`` or ``(d, k)``; same shape.

        Reverse over reverse (Pearlmutter, 1994): per batch the gradient's graph is built once and kept for
        the session where memory allows, then one backward pass through it per vector, of about 2 gradients.
        The same calls in the same order give the same bits; a block and its columns one by one agree to
        rounding (docs/reproducibility.md).
        """
        self.layout.check(vectors)
        rows = vectors.detach().reshape(self.dimension, -1).T.to(self.device, self.dtype).contiguous()
        with self.session():
            if self.formulation == "central_difference":
                total = torch.stack([central_difference(self, row) for row in rows])
            else:
                total = self.shards.sum(within_memory(self, lambda: self._products(rows)))
            self.hvps += len(rows)
            return total.T.reshape(vectors.shape).to(self.dtype)

    def dense_hessian(self) -> Tensor:
        """The exact ``(d, d)`` Hessian in float64, from d double-backward columns, symmetrised.

        Raises:
            InvalidInput: more than 20 000 parameters.
        """
        if self.dimension > LARGEST_DENSE:
            raise must_be("dimension of a dense Hessian", f"<= {LARGEST_DENSE}", self.dimension)
        return dense(self)

    # -- the point ------------------------------------------------------------------------------

    def split(self, vector: Tensor) -> list[Tensor]:
        """A flat ``(d,)`` vector as a list of tensors shaped like ``parameters`` (views)."""
        return self.layout.split(vector)

    def point(self) -> Tensor:
        """The parameters as one flat vector, a copy."""
        return flatten(self.parameters).to(self.dtype)

    @contextmanager
    def session(self) -> Iterator[None]:
        """Isolate the model once for many evaluations, and keep gradient graphs between them.

        Sessions nest; methods open one themselves. The parameters must not change inside.
        """
        with ExitStack() as stack:
            if self._depth == 0:
                stack.enter_context(isolated(self.model, self.parameters, self.form))
                stack.callback(self.graphs.clear)
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1

    def shrink(self) -> bool:
        """Need less memory from now on: keep one graph, then halve the batches; whether that was possible.

        Batches are halved only where the losses of the parts give that of the whole; where they do not,
        ``indivisible`` says why.
        """
        if self.graphs.stop_keeping():
            return True
        smaller = isinstance(self.batches, Batches) and halve(self, self.batches)
        self._whole = self._whole and not smaller
        return smaller

    def restricted(self, batches: Iterable[Batch]) -> LossSurface:
        """The surface of some of the examples, unchecked, with counters of its own."""
        other = copy.copy(self)
        other.batches = list(batches)
        other.graphs = GradientGraphs(self.parameters, self.graphs.budget)
        other.shards = Shards(False)
        other._weighting = Weighting.of(other.batches, self.weight, other.shards, self.device)
        other._whole = other._weighting.single
        other.hvps = other.gradients = other.forwards = other._depth = 0
        return other

    def share(self, batch: Batch) -> float:
        """``w_b / sum_b w_b``, the factor of this batch's loss in L; 1 for a sum."""
        return self._weighting.share(batch)

    @property
    def examples(self) -> int:
        """How many examples, over all ranks."""
        return self._weighting.examples

    # -- inside ---------------------------------------------------------------------------------

    def _products(self, rows: Tensor) -> Tensor:
        pieces = [self.split(row) for row in rows]
        total = self._mean(len(rows))
        for batch, gradient, kept in self.graphs.walk(self.batches, self.evaluate.gradient_graph):
            share = self.share(batch)
            for index, piece in enumerate(pieces):
                last = index == len(rows) - 1
                total.add(index, self.graphs.product(batch, gradient, piece, kept, last), share)
        return total.value()

    def _mean(self, count: int) -> BatchMean:
        return BatchMean(self.layout, count, self.dtype, self.device, self._whole)
