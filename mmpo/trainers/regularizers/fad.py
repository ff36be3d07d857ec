"""Flatness of orders zero and one in one descent."""

from __future__ import annotations

from mmpo.trainers.regularizers.settings import FadSettings
from mmpo.trainers.regularizers.vectors import Gradient, Vector, plus, scaled


def fad(settings: FadSettings, weights: Vector, first: Vector, at: Gradient) -> Vector:
    """g0 + beta (alpha h0 + (1 - alpha) h1), h0 = g(w + rho u(g0)) - g0, g2 = g(w + rho u(h0)),
    g3 = g(w + rho u(g2)), h1 = g3 - g2, u the unit vector (arXiv:2307.11108, after a third-party implementation)."""
    rho = settings.rho

    def uphill(direction: Vector) -> Vector:
        return at(plus(weights, scaled(direction, rho)))

    zeroth = plus(uphill(first), first, -1.0)
    second = uphill(zeroth)
    higher = plus(uphill(second), second, -1.0)
    mixed = plus([settings.alpha * part for part in zeroth], higher, 1.0 - settings.alpha)
    return plus(first, mixed, settings.beta)
