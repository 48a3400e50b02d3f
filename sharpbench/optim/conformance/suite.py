"""The list of checks, and running it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from ...errors import unknown_name
from ..registry import OPTIMIZERS
from . import ascent, counting, groups, precision, ranks, restoring, rule, state, surroundings, zeroing
from .finding import Check, Conformance, Finding
from .problem import form_of
from .subject import Subject, subject_of

CHECKS: tuple[Check, ...] = (
    rule.zero_radius_is_base,
    rule.it_trains,
    rule.base_steps_once,
    rule.closure_is_enough,
    rule.negative_radius_is_refused,
    rule.repeatable,
    ascent.uphill,
    ascent.rho_long,
    restoring.restored_exactly,
    restoring.unused_restored,
    restoring.restored_on_error,
    restoring.not_finite_survived,
    groups.zero_gradient,
    groups.no_gradient_untouched,
    groups.group_rates,
    groups.schedulers_attach,
    groups.decay_at_weights,
    surroundings.buffers_once,
    surroundings.same_mask,
    surroundings.global_streams_alone,
    surroundings.zeroed_in_place,
    zeroing.zeroes_itself,
    zeroing.accumulated_noticed,
    surroundings.accumulation,
    counting.counted,
    counting.none_wasted,
    counting.loss_at_weights,
    state.loads_safely,
    state.round_trip,
    state.resumes,
    precision.autocast,
    precision.half_weights,
    precision.double_precision,
    ranks.ranks_agree,
)


def check(
    target: str | type,
    parameters: dict[str, Any] | None = None,
    *,
    quick: bool = False,
    only: Collection[str] | None = None,
) -> Conformance:
    """What is wrong with an optimizer, and the usual cause of it.

    Args:
        target: a registered name, ``"MODULE:CLASS"``, or a class. Understood constructors:
            ``Cls(base, **parameters)``, ``Cls(params, base_optimizer, rho=..., **options)`` and
            ``Cls(params, lr=...)``; understood steps: ``step(closure)`` with or without the gradient at x
            computed before, and ``first_step``/``second_step``.
        parameters: its hyper-parameters.
        quick: leave out the check that starts processes.
        only: names of the checks to run; all by default.

    Returns:
        A :class:`Conformance`; ``.passed``, and ``.frame`` with one row a check.

    Raises:
        InvalidInput: an unknown target, parameter or check, or a class that can't be built. Whatever the
            optimizer does wrong afterwards is a finding, never an exception.

    Example:
        >>> result = check("sam", {"rho": 0.1}, only=["it trains", "gradient evaluations counted"])
        >>> result.passed
        True
        >>> result.frame["detail"][1]
        '2.00 gradients a step'
    """
    subject = subject_of(target, parameters)
    chosen = _chosen(only, quick)
    return Conformance(subject.target, tuple(one(subject) for one in chosen), form_of(subject))


def check_all(
    targets: Iterable[str] | None = None, *, quick: bool = False, only: Collection[str] | None = None
) -> Iterator[Conformance]:
    """``check`` for many names (all registered ones by default), in their order, as they are ready.

    The data-parallel check uses one pair of processes for all of them, which makes it the first to run.
    """
    subjects = [subject_of(target) for target in (OPTIMIZERS if targets is None else targets)]
    chosen = _chosen(only, quick)
    parallel: Mapping[str, Finding] = {}
    if ranks.ranks_agree in chosen:
        parallel = ranks.findings(subjects)
    for subject in subjects:
        found = tuple(_one(one, subject, parallel) for one in chosen)
        yield Conformance(subject.target, found, form_of(subject))


def _one(one: Check, subject: Subject, parallel: Mapping[str, Finding]) -> Finding:
    return parallel[subject.target] if one is ranks.ranks_agree else one(subject)


def _chosen(only: Collection[str] | None, quick: bool) -> list[Check]:
    names = [one.name for one in CHECKS]
    for name in only or ():
        if name not in names:
            raise unknown_name("check", name, names)
    return [one for one in CHECKS if (only is None or one.name in only) and not (quick and one.processes)]
