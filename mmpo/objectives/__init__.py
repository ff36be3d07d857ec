"""Objectives: log-probabilities in, loss and metrics out. Pure functions; they never see a model."""

from __future__ import annotations

from mmpo.objectives import pairwise, reference_free, tars, visual
from mmpo.objectives.term import OBJECTIVES, Objective, Term, build_objective

__all__ = ["OBJECTIVES", "Objective", "Term", "build_objective", "pairwise", "reference_free", "tars", "visual"]
