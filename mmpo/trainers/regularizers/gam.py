"""Gradient-norm aware minimization."""

from __future__ import annotations

from mmpo.trainers.regularizers.settings import GamSettings
from mmpo.trainers.regularizers.vectors import TINY, Gradient, Vector, inner, norm, plus, scaled


def gam(settings: GamSettings, weights: Vector, first: Vector, at: Gradient) -> Vector:
    """g1 + g3 - mix times the part of g0 + g2 at right angles to it (arXiv:2303.03108; release xxgege/GAM), where
    g1 = g(w + rho u(g0)), v = w + norm_rho u(g1 - g0), g2 = g(v), g3 = g(v + rho u(g2)).

    The sum of two gradients is about twice one, as in the release: clipping and rate see that."""
    ahead = at(plus(weights, scaled(first, settings.rho)))
    steeper = plus(weights, scaled(plus(ahead, first, -1.0), settings.norm_rho))
    there = at(steeper)
    beyond = at(plus(steeper, scaled(there, settings.rho)))
    new, old = plus(ahead, beyond), plus(first, there)
    along = inner(old, new) / (norm(new) * norm(old) + TINY) * norm(old) / (norm(new) + TINY)
    across = plus(old, new, -along)
    return plus(new, across, -settings.mix)
