"""The protocol every sharpness-aware optimizer follows: look around, come back exactly, step the base."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from ..checks import check_flag, check_number
from ..errors import InvalidInput
from .accumulation import mark_as_left, require_nothing_accumulated
from .components import Component
from .diagnostics import Diagnostics
from .gradients import Gradients, add, take
from .guards import BufferGuard, RandomGuard
from .perturb import Perturbation
from .ranks import mean_over_ranks
from .scaling import LossScale, Overflow
from .state import OWN_KEY, own_state, require_own_state, restore_memories, restore_own_state
from .watched import is_watched, require_step_without_closure, step_base

Closure = Callable[[], Tensor]


class SharpnessAware(Optimizer):
    """Wraps a base optimizer; a subclass says which gradient to hand to it.

    The contract of ``step(closure)``:

    1. ``closure()`` evaluates the mini-batch loss, calls ``backward`` and returns the loss. It is called
       as often as the rule needs, always on the same mini-batch. The gradients of the optimizer's
       parameters are set to None before each call, so it may call ``zero_grad`` but need not. (Parameters
       that belong to no group are not touched: theirs accumulate over the calls.) A list of closures is a
       mini-batch in equal parts (gradient accumulation): losses and gradients are averaged. A gradient
       that was accumulated in ``p.grad`` before ``step`` is refused, since only the first pass would see
       it; the one that the last step left there is not. Under DistributedDataParallel pass the wrapped
       module as ``model``: a list is then evaluated without synchronisation and averaged over the ranks
       once.
    2. The first pass is at the weights x. Buffers (BatchNorm statistics) and random streams end as this
       pass alone leaves them; the loss returned is the loss at x.
    3. Before the base optimizer steps, x is back bit for bit, also when a closure raised.
    4. ``p.grad`` holds the handed gradient when ``base.step()`` runs, so weight decay and momentum act
       at the unperturbed x.

    ``param_groups`` and ``state`` *are* the base optimizer's, so learning-rate schedulers attach here.

    Args:
        base: any ``torch.optim.Optimizer``.
        rho: radius of the perturbation, >= 0. A parameter group may override it with a key ``"rho"``.
        model: the module whose buffers to protect; found while it runs when not given.
        same_rng: all passes of a step draw the same random numbers (dropout masks).
        m_sharpness: with a list of closures, apply the whole rule to each part and average the handed
            gradients (m-sharpness, arXiv 2010.01412 section 4.1), instead of accumulating first.
        diagnostics: gather what ``self.diagnostics()`` reports; ``record_diagnostics`` switches it later.
        scaler: a ``torch.amp.GradScaler`` for fp16 autocast. ``BatchLoss`` closures scale by themselves;
            others call ``scaler.scale(loss).backward()`` and return the unscaled loss. ``step`` unscales,
            steps and updates it.

    Raises:
        InvalidInput: negative rho; half-precision weights, in which a perturbation is mostly rounded
            away; a base that isn't an optimizer, has nothing to train or wants a closure of its own
            (LBFGS); a step without closure, or with gradients accumulated before it.
    """

    #: parameters of the constructor that are not hyper-parameters of the method
    plumbing = ("base", "model", "scaler")
    #: False for a rule whose only pass is at a perturbed point
    evaluates_at_weights = True

    def __init__(
        self,
        base: Optimizer,
        *,
        rho: float = 0.05,
        model: nn.Module | None = None,
        same_rng: bool = True,
        m_sharpness: bool = False,
        diagnostics: bool = False,
        scaler: GradScaler | None = None,
    ) -> None:
        if not isinstance(base, Optimizer):
            raise InvalidInput(
                f"base must be a torch.optim.Optimizer, but got {type(base).__name__} "
                "(pass torch.optim.SGD(model.named_parameters(), lr=0.1), not the parameters)"
            )
        require_step_without_closure(base)
        self.rho = check_number("rho", rho, at_least=0.0)
        self.same_rng = check_flag("same_rng", same_rng)
        self.m_sharpness = check_flag("m_sharpness", m_sharpness)
        self.base = base
        self.model = model
        self.buffers = BufferGuard(model)
        #: where ``diagnostics`` come from; None while nothing is recorded
        self.log = Diagnostics() if check_flag("diagnostics", diagnostics) else None
        self.scale = LossScale(scaler) if scaler is not None and scaler.is_enabled() else None
        self.steps = 0
        self.evaluation_share = 0.0
        #: gradients of single examples (Fisher masks), each through the graph of the whole mini-batch
        self.example_gradients = 0
        self._perturbation = Perturbation()
        self._params_of_step: list[Tensor] | None = None
        super().__init__(base.param_groups, dict(base.defaults))
        if not self.parameters():
            raise InvalidInput("base has no trainable parameters (is every requires_grad False?)")
        for p in self.parameters():
            if p.dtype in (torch.bfloat16, torch.float16):
                raise InvalidInput(
                    f"weights must be float32 or float64, but one is {p.dtype} (a perturbation of size rho "
                    "is rounded away in half precision; keep fp32 weights and use torch.autocast)"
                )

    # -- what a subclass defines -------------------------------------------------------------------

    def begin_step(self) -> None:
        """Called first in every step; for rules that gather something over a step's parts."""

    def handed_gradient(self, closures: Sequence[Closure]) -> tuple[Tensor, Gradients]:
        """The loss at x and the gradient to hand to the base, one entry per ``self.parameters()``."""
        return self.evaluate(closures)

    def after_base_step(self) -> None:
        """Called after ``base.step()``; for rules that move the weights once more."""

    def components(self) -> dict[str, Component]:
        """The parts with a state of their own, by name; they travel in ``state_dict``."""
        return {}

    # -- the step ----------------------------------------------------------------------------------

    def step(self, closure: Closure | Sequence[Closure] | None = None) -> Tensor:  # type: ignore[override]
        """One update. Returns the loss at x, detached.

        >>> weight = torch.nn.Parameter(torch.tensor([1.0]))
        >>> opt = SharpnessAware(torch.optim.SGD([weight], lr=0.25))
        >>> def closure():
        ...     opt.zero_grad()
        ...     loss = (weight**2).sum()
        ...     loss.backward()
        ...     return loss
        >>> float(opt.step(closure)), weight.item()
        (1.0, 0.5)
        """
        # torch wraps every optimizer's step for its hooks and profiler; here only while one of them watches.
        if is_watched(self):
            watched: Callable[..., Tensor] = Optimizer.profile_hook_step(type(self)._step)
            return watched(self, closure)
        return self._step(closure)

    @torch.no_grad()
    def _step(self, closure: Closure | Sequence[Closure] | None = None) -> Tensor:
        closures = [closure] if callable(closure) else list(closure or ())
        if not closures:
            raise InvalidInput(
                "step needs a closure that zeroes the gradients, evaluates the loss, calls backward and "
                "returns the loss (a sharpness-aware step evaluates the mini-batch more than once)"
            )
        require_nothing_accumulated(self.all_parameters())
        self.begin_step()
        self._closures = len(closures)
        # One walk over the groups a step: between steps, groups and requires_grad may change.
        self._params_of_step = None
        params = self._params_of_step = self.parameters()
        try:
            self._random = RandomGuard({p.device for p in params}, self.same_rng)
            # Only an fp16 overflow takes a step back, so only then are the memories worth a copy.
            before = own_state(self) if self.scale is not None else {}
            try:
                loss, handed = self._all_parts(closures)
            except Overflow as overflow:
                return self._taken_back(overflow, before)
            if self.scale is not None:
                self.scale.step(self.base, handed, params)
            else:
                for p, gradient in zip(params, handed, strict=True):
                    p.grad = gradient
                step_base(self.base)
            self.after_base_step()
        except BaseException:
            # Half a gradient may stand there; the next step must not take it for an accumulated one.
            self._drop_gradients()
            raise
        finally:
            self._params_of_step = None
        mark_as_left(self.all_parameters())
        self.steps += 1
        return loss

    def _taken_back(self, overflow: Overflow, before: dict[str, Any]) -> Tensor:
        assert self.scale is not None
        restore_memories(self, before)
        self.begin_step()
        self.scale.skip(self.base, self.parameters())
        return overflow.loss if self._loss_at_x is None else self._loss_at_x

    def _all_parts(self, closures: list[Closure]) -> tuple[Tensor, Gradients]:
        if not self.m_sharpness or len(closures) == 1:
            return self._passes(closures)
        loss, handed = self._passes(closures[:1])
        for closure in closures[1:]:
            more_loss, more = self._passes([closure])
            loss = loss + more_loss
            handed = add(handed, more)
        torch._foreach_div_([g for g in handed if g is not None], float(len(closures)))
        return loss / len(closures), handed

    def _passes(self, closures: Sequence[Closure]) -> tuple[Tensor, Gradients]:
        self._random_at_x = self._random.state()
        self._random_after: list[Tensor] | None = None
        self._loss_at_x: Tensor | None = None
        if self.log is not None:
            self.log.begin()
        try:
            return self.handed_gradient(closures)
        finally:
            if self._random_after is not None:
                self._random.set(self._random_after)

    def evaluate(self, closures: Sequence[Closure]) -> tuple[Tensor, Gradients]:
        """Mean loss and gradient at the present weights; takes the gradients out of ``p.grad``."""
        if len(closures) == 1:
            total, gradients = self._evaluated(closures[0])
        else:
            total, gradients = self._accumulated(closures)
        if self._random_after is None:
            self._random_after, self._loss_at_x = self._random.state(), total
            if self.log is not None:
                self.log.gradient(self.parameters(), gradients)
        return total, gradients

    def _evaluated(self, closure: Closure) -> tuple[Tensor, Gradients]:
        # A closure that doesn't zero the gradients would add to those of the last step, or the last pass.
        self._drop_gradients()
        with torch.enable_grad():
            loss = closure()
        if not isinstance(loss, Tensor):
            raise InvalidInput(
                f"the closure must return the loss as a tensor, but returned {type(loss).__name__}"
            )
        loss = loss.detach()
        self.evaluation_share += 1 / self._closures
        gradients = take(self.parameters())
        if self.scale is not None:
            self.scale.unscale(gradients, loss)
        return loss, gradients

    def _accumulated(self, closures: Sequence[Closure]) -> tuple[Tensor, Gradients]:
        ddp = self.model if isinstance(self.model, DistributedDataParallel) else None
        with nullcontext() if ddp is None else ddp.no_sync():
            total, gradients = self._evaluated(closures[0])
            for closure in closures[1:]:
                loss, more = self._evaluated(closure)
                total = total + loss
                gradients = add(gradients, more)
        present = [g for g in gradients if g is not None]
        torch._foreach_div_(present, float(len(closures)))
        if ddp is not None:
            mean_over_ranks(present)
        return total / len(closures), gradients

    def evaluate_at(
        self, params: Sequence[Tensor], e: Sequence[Tensor], closures: Sequence[Closure]
    ) -> tuple[Tensor, Gradients]:
        """Mean loss and gradient at ``x + e``; x, buffers and random streams are put back."""
        if self.log is not None:
            self.log.look(params, e, self.parameters())
        saved = self.buffers.save()
        try:
            with self._perturbation.of(params, e):
                self._random.set(self._random_at_x)
                return self.evaluate(closures)
        finally:
            saved.put_back()

    def diagnostics(self) -> dict[str, Tensor]:
        """Means over the steps since the last call, by name (``Diagnostics`` lists them).

        0-dim float64 tensors on the device of the weights: neither a step nor this call waits for the
        device. Empty before the first step and where nothing is recorded, which then costs nothing.

        >>> weight = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> opt = SharpnessAware(torch.optim.SGD([weight], lr=0.1), diagnostics=True)
        >>> def closure():
        ...     opt.zero_grad()
        ...     loss = (weight**2).sum() / 2
        ...     loss.backward()
        ...     return loss
        >>> loss = opt.step(closure)
        >>> opt.diagnostics()["gradient_norm"], opt.diagnostics()
        (tensor(5., dtype=torch.float64), {})
        """
        return {} if self.log is None else self.log.read()

    def record_diagnostics(self, active: bool = True) -> None:
        """Begin to gather diagnostics, or stop and forget those gathered."""
        if not check_flag("active", active):
            self.log = None
        elif self.log is None:
            self.log = Diagnostics()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As torch's, without its profiling hooks: a step may call it several times."""
        if set_to_none:
            self._drop_gradients()
            return
        super().zero_grad(set_to_none=False)
        if self._params_of_step is None:  # between steps: these zeros need not be looked at by the next
            mark_as_left(self.all_parameters())

    def _drop_gradients(self) -> None:
        """Also those of frozen parameters, on which the base would step for ever."""
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss to call ``backward`` on: scaled for fp16 when there is a scaler."""
        return loss if self.scale is None else self.scale.of(loss)

    @property
    def gradient_evaluations(self) -> float:
        """Gradients of the whole mini-batch evaluated so far; a fraction where rules look at parts of it."""
        whole = round(self.evaluation_share)
        return whole if abs(self.evaluation_share - whole) < 1e-6 else self.evaluation_share

    # -- parameters and state ----------------------------------------------------------------------

    def parameters(self) -> list[Tensor]:
        """All trainable parameters, in the order of the groups (in a step: one list, not to be changed)."""
        if self._params_of_step is not None:
            return self._params_of_step
        return [p for group in self.base.param_groups for p in group["params"] if p.requires_grad]

    def all_parameters(self) -> list[Tensor]:
        """All parameters, frozen ones included: the positions that ``state_dict`` counts by."""
        return [p for group in self.param_groups for p in group["params"]]

    def parameter_names(self) -> dict[Tensor, str] | None:
        """Parameter → name, or None when the base was not built from named parameters."""
        if not all("param_names" in group for group in self.param_groups):
            return None
        return {p: n for g in self.param_groups for p, n in zip(g["params"], g["param_names"], strict=True)}

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self.base.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        pass  # Optimizer.__init__ assigns an empty list; the groups are the base's, always.

    @property
    def state(self) -> Any:
        return self.base.state

    @state.setter
    def state(self, value: Any) -> None:
        pass

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group to the base optimizer."""
        if any(param_group is group for group in self.base.param_groups):
            return
        self.base.add_param_group(param_group)
        for part in self.components().values():
            part.bind(self.all_parameters(), self.parameter_names())

    def state_dict(self) -> dict[str, Any]:
        """The base's ``state_dict`` with one more key, ``"sharpness"``: counters, memories, generators.

        Holds only tensors, numbers, strings, lists and dicts: loadable with ``weights_only=True``.
        """
        return {**self.base.state_dict(), OWN_KEY: own_state(self)}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore everything that ``state_dict`` saved; the continuation is bitwise the same.

        Raises:
            InvalidInput: the dictionary is a plain optimizer's, or another method's or network's.
        """
        own = require_own_state(self, state_dict)
        self.base.load_state_dict({k: v for k, v in state_dict.items() if k != OWN_KEY})
        restore_own_state(self, own)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__.copy()  # Optimizer's own would leave out the base

    def __repr__(self) -> str:
        return f"{type(self).__name__}(rho={self.rho}, base={type(self.base).__name__})"


# torch wraps a step that does not say so once more.
vars(SharpnessAware)["step"].hooked = True
