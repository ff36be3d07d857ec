"""Sharpness-aware minimization."""

from __future__ import annotations

from mmpo.trainers.regularizers.settings import SamSettings
from mmpo.trainers.regularizers.vectors import TINY, Gradient, Vector, norm, plus, scaled


def sam(settings: SamSettings, weights: Vector, first: Vector, at: Gradient) -> Vector:
    """The gradient at w + e, e = rho g / (|g| + 1e-12); adaptive e = rho w^2 g / (|w g| + 1e-12). Norms are over all
    weights (arXiv:2010.01412 eq. 2; 2102.11600 eq. 6, both as in the implementation that others build on).

    Where B of an adapter is 0, A has no gradient: the first step perturbs B alone, and an adaptive one nothing."""
    if not settings.adaptive:
        return at(plus(weights, scaled(first, settings.radius)))
    factor = settings.radius / (norm([w * g for w, g in zip(weights, first, strict=True)]) + TINY)
    return at([w + w.square() * g * factor for w, g in zip(weights, first, strict=True)])
