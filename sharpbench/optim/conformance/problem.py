"""The small problem every check trains, and what is seen while it does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..base import SharpnessAware
from ..closures import BatchLoss
from ..counting import GradientCounter
from .stepping import FORMS, Form, take_step, wants_gradient_first
from .subject import EXAMPLES, Subject, vector
from .watched import KINDS, base_options

INPUTS, HIDDEN, CLASSES, BATCHES = 6, 12, 3, 4

#: (losses of the examples, number of the forward pass in this step, from 0) → losses
Change = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True)
class Evaluation:
    """A backward pass that reached the parameters: the weights it was at, and the dropout mask it drew."""

    weights: Tensor
    mask: Tensor | None


@dataclass
class Step:
    """What happened in one step.

    ``evaluations`` are the backward passes that reached the parameters, ``passes`` counts those and every
    other pass of autograd back through the network; ``at_base`` holds the weights each time the base
    optimizer stepped.
    """

    before: Tensor
    evaluations: list[Evaluation] = field(default_factory=list)
    at_base: list[Tensor] = field(default_factory=list)
    forwards: int = 0
    passes: float = 0.0
    examples_seen: bool = False
    loss: Tensor | None = None
    after: Tensor = field(default_factory=lambda: torch.empty(0))


class Closure(BatchLoss):
    """``zero_grad``, loss, ``backward``; notes when somebody looks at the losses of single examples."""

    def __init__(
        self, optimizer: Optimizer, losses: Callable[[], Tensor], step: Step, keep: bool, zeroes: bool = True
    ) -> None:
        super().__init__(optimizer, self._seen)
        self._losses, self._step, self._keep, self._inside = losses, step, keep, False
        self._zeroes = zeroes

    def _seen(self) -> Tensor:
        self._step.examples_seen |= not self._inside
        return self._losses()

    def __call__(self) -> Tensor:
        if self._zeroes:
            self.optimizer.zero_grad(set_to_none=not self._keep)
        self._inside = True
        try:
            loss = self.losses().mean()
        finally:
            self._inside = False
        loss.backward()
        return loss


class Trial:
    """A network, four mini-batches and the optimizer under test, all from fixed seeds.

    Args:
        subject: the optimizer.
        batchnorm, dropout: layers to put in.
        gate: add a parameter that only the first forward pass of each step uses.
        unused: add a parameter that no pass uses.
        dtype: of weights and inputs.
        hidden: width of the network.
        seed: of the initial weights.
        lr, weight_decay: of the base.
        group_lrs: two learning rates: the first layer is one parameter group, the rest another.
        wrap: applied to the network before it is used (data parallelism).
        shard: which data; ranks have different ones.
        autocast: run forward passes in bfloat16.
        keep_gradients: the closure zeroes gradients in place instead of dropping them.
        zeroes: the closure zeroes gradients at all.
    """

    def __init__(
        self,
        subject: Subject,
        *,
        batchnorm: bool = False,
        dropout: bool = False,
        gate: bool = False,
        unused: bool = False,
        dtype: torch.dtype = torch.float64,
        hidden: int = HIDDEN,
        seed: int = 0,
        lr: float = 0.1,
        weight_decay: float = 0.0,
        group_lrs: tuple[float, float] | None = None,
        wrap: Callable[[nn.Module], nn.Module] | None = None,
        shard: int = 0,
        autocast: bool = False,
        keep_gradients: bool = False,
        zeroes: bool = True,
        form: Form | None = None,
    ) -> None:
        self.model = network(batchnorm=batchnorm, dropout=dropout, hidden=hidden, seed=seed).to(dtype)
        self.batches = mini_batches(dtype, shard)
        named = list(self.model.named_parameters())
        extra = nn.Parameter(torch.full((1,), 0.3, dtype=dtype))
        self.gate = extra if gate else None
        if gate or unused:
            named.append(("extra.weight", extra))
        self.parameters = [p for _, p in named]
        self.forward = wrap(self.model) if wrap else self.model
        self.autocast, self.keep_gradients, self.zeroes = autocast, keep_gradients, zeroes
        groups: list[dict[str, Any]] = [{"params": named}]
        if group_lrs is not None:
            groups = [
                {"params": named[:2], "lr": group_lrs[0]},
                {"params": named[2:], "lr": group_lrs[1]},
            ]
        self._now = Step(self.weights())
        self._mask: Tensor | None = None
        self.parameters[0].register_post_accumulate_grad_hook(self._evaluated)
        self._counter = GradientCounter()
        self._counter.follow(self.model)
        for module in self.model.modules():
            if isinstance(module, nn.Dropout):
                module.register_forward_hook(self._dropped)
        built = subject.build(groups, self.forward, self._base_steps, lr=lr, weight_decay=weight_decay)
        self.optimizer, self.has_base = built.optimizer, built.has_base
        self.form = form or form_of(subject)

    def step(self, index: int, change: Change | None = None, inputs: Tensor | None = None) -> Step:
        """One step on mini-batch ``index``."""
        with self._observed() as seen:
            x, y = self.batches[index % BATCHES]
            closure = self.closure(x if inputs is None else inputs, y, change)
            seen.loss = take_step(self.optimizer, closure, self.form)
        return seen

    def step_in_parts(self, index: int, parts: int) -> Step:
        """One step on the same mini-batch, cut into a list of closures."""
        with self._observed() as seen:
            x, y = self.batches[index % BATCHES]
            pairs = zip(x.chunk(parts), y.chunk(parts), strict=True)
            step: Any = self.optimizer.step
            loss = step([self.closure(some_x, some_y) for some_x, some_y in pairs])
            seen.loss = loss if isinstance(loss, Tensor) else None
        return seen

    def accumulate(self, index: int) -> None:
        """Add the gradient of mini-batch ``index`` to ``p.grad``, as a caller might before a step."""
        with self._observed():
            self.closure(*self.batches[index % BATCHES])()

    def run(self, steps: int, start: int = 0) -> list[Step]:
        """Several steps, on the mini-batches in turn."""
        return [self.step(index) for index in range(start, start + steps)]

    def closure(self, x: Tensor, y: Tensor, change: Change | None = None) -> Closure:
        """The closure of a mini-batch; belongs to the present step."""
        seen = self._now

        def losses() -> Tensor:
            number = seen.forwards
            seen.forwards += 1
            with self._precision():
                logits = self.forward(x)
                if self.gate is not None and number == 0:
                    logits = logits * self.gate
                values = nn.functional.cross_entropy(logits, y, reduction="none")
            return values if change is None else change(values, number)

        return Closure(self.optimizer, losses, seen, self.keep_gradients, self.zeroes)

    def loss_at_weights(self, index: int) -> Tensor:
        """The mean loss of a mini-batch at the present weights."""
        x, y = self.batches[index % BATCHES]
        with torch.no_grad(), self._precision():
            return nn.functional.cross_entropy(self.forward(x), y, reduction="none").mean()

    def weights(self) -> Tensor:
        """All parameters as one vector, a copy."""
        return vector(self.parameters)

    def load(self, weights: Tensor) -> None:
        """Set all parameters from one vector."""
        with torch.no_grad():
            offset = 0
            for p in self.parameters:
                p.copy_(weights[offset : offset + p.numel()].view_as(p))
                offset += p.numel()

    @contextmanager
    def _observed(self) -> Iterator[Step]:
        self._now = Step(self.weights())
        before = self._counter.total
        with self._counter.step(EXAMPLES):
            yield self._now
        self._now.passes = self._counter.total - before
        self._now.after = self.weights()

    def _precision(self) -> AbstractContextManager[Any]:
        return torch.autocast("cpu", torch.bfloat16) if self.autocast else nullcontext()

    def _evaluated(self, parameter: Tensor) -> None:
        self._now.evaluations.append(Evaluation(self.weights(), self._mask))

    def _dropped(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self._mask = (output == 0).detach()

    def _base_steps(self) -> None:
        self._now.at_base.append(self.weights())


def network(
    *, batchnorm: bool = False, dropout: bool = False, hidden: int = HIDDEN, seed: int = 0
) -> nn.Module:
    """6-hidden-3, tanh, so that every rule is smooth in its inputs; draws nothing from the global stream."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = [nn.Linear(INPUTS, hidden)]
        if batchnorm:
            layers.append(nn.BatchNorm1d(hidden))
        layers.append(nn.Tanh())
        if dropout:
            layers.append(nn.Dropout(0.5))
        layers.append(nn.Linear(hidden, CLASSES))
        return nn.Sequential(*layers)


