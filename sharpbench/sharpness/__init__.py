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
from .capacity import capacity_rows, margin
from .card import Card, measure, measure_layers
from .estimate import Estimate
from .examples import gradient_moments
from .gauss_newton import GaussNewton
from .groups import MEASURES
from .krylov import KrylovBasis
from .notices import (
    LossDependsOnBatches,
    MeasuredInEvalMode,
    MeasurementWarning,
    SlowerFormulation,
    SmallerBatches,
)
from .operator import Rescaled, SymmetricOperator
from .pac_bayes import pac_bayes
from .path_norm import path_norm
from .perturbation import average_case_sharpness, sam_sharpness, worst_case_sharpness
from .relative import gauss_newton_rows, relative_flatness, scale_invariant_rows
from .slices import filter_normalised, interpolation, slice_1d, slice_2d
from .spectrum import DenseSpectrum, Spectrum, spectrum
from .subsets import m_sharpness
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
    "GaussNewton",
    "KrylovBasis",
    "LossDependsOnBatches",
    "LossSurface",
    "Measure",
    "MeasuredInEvalMode",
    "MeasurementWarning",
    "Rescaled",
    "SlowerFormulation",
    "SmallerBatches",
    "Spectrum",
    "SymmetricOperator",
    "UniversalMeasure",
    "at_radius",
    "average_case_sharpness",
    "capacity_rows",
    "determinant_measure",
    "filter_normalised",
    "gauss_newton_rows",
    "gradient_moments",
    "interpolation",
    "log_det_measure",
    "m_sharpness",
    "margin",
    "measure",
    "measure_layers",
    "of_hessian",
    "pac_bayes",
    "path_norm",
    "power_sum_measure",
    "relative_flatness",
    "sam_sharpness",
    "scale_invariant",
    "scale_invariant_rows",
    "slice_1d",
    "slice_2d",
    "spectrum",
    "worst_case_sharpness",
]
