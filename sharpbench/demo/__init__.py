"""Case studies that run by themselves in seconds: sharpness-aware rules where they can be seen exactly."""

from .adversarial_model import DEMO as _ADVERSARIAL_MODEL
from .asymmetric_valley import DEMO as _ASYMMETRIC_VALLEY
from .case import Demo, DemoResult

#: By name, as ``sharpbench demo NAME`` takes it.
DEMOS: dict[str, Demo] = {demo.name: demo for demo in (_ASYMMETRIC_VALLEY, _ADVERSARIAL_MODEL)}

__all__ = ["DEMOS", "Demo", "DemoResult"]
