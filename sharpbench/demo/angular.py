"""Where a Gaussian vector points: the angular Gaussian law, in closed form and by quadrature."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr
from scipy.stats import norm

from ..errors import must_be

Vector = NDArray[np.float64]


def angular_density(directions: ArrayLike, mean: ArrayLike, variances: ArrayLike) -> Vector:
    """Density of ``g / ||g||`` on the unit sphere for ``g ~ N(m, S)``, ``S = diag(variances)``, in three
    dimensions:

        p(u) = |S|^(-1/2) A^(-3/2) (2 pi)^(-3/2) exp(-C/2) [ t + (1 + t^2) Phi(t) / phi(t) ],

    A = u' S^-1 u, C = m' S^-1 m, t = u' S^-1 m / sqrt(A); phi and Phi are the standard normal density and
    distribution function (integrate r^2 N(r u; m, S) over r > 0; Mardia and Jupp, Directional Statistics,
    2000, section 9.3.4, as the projected normal law).

    Args:
        directions: unit vectors, shape ``(..., 3)``.
        mean: shape ``(3,)``.
        variances: positive, shape ``(3,)``.

    Returns:
        Densities per steradian, shape ``(...)``.

    Raises:
        InvalidInput: a variance that is not positive, or other shapes.

    Example:
        Without mean and with equal variances every direction is alike:

        >>> round(float(angular_density([0.0, 0.0, 1.0], [0, 0, 0], [2, 2, 2])) * 4 * math.pi, 12)
        1.0
    """
    center, spread = _checked(mean, variances)
    u = np.asarray(directions, dtype=np.float64)
    a = (u**2 / spread).sum(-1)
    c = float((center**2 / spread).sum())
    t = (u * center / spread).sum(-1) / np.sqrt(a)
    # exp(-C/2) / phi(t) in one exponent: t^2 <= C (Cauchy-Schwarz), so nothing overflows.
    ratio = math.sqrt(2 * math.pi) * np.exp((t**2 - c) / 2)
    radial = t * math.exp(-c / 2) + (1 + t**2) * ndtr(t) * ratio
    density: Vector = radial / (np.sqrt(spread.prod()) * a**1.5 * (2 * math.pi) ** 1.5)
    return density


def cap_probability(
    mean: ArrayLike, variances: ArrayLike, axis: ArrayLike, half_angle: float, nodes: int = 160
) -> float:
    """P(angle between g and ``axis`` <= ``half_angle``) for ``g ~ N(mean, diag(variances))``.

    Gauss-Legendre in the cosine, trapezoid (spectrally exact for periodic functions) in the azimuth.

    Args:
        axis: any nonzero vector, shape ``(3,)``; its negative gives the opposite cap.
        half_angle: radians, in (0, pi].
        nodes: quadrature points in each variable.

    Raises:
        InvalidInput: a variance that is not positive, a zero axis, or an angle outside (0, pi].

    Example:
        >>> round(cap_probability([0, 0, 0], [1, 1, 1], [1, 0, 0], math.pi / 2), 12)
        0.5
    """
    if not 0 < half_angle <= math.pi:
        raise must_be("half_angle", "in (0, pi]", half_angle)
    pole = np.asarray(axis, dtype=np.float64)
    length = float(np.linalg.norm(pole))
    if not length > 0:
        raise must_be("axis", "a nonzero vector", axis)
    pole = pole / length
    points, weights = np.polynomial.legendre.leggauss(nodes)
    lowest = math.cos(half_angle)
    cosine = lowest + (1 - lowest) * (points + 1) / 2
    weights = weights * (1 - lowest) / 2
    azimuth = 2 * math.pi * np.arange(2 * nodes) / (2 * nodes)
    first, second = orthogonal_pair(pole)
    sine = np.sqrt(1 - cosine**2)
    ring = np.cos(azimuth)[:, None] * first + np.sin(azimuth)[:, None] * second
    u = cosine[:, None, None] * pole + sine[:, None, None] * ring
    return float((weights * angular_density(u, mean, variances).mean(1)).sum() * 2 * math.pi)


def largest_entry_probability(mean: ArrayLike, variances: ArrayLike, index: int, sign: int) -> float:
    """P(|g_i| is the largest entry and g_i has this sign) for ``g ~ N(mean, diag(variances))``.

    ``int_0^inf N(x; s m_i, v_i) prod_{j != i} P(|g_j| < x) dx``, by Gauss-Legendre over the twelve
    standard deviations that matter. This is where L1-SAM looks (arXiv 2501.06603, Table II).

    Example:
        >>> round(6 * largest_entry_probability([0, 0, 0], [1, 1, 1], 0, +1), 10)
        1.0
    """
    center, spread = _checked(mean, variances)
    deviation = np.sqrt(spread)
    shifted = sign * center[index]
    low = max(0.0, shifted - 12 * deviation[index])
    high = max(0.0, shifted + 12 * deviation[index])
    points, weights = np.polynomial.legendre.leggauss(400)
    x = low + (high - low) * (points + 1) / 2
    density = norm.pdf(x, shifted, deviation[index])
    for j in range(3):
        if j != index:
            density = density * (ndtr((x - center[j]) / deviation[j]) - ndtr((-x - center[j]) / deviation[j]))
    return float((weights * density).sum() * (high - low) / 2)


def orthogonal_pair(pole: Vector) -> tuple[Vector, Vector]:
    """Two unit vectors that complete the unit vector ``pole`` to a right-handed frame."""
    helper = np.eye(3)[int(np.abs(pole).argmin())]
    first = np.cross(pole, helper)
    first /= np.linalg.norm(first)
    return first, np.cross(pole, first)


def _checked(mean: ArrayLike, variances: ArrayLike) -> tuple[Vector, Vector]:
    center = np.asarray(mean, dtype=np.float64)
    spread = np.asarray(variances, dtype=np.float64)
    if center.shape != (3,) or spread.shape != (3,):
        raise must_be("mean and variances", "of shape (3,)", (center.shape, spread.shape))
    if not (spread > 0).all():
        raise must_be("variances", "> 0", spread.tolist())
    return center, spread
