"""Objectives: log-probabilities in, loss and metrics out. Pure functions; they never see a model."""

from __future__ import annotations

from mmpo.objectives import (
    adaptive,
    batchwise,
    divergence,
    flow,
    groups,
    lengths,
    pairwise,
    parts,
    phrases,
    ranking,
    reference_free,
    references,
    scores,
    shapes,
    sided,
    subset,
    symmetric,
    tars,
    tars_official,
    visual,
)
from mmpo.objectives.build import Objective, build_objective
from mmpo.objectives.registry import OBJECTIVES, objective
from mmpo.objectives.term import Term

__all__ = [
    "OBJECTIVES",
    "Objective",
    "Term",
    "adaptive",
    "batchwise",
    "build_objective",
    "divergence",
    "flow",
    "groups",
    "lengths",
    "objective",
    "pairwise",
    "parts",
    "phrases",
    "ranking",
    "reference_free",
    "references",
    "scores",
    "shapes",
    "sided",
    "subset",
    "symmetric",
    "tars",
    "tars_official",
    "visual",
]
