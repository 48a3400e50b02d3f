"""The columns of the frames and what they mean: one list for code, files, documentation and page."""

from __future__ import annotations

from dataclasses import dataclass

FRAMES_SCHEMA_VERSION = 1

STATUSES = ("done", "diverged", "failed", "missing", "damaged")

# Every name -> meaning below is shown in the report's glossary, in this order.
IDENTITY = {
    "run_id": "first 16 hex digits of the SHA-256 of the run's specification",
    "optimizer": "the label of the optimizer in this suite",
    "optimizer_name": "registered name, or MODULE:CLASS",
    "condition": "the values of the suite's condition axes, as one text",
    "seed": "the run's seed; the same seed is the same data, start and order for every optimizer",
}
TASK = {
    "dataset": "data set",
    "model": "network",
    "label_noise": "fraction of training labels replaced by another class",
    "train_fraction": "fraction of the training set used",
}
OUTCOME = {
    "status": "done, diverged (a result), failed (an error), missing (not finished), damaged (unreadable)",
    "reason": "why a run is not done",
}
COUNTS = {
    "epochs_completed": "epochs finished",
    "gradient_evaluations": "forward-backward passes of the whole training: the cost to compare by",
    "steps": "optimizer steps",
    "wall_seconds": "seconds of the whole run",
    "train_seconds": "seconds of training",
    "measure_seconds": "seconds of measuring sharpness",
    "parameters": "number of weights",
}
METRICS = {
    "train_loss": "mean loss on the training labels as trained (noise included), final weights",
    "train_accuracy": "accuracy on the training labels as trained (noise included), in [0, 1]",
    "clean_train_accuracy": "accuracy on the true training labels, in [0, 1]",
    "test_loss": "mean loss on the test set",
    "test_accuracy": "accuracy on the test set, in [0, 1]",
    "noisy_test_loss": "expected loss on the test set under the label noise of training",
    "noisy_test_accuracy": "expected accuracy on the test set under the label noise of training",
    "accuracy_gap": "train accuracy − test accuracy on the same label distribution: train_accuracy − "
    "noisy_test_accuracy (= test error − train error)",
    "loss_gap": "noisy_test_loss − train_loss",
}
# What a finished run can't do without; the gaps follow from these.
REQUIRED_METRICS = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")

RUN_COLUMNS = IDENTITY | TASK | OUTCOME | COUNTS | METRICS

HISTORY = {
    "epoch": "1-based",
    "train_loss": "running mean over the epoch's mini-batches",
    "train_accuracy": "running mean over the epoch's mini-batches",
    "test_loss": "after the epoch",
    "test_accuracy": "after the epoch",
    "lr": "learning rate",
    "gradient_evaluations": "forward-backward passes so far",
    "wall_seconds": "seconds so far",
}
MEASURES = {
    "measure": "name of the measure",
    "value": "estimate",
    "std_error": "standard error of the estimate",
    "ci_low": "lower end of its 95 % interval",
    "ci_high": "upper end",
    "hvps": "Hessian-vector products spent",
    "gradients": "gradients spent",
    "seconds": "time spent",
    "converged": "whether the requested precision was reached",
}
DENSITY = {
    "eigenvalue": "of the Hessian of the training loss",
    "density": "fraction of eigenvalues per unit of eigenvalue",
    "std_error": "standard error of the density",
}


@dataclass(frozen=True)
class MeasureName:
    """How a measure is written (``title``, a subscript after ``_``), and what it is."""

    title: str
    meaning: str


_KNOWN = {
    "loss": MeasureName("loss", "L(x): the training loss on the examples that define the surface"),
    "grad_norm": MeasureName("‖∇L‖", "norm of the gradient of the training loss"),
    "trace": MeasureName("tr H", "sum of all eigenvalues of the Hessian H of the training loss"),
    "frobenius_norm": MeasureName("‖H‖_F", "Frobenius norm: square root of the sum of squared eigenvalues"),
    "frobenius_squared": MeasureName("‖H‖_F²", "sum of squared eigenvalues"),
    "log_determinant": MeasureName(
        "log det", "Σ log(1 + |λ|/δ) = log det(I + |H|/δ), δ the damping set by the suite"
    ),
    "lambda_min": MeasureName("λ_min", "smallest (most negative) eigenvalue"),
    "sam_sharpness": MeasureName(
        "SAM sharpness", "L(x + ρ ∇L/‖∇L‖) − L(x): the rise of the loss one step of length ρ uphill"
    ),
}


def describe_measure(name: str) -> MeasureName:
    """Title and meaning of a measure's name; an unknown name (a plug-in's) stands for itself.

    >>> describe_measure("trace").title, describe_measure("lambda_2").title, describe_measure("mine").title
    ('tr H', 'λ_2', 'mine')
    """
    if name in _KNOWN:
        return _KNOWN[name]
    head, _, rank = name.partition("_")
    if head == "lambda" and rank.isdigit():
        which = "largest eigenvalue" if rank == "1" else f"eigenvalue number {rank}, largest first"
        return MeasureName(f"λ_{rank}", f"{which} of H")
    if name.startswith("phi_psi_mu:"):
        functional, _, radius = name.removeprefix("phi_psi_mu:").partition("@")
        how = "from loss values at radius ρ, antithetic" if radius else "from quadratic forms ½uᵀHu"
        return MeasureName(
            f"S {functional}{' @ρ' if radius else ''}",
            f"(φ, ψ, μ)-sharpness φ(E ψ(½uᵀHu)), u ~ μ, chosen to give {functional.replace('_', ' ')}; {how}",
        )
    return MeasureName(name, "a measure of this suite")


# Measured beside the sharpness, but not sharpness.
NOT_SHARPNESS = frozenset({"loss", "grad_norm"})
# The measures that leaderboard and figures show when the suite has measured them, in this order.
HEADLINE_MEASURES = ("trace", "frobenius_norm", "lambda_1", "log_determinant", "sam_sharpness")
