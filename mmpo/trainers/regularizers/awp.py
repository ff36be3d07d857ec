"""Adversarial weight perturbation."""

from __future__ import annotations

from mmpo.trainers.regularizers.settings import AwpSettings
from mmpo.trainers.regularizers.vectors import Gradient, Vector

_TINY = 1e-20


def awp(settings: AwpSettings, weights: Vector, first: Vector, at: Gradient) -> Vector:
    """The gradient at w + gamma |w| g / |g|, matrix by matrix (arXiv:2004.05884; release csdongxian/AWP).

    The release takes one step of plain gradient ascent with a proxy and brings each difference to that length: the
    proxy's rate (0.01) cancels. Tensors of rank below 2 are left alone, and so is a B that is 0."""

    def moved(w: Vector, g: Vector) -> Vector:
        return [
            a + settings.gamma * a.norm() / (b.norm() + _TINY) * b if a.dim() > 1 else a
            for a, b in zip(w, g, strict=True)
        ]

    return at(moved(weights, first))