def mini_batches(dtype: torch.dtype, shard: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Four mini-batches of 16 examples whose labels a linear rule of the inputs gives."""
    generator = torch.Generator().manual_seed(1000 + shard)
    rule = torch.randn(INPUTS, CLASSES, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    batches = []
    for _ in range(BATCHES):
        x = torch.randn(EXAMPLES, INPUTS, generator=generator, dtype=torch.float64)
        batches.append((x.to(dtype), (x @ rule).argmax(1)))
    return batches


def plain_run(trial: Trial, kind: str, steps: int) -> Tensor:
    """The weights after the base optimizer alone took ``steps`` steps from the weights of ``trial``."""
    model = network()
    model.to(trial.parameters[0].dtype)
    with torch.no_grad():
        nn.utils.vector_to_parameters(trial.weights(), model.parameters())
    base = KINDS[kind](model.parameters(), **base_options(kind, 0.1, 0.0))
    for index in range(steps):
        x, y = trial.batches[index % BATCHES]
        base.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        base.step()
    return vector(list(model.parameters()))


_FORMS: dict[tuple[str, type], Form] = {}


def form_of(subject: Subject) -> Form:
    """The first form in which the optimizer takes two steps and comes to other, finite weights.

    Where none works it is ``"closure"``, so that every check tells what is wrong.
    """
    if issubclass(subject.factory, SharpnessAware):
        return "closure"  # its contract
    key = (subject.target, subject.factory)
    if key not in _FORMS:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            _FORMS[key] = next((form for form in FORMS if _works(subject, form)), "closure")
    return _FORMS[key]


def _works(subject: Subject, form: Form) -> bool:
    try:
        trial = Trial(subject, form=form)
        steps = trial.run(2)
    except Exception:
        return False
    if form == "closure" and wants_gradient_first(trial.optimizer, len(steps[0].evaluations)):
        return False
    return bool(torch.isfinite(steps[-1].after).all())
