"""Every family of networks trains two steps under every optimizer, as the harness trains, and is measured."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from model_cases import FAMILIES, examples, network

from sharpbench import measure
from sharpbench.functionals import FROBENIUS
from sharpbench.optim import OPTIMIZERS
from sharpbench.spec import OptimizerSpec, TaskSpec
from sharpbench.training.batch import mean_cross_entropy
from sharpbench.training.evaluate import evaluate
from sharpbench.training.feed import Examples
from sharpbench.training.loop import train

# A small rate: images of noise have steep gradients at the start, and a penalty on curvature steeper ones.
TASK = TaskSpec(epochs=1, batch_size=8, lr=1e-3, schedule="constant")
# What has no default, or would do nothing within two steps.
PARAMETERS: dict[str, dict[str, Any]] = {
    "universal": {"measure": FROBENIUS, "n_samples": 2, "weight": 1e-3},
    "presam": {"objective": {"name": "inverse_variance"}, "constraint": {"name": "elementwise_scale"}},
    "lazy": {"p": 1.0},
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_two_steps(family: str, optimizer: str) -> None:
    model = network(family)
    data = Examples(*examples(family, count=16))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    loss, _ = evaluate(model, data)
    method = OptimizerSpec(name=optimizer, label=optimizer, parameters=PARAMETERS.get(optimizer, {}))
    course = train(model, TASK, method, seed=0, train_set=data, test_set=data)
    assert course.diverged is None
    assert course.steps == 2
    assert course.gradient_evaluations >= 2
    assert math.isfinite(course.history[-1]["test_loss"])
    assert course.history[-1]["test_loss"] != loss
    for key, value in model.state_dict().items():
        assert value.isfinite().all(), key
        assert not torch.equal(value, before[key]), f"{key} stayed as it was"
        # Statistics see each mini-batch once, at the weights, however often the rule looks elsewhere.
        if key.endswith("num_batches_tracked"):
            assert value == course.steps, key


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_measured(family: str) -> None:
    model = network(family)
    inputs, labels = examples(family)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    card = measure(model.eval(), mean_cross_entropy, (inputs, labels), hvps=12, top_k=1, seed=0)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    rows = card.frame.set_index("measure")
    loss, _ = evaluate(model, Examples(inputs, labels))
    assert rows.loc["loss", "value"] == pytest.approx(loss, rel=1e-5)
    # log det(I + s² H) with s = .1 is no number where an eigenvalue is below -100.
    undefined = {"phi_psi_mu:log_det"} if card["lambda_min"] < -100 else set()
    missing = set(rows.index[~rows["value"].map(math.isfinite)])
    # At a radius the functional is finite, but its estimate may overflow where that limit is infinite.
    assert undefined <= missing <= undefined | {f"{name}@radius" for name in undefined}
    assert all("infinite" in card.notes[name] for name in missing)
    assert 0 < card["lambda_1"] <= rows.loc["frobenius_norm", "ci_high"]
