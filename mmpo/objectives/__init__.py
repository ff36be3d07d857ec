"""Objectives: log-probabilities in, loss and metrics out. Pure functions; they never see a model."""

from __future__ import annotations

from mmpo.objectives import (
    adaptive,
    batchwise,
    divergence,
    flow,
    groups,
    lengths,
    pair_weights,
    pairwise,
    parts,
    phrases,
    ranking,
    ratios,
    reference_free,
    references,
    scores,
    shapes,
    sided,
    single,
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
    "pair_weights",
    "pairwise",
    "parts",
    "phrases",
    "ranking",
    "ratios",
    "reference_free",
    "references",
    "scores",
    "shapes",
    "sided",
    "single",
    "subset",
    "symmetric",
    "tars",
    "tars_official",
    "visual",
]
