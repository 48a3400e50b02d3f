"""How the weights of a network are drawn, where its paper asks for more than torch's default."""

from __future__ import annotations

import math

from torch import nn


def he_fan_out(network: nn.Module) -> None:
    """Draw convolutions from N(0, 2 / (k_h k_w fan_out)), biases 0; BatchNorm is the identity.

    He et al. 2015 (arXiv 1502.01852, eq. 14): the variance of *gradients* is kept through a ReLU layer. The
    form with fan-out is that of the public code of ResNet, WideResNet, DenseNet and PyramidNet. Linear layers
    keep torch's default.

    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> layer = nn.Conv2d(4, 64, 3)
    >>> he_fan_out(layer)
    >>> expected = (2 / (9 * 64)) ** 0.5
    >>> abs(layer.weight.std().item() / expected - 1) < 0.05, layer.bias.abs().max().item()
    (True, 0.0)
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)


def truncated_normal(network: nn.Module, std: float = 0.02) -> None:
    """Draw linear layers and embeddings from N(0, std²) cut at ±2 (absolute), biases 0; LayerNorm is 1, 0.

    A convolution is a projection of patches: N(0, 1 / fan_in) cut at two deviations, so that small patches
    have unit scale too.

    Dosovitskiy et al. 2021 (their public code; std = .02 is BERT's, where the cut at 2 never acts).

    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> layer = nn.Linear(100, 100)
    >>> truncated_normal(layer)
    >>> round(layer.weight.std().item(), 3), layer.bias.abs().max().item()
    (0.02, 0.0)
    """
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d):
            scale = (module.in_channels * math.prod(module.kernel_size)) ** -0.5
            nn.init.trunc_normal_(module.weight, std=scale, a=-2 * scale, b=2 * scale)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.trunc_normal_(module.weight, std=std)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
