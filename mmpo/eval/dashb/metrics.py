"""DASH-B (Augustin et al. 2025, arXiv:2503.23573): pictures listed, answers read and counted.

1,341 pictures without an object, found because models see it there, and as many with it. Answers are read by the rule
`dash`; what says neither is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from mmpo.errors import UserError
from mmpo.eval.statistics.tally import YES_RATIO, Metric, Tally, by_image, share
from mmpo.eval.yes_no import parse
from mmpo.outside import read_json
from mmpo.statistics import Array, ratio

PROMPT = "Can you see a {object} in this image? Please answer only with yes or no."
SIDES: tuple[tuple[str, Literal["yes", "no"]], ...] = (("neg", "no"), ("pos", "yes"))
"""Folder and right answer, in the published order."""


@dataclass(frozen=True)
class DashQuestion:
    """Is the object `name` seen in the picture `image` (SIDE/DATASET/OBJECT/FILE)?"""

    image: str
    name: str
    label: Literal["yes", "no"]

    @property
    def id(self) -> str:
        return self.image

    @property
    def prompt(self) -> str:
        """Always with `a`, as published."""
        return PROMPT.format(object=self.name)


def read_questions(folder: str | Path) -> list[DashQuestion]:
    """The pictures of the two index files, those without the object first. Raises UserError for a file of another
    form."""
    found: list[DashQuestion] = []
    for side, label in SIDES:
        path = Path(folder) / f"dash_benchmark_{side}.json"
        if not path.is_file():
            raise UserError(f"{path} does not exist", hint="eval.dashb.folder is DASH-B's folder `images`")
        index = read_json(path)
        if not isinstance(index, dict) or not all(isinstance(objects, dict) for objects in index.values()):
            raise UserError(f"{path}: expected {{dataset: {{object: [file, …]}}}}")
        for dataset, objects in index.items():
            for name, files in objects.items():
                if not isinstance(files, list) or not all(isinstance(file, str) for file in files):
                    raise UserError(f"{path}: {dataset}/{name} must be a list of file names")
                found += [DashQuestion(f"{side}/{dataset}/{name}/{file}", name, label) for file in files]
    return found


_RIGHT_NO, _NO, _RIGHT_YES, _YES, _SAID_YES, _ALL = range(6)


def _harmonic(c: Array) -> Array:
    negative, positive = ratio(c[..., _RIGHT_NO], c[..., _NO]), ratio(c[..., _RIGHT_YES], c[..., _YES])
    return ratio(2 * negative * positive, negative + positive)


METRICS = (
    Metric(
        "accuracy", lambda c: ratio(c[..., _RIGHT_NO] + c[..., _RIGHT_YES], c[..., _ALL]), "higher",
        "share of right answers", headline=1, denominator=lambda c: c[..., _ALL],
    ),
    share("TNR", _RIGHT_NO, _NO, "higher", "pictures without the object of which that is said", watched=True),
    share("TPR", _RIGHT_YES, _YES, "higher", "pictures with the object of which that is said"),
    Metric(
        "harmonic_mean", _harmonic, "higher", "harmonic mean of TNR and TPR",
        denominator=lambda c: c[..., _RIGHT_NO] + c[..., _RIGHT_YES],
    ),
    share("yes_ratio", _SAID_YES, _ALL, "neither", **YES_RATIO),
)  # fmt: skip


def score(questions: Sequence[DashQuestion], texts: Sequence[str]) -> tuple[Tally, int]:
    """Counts by picture, and how many answers say neither yes nor no (they are wrong)."""
    rows = np.zeros((len(questions), 6), dtype=np.int64)
    outcomes: dict[str, bool] = {}
    unread = 0
    for row, question, text in zip(rows, questions, texts, strict=True):
        read = parse(text, "dash").label
        right = outcomes[question.id] = read == question.label
        there = question.label == "yes"
        row[[_RIGHT_YES, _YES] if there else [_RIGHT_NO, _NO]] = right, 1
        row[_SAID_YES], row[_ALL] = read == "yes", 1
        unread += read is None
    images, counts = by_image([question.image for question in questions], rows)
    return Tally(images, counts, METRICS, outcomes, "accuracy", {q.id: q.name for q in questions}), unread
