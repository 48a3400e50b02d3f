"""Several seeds of a network as one: torch.func.stack_module_state and vmap give what each gives alone."""

from __future__ import annotations

import copy

import pytest
import torch
from model_cases import FAMILIES, examples, network
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap

from sharpbench.training.batch import mean_cross_entropy

SEEDS = (0, 1, 2)


@pytest.mark.parametrize("name", FAMILIES)
def test_stacked_networks_agree_with_each_alone_in_eval_mode(name: str) -> None:
    models = [network(name, seed=seed).eval() for seed in SEEDS]
    x, _ = examples(name)
    skeleton = copy.deepcopy(models[0]).to("meta")
    logits = vmap(lambda p, b: functional_call(skeleton, (p, b), (x,)))(*stack_module_state(models))
    alone = torch.stack([model(x) for model in models])
    torch.testing.assert_close(logits, alone, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_stacked_gradients_and_statistics_agree_in_train_mode(name: str) -> None:
    models: list[nn.Module] = [network(name, seed=seed).double() for seed in SEEDS]
    x, y = examples(name, dtype=torch.float64)
    weights, buffers = stack_module_state(models)
    skeleton = copy.deepcopy(models[0]).to("meta")

    def loss(p: dict[str, Tensor], b: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        # BatchNorm writes into the buffers it is given: into copies, which are handed back.
        own = {key: value.clone() for key, value in b.items()}
        return mean_cross_entropy(functional_call(skeleton, (p, own), (x,)), y), own

    gradients, after = vmap(grad(loss, has_aux=True))(weights, buffers)
    for index, model in enumerate(models):
        mean_cross_entropy(model(x), y).backward()
        for key, p in model.named_parameters():
            torch.testing.assert_close(gradients[key][index], p.grad, rtol=1e-6, atol=1e-9)
        for key, value in model.named_buffers():
            torch.testing.assert_close(after[key][index], value, rtol=1e-6, atol=1e-9)
