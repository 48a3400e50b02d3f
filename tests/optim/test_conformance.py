"""The conformance suite: silent about ours, and eloquent about the planted bugs."""

from __future__ import annotations

import random

import broken_optimizers
import numpy as np
import pytest
import torch
from broken_optimizers import BROKEN, HonestSAM

from sharpbench.errors import InvalidInput
from sharpbench.optim import OPTIMIZERS, SAM
from sharpbench.optim.conformance import CHECKS, Check, check, check_all, ranks

PARALLEL = "data-parallel ranks agree"


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_our_own_keep_every_promise(name: str) -> None:
    result = check(name, quick=True)
    assert result.passed, str(result)
    assert (result.frame["status"] == "pass").sum() >= 26
    assert result.form == "closure"


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("asam", {"rescale": "all", "eta": 0.0}),
        ("crsam", {"m_sharpness": False, "rho": 0.01}),
        ("frob_sam", {"sampling": "antithetic", "weight": 0.5}),
        ("gsam", {"rho_min": 0.01, "lr_max": 0.1}),
        ("lazy", {"p": 0.5, "schedule": "linear", "total_steps": 8}),
        ("linf", {"radius": "ball", "rho": 0.001}),
        ("looksam", {"k": 2}),
        ("ssam_d", {"update_every": 2}),
        ("ssam_f", {"update_every": 2, "fisher_samples": 4}),
        ("universal", {"n_samples": 2, "sampling": "antithetic"}),
        ("wsam", {"decoupled": False}),
    ],
)
def test_our_own_keep_them_with_other_parameters(name: str, parameters: dict[str, object]) -> None:
    result = check(name, parameters, quick=True)
    assert result.passed, str(result)


def test_an_honest_optimizer_of_somebody_else_passes() -> None:
    result = check(HonestSAM, quick=True)
    assert result.passed, str(result)
    assert set(result.frame["status"]) == {"pass"}


@pytest.mark.parametrize("kind", [k for k in BROKEN if k.breaks != PARALLEL])
def test_a_planted_bug_is_found_and_named(kind: type[HonestSAM]) -> None:
    result = check(kind, quick=True)
    failed = {finding.check for finding in result.failures}
    assert failed == {kind.breaks, *kind.also}, str(result)
    assert all(finding.detail and finding.cause for finding in result.failures)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (broken_optimizers.TwiceTheRadius, "||e|| is 0.1 in step 0, rho is 0.05: it is rho twice"),
        (broken_optimizers.RootOfTheRadius, "||e|| is 0.2236 in step 0, rho is 0.05: it is rho under a root"),
        (broken_optimizers.NoNorm, "it is rho times the norm of the gradient"),
        (broken_optimizers.NormOfEachParameter, "each of 4 parameters moves by 0.05 along its own gradient"),
        (
            broken_optimizers.NormOfEachGroup,
            "with the parameters in two groups ||e|| is 0.07071, in one 0.05",
        ),
        (broken_optimizers.DownTheGradient, "has the cosine -1.000 with the gradient"),
        (broken_optimizers.DropsAccumulated, "what was accumulated before is lost"),
        (broken_optimizers.CountsAccumulatedOnce, "nothing is said, and the step is"),
    ],
)
def test_the_finding_says_what_is_wrong(kind: type[HonestSAM], said: str) -> None:
    (finding,) = check(kind, only=[kind.breaks]).failures
    assert said in finding.detail


@pytest.mark.parametrize("kind", [broken_optimizers.MeansNoNorm, broken_optimizers.WarnsOfAccumulated])
def test_what_says_so_is_right(kind: type[HonestSAM]) -> None:
    result = check(kind, quick=True)
    assert result.passed, str(result)


def test_passes_without_a_closure_may_be_counted() -> None:
    result = check(broken_optimizers.CountsItsProduct, only=["gradient evaluations counted"])
    assert result.passed, str(result)


def test_torchs_own_optimizers_are_not_accused() -> None:
    names = [
        "the perturbation goes uphill",
        "a perturbation along the gradient is rho long",
        "a closure need not zero the gradients",
        "gradients accumulated before step are noticed",
    ]
    for kind in (torch.optim.SGD, torch.optim.AdamW, broken_optimizers.PerturbsAtRandom):
        result = check(kind, only=names)
        assert result.passed, str(result)


def test_every_check_has_a_bug_that_it_catches() -> None:
    assert {kind.breaks for kind in BROKEN} == {one.name for one in CHECKS}
    assert all(one.asserts and one.cause for one in CHECKS)
    assert len({one.name for one in CHECKS}) == len(CHECKS)


