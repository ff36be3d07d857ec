"""Robust weight perturbation."""

from __future__ import annotations

from collections.abc import Callable

from mmpo.trainers.regularizers.settings import RwpSettings
from mmpo.trainers.regularizers.vectors import Gradient, Vector, norm, plus

_TINY = 1e-20


def rwp(
    settings: RwpSettings, weights: Vector, at: Gradient, below: Callable[[Vector, float], tuple[Vector, int]]
) -> Vector:
    """The gradient at w + gamma |w| d / |d|, d the sum of the gradients of small losses at each point on the way there
    (arXiv:2205.14826; the release adds up differences of its proxy, whose rate cancels, and measures all matrices as
    one vector). `below(weights, threshold)` gives that gradient, and of how many pairs.

    Without a pair below the threshold there is no further step: it would be the same point again."""
    ascent: Vector | None = None
    point = weights
    for _ in range(settings.steps):
        gradient, pairs = below(point, settings.threshold)
        if not pairs:
            break
        ascent = gradient if ascent is None else plus(ascent, gradient)
        # Vectors, whose rank is below 2, are no part of it, as in the release.
        matrices = [part for part in ascent if part.dim() > 1]
        own = [part for part in weights if part.dim() > 1]
        factor = settings.gamma * norm(own) / (norm(matrices) + _TINY)
        point = [w + factor * d if w.dim() > 1 else w for w, d in zip(weights, ascent, strict=True)]
    return at(point)
