"""Computations recorded kernel by kernel, to be run again without what lies between the kernels."""

from .recording import Tape
from .straight_line import Program

__all__ = ["Program", "Tape"]
