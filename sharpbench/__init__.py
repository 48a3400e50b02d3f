"""sharpbench: sharpness measurement and benchmarking of sharpness-aware optimizers for PyTorch.

>>> import torch, sharpbench
>>> model = torch.nn.Linear(3, 2)
>>> data = (torch.randn(8, 3), torch.randint(0, 2, (8,)))
>>> card = sharpbench.measure(model, torch.nn.functional.cross_entropy, data)
>>> "trace" in set(card.frame["measure"])
True
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .sharpness import Card as Card
    from .sharpness import LossSurface as LossSurface
    from .sharpness import Spectrum as Spectrum
    from .sharpness import measure as measure
    from .sharpness import spectrum as spectrum

__all__ = ["Card", "LossSurface", "Spectrum", "__version__", "measure", "spectrum"]


def __getattr__(name: str) -> Any:
    # On first use, so that `sharpbench --help` does not wait for torch.
    if name in __all__:
        return getattr(importlib.import_module(f"{__name__}.sharpness"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
