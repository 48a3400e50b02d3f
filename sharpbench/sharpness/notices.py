"""Warnings with a name, so that they can be filtered one by one."""

from __future__ import annotations


class MeasurementWarning(UserWarning):
    """Measuring goes on, in a way the caller should know of."""


class SlowerFormulation(MeasurementWarning):
    """An operator has no second derivative: products come from central differences of the gradient."""


class SmallerBatches(MeasurementWarning):
    """Memory ran out: gradient graphs are no longer kept, or batches are cut in two."""


class MeasuredInEvalMode(MeasurementWarning):
    """Modules in train mode that act otherwise in eval mode: the surface is that of eval mode."""


class LossDependsOnBatches(MeasurementWarning):
    """The losses of the batches are no weighted means over examples: L depends on how the data were cut."""
