"""Sharpness-aware optimizers: every variant as an answer to two questions, where to look and what to hand."""

from .ascent import (
    ConstraintPreconditioner,
    ElementwiseScale,
    FriendlyResidual,
    GradientEMA,
    InverseRootFisher,
    InverseVariance,
    ObjectivePreconditioner,
    SignGradient,
    TopMagnitude,
)
from .base import SharpnessAware
from .closures import BatchLoss
from .presam import PreSAM
from .registry import OPTIMIZERS, build, check_parameters, complete_parameters
from .universal import UniversalSAM
from .variants.descent_rules import CRSAM, GNP, GSAM, WSAM, LookSAM
from .variants.momentum import MSAM
from .variants.policies import AESAM, LazySAM
from .variants.sampled import DetSAM, FrobSAM, TraceSAM
from .variants.selective import ESAM
from .variants.sparse import SSAMD, SSAMF, ModifiedSSAM
from .variants.two_pass import (
    ASAM,
    L1SAM,
    SAM,
    FisherSAM,
    FriendlySAM,
    InfoSAM,
    LInfSAM,
    NSupportSAM,
    PassThrough,
    VaSSO,
)

__all__ = [
    "AESAM",
    "ASAM",
    "BatchLoss",
    "CRSAM",
    "ConstraintPreconditioner",
    "DetSAM",
    "ESAM",
    "ElementwiseScale",
    "FisherSAM",
    "FriendlyResidual",
    "FriendlySAM",
    "FrobSAM",
    "GNP",
    "GSAM",
    "GradientEMA",
    "InfoSAM",
    "InverseRootFisher",
    "InverseVariance",
    "L1SAM",
    "LInfSAM",
    "LazySAM",
    "LookSAM",
    "MSAM",
    "ModifiedSSAM",
    "NSupportSAM",
    "OPTIMIZERS",
    "ObjectivePreconditioner",
    "PassThrough",
    "PreSAM",
    "SAM",
    "SSAMD",
    "SSAMF",
    "SharpnessAware",
    "SignGradient",
    "TopMagnitude",
    "TraceSAM",
    "UniversalSAM",
    "VaSSO",
    "WSAM",
    "build",
    "check_parameters",
    "complete_parameters",
]
