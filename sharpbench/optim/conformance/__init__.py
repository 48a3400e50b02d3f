"""What any sharpness-aware optimizer must satisfy, as a product: ``check`` says what is wrong and why.

>>> from sharpbench.optim.conformance import check
>>> check("sam", quick=True).passed
True
"""

from .finding import Check, Conformance, Finding
from .suite import CHECKS, check, check_all

__all__ = ["CHECKS", "Check", "Conformance", "Finding", "check", "check_all"]
