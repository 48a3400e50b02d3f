"""The transformer block against torch's own, and how the character model starts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sharpbench.models import CharTransformer
from sharpbench.models.attention import TransformerBlock


@pytest.mark.parametrize("causal", [False, True])
def test_a_block_is_torchs_pre_norm_encoder_layer(causal: bool) -> None:
    torch.manual_seed(0)
    ours = TransformerBlock(12, heads=3, ratio=2).double()
    for p in ours.parameters():
        nn.init.normal_(p)
    theirs = nn.TransformerEncoderLayer(
        12, 3, 24, dropout=0.0, activation="gelu", batch_first=True, norm_first=True, layer_norm_eps=1e-6
    ).double()
    names = {
        "self_attn.in_proj_": "attn.qkv.", "self_attn.out_proj.": "attn.proj.", "linear1": "mlp.fc1",
        "linear2": "mlp.fc2",
    }  # fmt: skip
    state = ours.state_dict()
    renamed = {}
    for key in theirs.state_dict():
        source = key
        for theirs_name, ours_name in names.items():
            source = source.replace(theirs_name, ours_name)
        renamed[key] = state[source]
    theirs.load_state_dict(renamed)
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    mask = torch.ones(5, 5, dtype=torch.bool).triu(1) if causal else None
    torch.testing.assert_close(ours(x, mask), theirs(x, src_mask=mask), rtol=1e-10, atol=1e-10)


def test_the_character_model_starts_near_the_uniform_guess() -> None:
    torch.manual_seed(0)
    model, tokens = CharTransformer(8, 50), torch.randint(0, 50, (16, 8))
    loss = nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.roll(-1, 1).flatten())
    assert float(loss.detach().exp()) == pytest.approx(50, rel=0.05)


def test_files_of_the_character_model_hold_weights_only() -> None:
    model = CharTransformer(8, 50)
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}
