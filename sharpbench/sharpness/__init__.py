"""Sharpness measures: one loss surface, one spectral pass, every number with its error."""

from ..functionals import (
    AVERAGE_DIRECTION,
    FROBENIUS,
    LOG_DET,
    TRACE,
    Measure,
    UniversalMeasure,
    determinant_measure,
    log_det_measure,
    power_sum_measure,
    scale_invariant,
)
from .card import MEASURES, Card, measure
from .estimate import Estimate
from .krylov import KrylovBasis
from .perturbation import average_case_sharpness, sam_sharpness, worst_case_sharpness
from .spectrum import DenseSpectrum, Spectrum, spectrum
from .surface import LossSurface
from .universal import at_radius, of_hessian

__all__ = [
    "AVERAGE_DIRECTION",
    "FROBENIUS",
    "LOG_DET",
    "MEASURES",
    "TRACE",
    "Card",
    "DenseSpectrum",
    "Estimate",
    "KrylovBasis",
    "LossSurface",
    "Measure",
    "Spectrum",
    "UniversalMeasure",
    "at_radius",
    "average_case_sharpness",
    "determinant_measure",
    "log_det_measure",
    "measure",
    "of_hessian",
    "power_sum_measure",
    "sam_sharpness",
    "scale_invariant",
    "spectrum",
    "worst_case_sharpness",
]
