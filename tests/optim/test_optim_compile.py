"""torch.compile of the model, and bf16 autocast, under every optimizer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from optim_problem import NAMES, build, problem, sgd
from torch import Tensor, nn

# Kept together: compiling is the slow part, and one graph serves all of them.
COMPILED = problem(batchnorm=True)
GRAPH: Any = torch.compile(COMPILED.model, backend="aot_eager")
# Parameters under which a rule shows all it has within four steps.
SET: dict[str, dict[str, Any]] = {
    "frob_sam": {"weight": 0.5, "rho": 0.05},
    "looksam": {"k": 2},
    "ssam_d": {"update_every": 2},
    "ssam_f": {"update_every": 2},
}


@pytest.mark.parametrize("given", [True, False], ids=["model given", "model found"])
@pytest.mark.parametrize("name", NAMES)
def test_a_compiled_model_trains_as_the_eager_one_does(name: str, given: bool) -> None:
    eager = problem(batchnorm=True)
    inner = COMPILED.model
    inner.load_state_dict(eager.model.state_dict())
    for p in inner.parameters():
        p.grad = None
    opt = build(name, sgd(inner), GRAPH if given else None, **SET.get(name, {}))
    plain = build(name, sgd(eager.model), eager.model if given else None, **SET.get(name, {}))
    COMPILED.model = GRAPH
    try:
        losses = COMPILED.run(opt, 4)
    finally:
        COMPILED.model = inner
    assert losses == pytest.approx(eager.run(plain, 4), abs=1e-12)
    for (key, ours), theirs in zip(
        inner.state_dict().items(), eager.model.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12, msg=key)
    assert opt.gradient_evaluations == plain.gradient_evaluations


@pytest.mark.parametrize("name", NAMES)
def test_bf16_autocast_trains_and_comes_back(name: str) -> None:
    p = problem()
    p.model.float()
    p.batches = [(x.float(), y) for x, y in p.batches]
    # Det-SAM's u is small and LookSAM's k long: the defaults of the paper all train here.
    opt = build(name, sgd(p.model, lr=0.05))
    closures = [p.closure(opt, i) for i in range(4)]
    dtypes = set()
    for closure in closures:
        losses = closure.losses

        def cast(losses: Any = losses) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return losses()

        closure.losses = cast
    p.model[0].register_forward_hook(lambda module, args, out: dtypes.add(out.dtype))
    first = sum(opt.step(c).item() for c in closures)
    for _ in range(20):
        last = sum(opt.step(c).item() for c in closures)
    assert last < first
    assert dtypes == {torch.bfloat16}
    assert all(q.dtype == torch.float32 for q in p.model.parameters())
    before = nn.utils.parameters_to_vector(p.model.parameters()).clone()
    opt.param_groups[0]["lr"] = 0.0
    if name != "adamw":
        opt.step(closures[0])
        assert torch.equal(nn.utils.parameters_to_vector(p.model.parameters()), before)
