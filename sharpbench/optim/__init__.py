"""Sharpness-aware optimizers: every variant as an answer to two questions, where to look and what to hand."""

from .ascent import (
    ConstraintPreconditioner,
    ElementwiseScale,
    GradientEMA,
    InverseRootFisher,
    InverseVariance,
    ObjectivePreconditioner,
    SignGradient,
    TopMagnitude,
)
from .base import SharpnessAware
from .presam import PreSAM
from .registry import OPTIMIZERS, build, check_parameters
from .universal import UniversalSAM
from .variants.sampled import DetSAM, FrobSAM, TraceSAM
from .variants.two_pass import (
    ASAM,
    L1SAM,
    SAM,
    FisherSAM,
    InfoSAM,
    LInfSAM,
    NSupportSAM,
    PassThrough,
    VaSSO,
)

__all__ = [
    "ASAM",
    "OPTIMIZERS",
    "SAM",
    "ConstraintPreconditioner",
    "DetSAM",
    "ElementwiseScale",
    "FisherSAM",
    "FrobSAM",
    "GradientEMA",
    "InfoSAM",
    "InverseRootFisher",
    "InverseVariance",
    "L1SAM",
    "LInfSAM",
    "NSupportSAM",
    "ObjectivePreconditioner",
    "PassThrough",
    "PreSAM",
    "SharpnessAware",
    "SignGradient",
    "TopMagnitude",
    "TraceSAM",
    "UniversalSAM",
    "VaSSO",
    "build",
    "check_parameters",
]