def test_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "COLLECTIVE_SECONDS", 4.0)
    broken = [f"broken_optimizers:{name}" for name in ("RankWaits", "RankMasks")]
    targets = [*broken[:1], *OPTIMIZERS, "broken_optimizers:HonestSAM", *broken[1:]]
    found = {result.target: result for result in check_all(targets, only=[PARALLEL])}
    assert {target for target in targets if not found[target].passed} == set(broken)
    assert "the other does not join" in found[broken[0]].failures[0].detail
    assert "weights of the two ranks differ by" in found[broken[1]].failures[0].detail


def test_what_cannot_be_sent_to_other_processes_is_left_out() -> None:
    class Local(HonestSAM):
        pass

    (finding,) = check(Local, only=[PARALLEL]).findings
    assert finding.status == "skip"
    assert "MODULE:CLASS" in finding.detail


def test_an_optimizer_that_always_raises_does_not_stop_the_suite() -> None:
    result = check(broken_optimizers.AlwaysRaises, quick=True)
    statuses = dict(zip(result.frame["check"], result.frame["status"], strict=True))
    assert len(statuses) == len(CHECKS) - 1
    assert statuses["it trains"] == "fail"
    assert sum(status == "fail" for status in statuses.values()) >= 20
    assert "raised KeyError: 's'" in set(result.frame["detail"])


def test_the_two_step_form_is_driven_as_its_authors_mean_it() -> None:
    result = check(broken_optimizers.TwoStepSAM, {"rho": 0.1}, quick=True)
    assert result.form == "gradient first"
    assert {finding.check for finding in result.failures} == {
        "negative rho is refused",
        "weights restored when the closure raises",
        "buffers touched once",
        "same dropout mask in all passes",
        "half-precision weights refused or handled",
    }
    spent = result.frame.set_index("check").loc["gradient evaluations counted"]
    assert spent["status"] == "skip"
    assert "2.00 gradients a step" in spent["detail"]


def test_two_steps_called_one_by_one() -> None:
    result = check(broken_optimizers.TwoStepsOnly, quick=True)
    assert result.form == "two steps"
    names = {finding.check for finding in result.failures}
    assert "weights restored exactly" not in names
    assert "buffers touched once" in names


def test_a_base_given_as_an_instance() -> None:
    result = check(broken_optimizers.AroundAnInstance, quick=True)
    statuses = result.frame.set_index("check")["status"]
    assert statuses["weights restored exactly"] == "pass"
    assert statuses["rho = 0 is the base optimizer"] == "pass"


def test_bad_targets_say_what_is_allowed() -> None:
    with pytest.raises(InvalidInput, match="unknown optimizer 'smm'; did you mean"):
        check("smm")
    with pytest.raises(InvalidInput, match="can't import 'no_such_module'"):
        check("no_such_module:SAM")
    with pytest.raises(InvalidInput, match="must be a subclass of torch.optim.Optimizer"):
        check("broken_optimizers:NotAnOptimizer")
    with pytest.raises(InvalidInput, match="target must be a registered name"):
        check(broken_optimizers.NotAnOptimizer)
    with pytest.raises(InvalidInput, match="sam: rho must be a number >= 0, but got -1"):
        check("sam", {"rho": -1})
    with pytest.raises(InvalidInput, match=r"unknown parameter of 'sam' 'rhoo'; did you mean 'rho'"):
        check("sam", {"rhoo": 0.1})
    with pytest.raises(InvalidInput, match=r"NeedsSomething can't be built: .*oracle.*needs as a parameter"):
        check(broken_optimizers.NeedsSomething)
    with pytest.raises(InvalidInput, match="unknown check 'it train'; did you mean 'it trains'"):
        check("sam", only=["it train"])


def test_a_missing_argument_can_be_given() -> None:
    result = check(broken_optimizers.NeedsSomething, {"oracle": {}}, only=["it trains"])
    assert [finding.status for finding in result.findings] == ["fail"]


def test_the_callers_random_streams_stand_still() -> None:
    before = torch.get_rng_state(), repr(np.random.get_state()), random.getstate()
    check(broken_optimizers.GlobalGenerator, quick=True)
    assert torch.equal(before[0], torch.get_rng_state())
    assert (repr(np.random.get_state()), random.getstate()) == before[1:]


def test_a_class_is_as_good_as_its_name() -> None:
    by_class, by_name = check(SAM, only=["it trains"]), check("sam", only=["it trains"])
    assert by_class.findings == by_name.findings
    assert by_class.target == "SAM"


def test_a_crash_inside_a_check_is_a_failure_with_its_message() -> None:
    def crash(subject: object) -> None:
        raise ZeroDivisionError("first line\nsecond line")

    from sharpbench.optim.conformance.subject import subject_of

    finding = Check("crash", "a bug", crash)(subject_of("sam"))
    assert (finding.status, finding.detail) == ("fail", "raised ZeroDivisionError: first line")
    assert finding.cause == "a bug"
