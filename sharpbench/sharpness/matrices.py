"""The weight matrices of a network's linear and convolutional layers."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from .surface import LossSurface

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class LayerMatrix:
    """The matrix of one layer in float64: block diagonal, one block for each group of a convolution."""

    name: str
    blocks: list[Tensor]


@dataclass(frozen=True)
class WeightMatrices:
    """The matrices found, and the types of layers with measured matrices that are of no known kind."""

    found: list[LayerMatrix]
    left_out: list[str]

    def note(self) -> str:
        """Which layers are not counted; empty where all are."""
        return f"without the matrices of {', '.join(self.left_out)}" if self.left_out else ""


def weight_matrices(surface: LossSurface) -> WeightMatrices:
    """One matrix for each linear or convolutional layer whose weight is among the measured parameters.

    A convolution is its matrix of shape (outputs, inputs x window), block diagonal where it has groups. The
    layers are torch's own, their subclasses, the projections of ``nn.MultiheadAttention``, and those that
    transformers calls ``Conv1D`` (linear, the weight of shape (in, out)).

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
        >>> data = (torch.ones(1, 2), torch.zeros(1, 1))
        >>> surface = LossSurface(model, nn.functional.mse_loss, data, params="1.*")
        >>> [(layer.name, layer.blocks[0].shape) for layer in weight_matrices(surface).found]
        [('1', torch.Size([1, 3]))]
    """
    measured = {id(p) for p in surface.parameters}
    found, left_out, counted = [], set(), set()
    for name, module in surface.model.named_modules():
        own = {key: p for key, p in module.named_parameters(recurse=False) if id(p) in measured}
        for key, matrix in _matrices(module, own, measured).items():
            found.append(LayerMatrix(".".join(part for part in (name, key) if part), matrix))
            counted |= {id(p) for p in own.values()} | _originals(module)
    # A tied weight may be counted by another layer than the one it is listed with.
    for module in surface.model.modules():
        for p in module.parameters(recurse=False):
            if id(p) in measured and id(p) not in counted and p.ndim >= 2:
                left_out.add(type(module).__name__)
    return WeightMatrices(found, sorted(left_out))


def _matrices(module: nn.Module, own: dict[str, nn.Parameter], measured: set[int]) -> dict[str, list[Tensor]]:
    if isinstance(module, nn.MultiheadAttention):
        keys = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
        found = {key: [own[key].detach().double()] for key in keys if key in own}
        if "in_proj_weight" in own:
            parts = own["in_proj_weight"].detach().double().chunk(3)
            found |= {key: [part] for key, part in zip(keys, parts, strict=True)}
        return found
    # A computed weight (weight norm and other parametrisations) counts if what it is made of is measured.
    made_of = any(key.startswith("weight") for key in own) or bool(_originals(module) & measured)
    weight = getattr(module, "weight", None)
    if not (made_of and isinstance(weight, Tensor)):
        return {}
    matrix = weight.detach().double()
    if isinstance(module, nn.Linear):
        return {"": [matrix]}
    if isinstance(module, CONVOLUTIONS):
        return {"": [block.flatten(1) for block in matrix.chunk(module.groups)]}
    if isinstance(module, TRANSPOSED):
        return {"": [block.transpose(0, 1).flatten(1) for block in matrix.chunk(module.groups)]}
    if (
        type(module).__name__ == "Conv1D"
        and matrix.ndim == 2
        and getattr(module, "nf", None) == len(matrix.T)
    ):
        return {"": [matrix.T]}
    return {}


def _originals(module: nn.Module) -> set[int]:
    """The parameters behind a parametrised ``weight``."""
    lists = getattr(module, "parametrizations", None)
    if not isinstance(lists, nn.ModuleDict) or "weight" not in lists:
        return set()
    return {id(p) for p in lists["weight"].parameters()}
