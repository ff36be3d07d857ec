"""A detector-like source of evidence for benchmarks on the demo world: NOT a detector. It knows the true boxes of the
scenes and errs at stated rates, so it shows what a source of that quality is worth and nothing about real detectors.

Each true box is missed with probability `miss`; each class that is not there gets a false box with probability `false`.
As with real detectors, scores say more than found or not: those of true boxes lie between 0.35 and 1 with a density
that rises to 1, those of false ones with one that falls; below 0.35, what is missed lies high and what is not there low
(all densities linear). The cuts are those of a detector without controls. Errors are drawn from the seed, the picture
and the class: independent of any model.
"""

from __future__ import annotations

import json
import math
import random
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import Field

from mmpo.data.annotations.read import read_annotations
from mmpo.data.image_digests import pixel_digest
from mmpo.data_builders.units import file_digest
from mmpo.errors import UserError
from mmpo.evidence.cuts import VerdictCuts
from mmpo.evidence.records import EvidencePicture, SourceFinding
from mmpo.evidence.registry import evidence_source
from mmpo.evidence.settings import SourceSettings
from mmpo.evidence.source import EvidenceSource
from mmpo.files.images import load_image, read_image

NAME: Literal["noisy_oracle"] = "noisy_oracle"
THRESHOLD = 0.35


class NoisyOracleSettings(SourceSettings):
    """Where the truth is, and how often it is told wrongly."""

    source: Literal["noisy_oracle"]
    truth: list[Path] = Field(min_length=1, description="Annotations of all pictures that may be asked about.")
    miss: float = Field(0.1, ge=0, le=1, description="Share of the true boxes that are not found.")
    false: float = Field(0.05, ge=0, le=1, description="Share of absent classes with a false box.")
    seed: int = Field(0, ge=0, description="Decides which.")


@evidence_source("noisy_oracle", settings=NoisyOracleSettings)
class NoisyOracle(EvidenceSource[NoisyOracleSettings]):
    """z is the best score of a box of the class."""

    @property
    def identity(self) -> str:
        settings = self.settings
        rates = json.dumps([settings.miss, settings.false, settings.seed])
        return f"noisy_oracle {' '.join(file_digest(path) for path in settings.truth)} {rates}"

    @cached_property
    def _boxes(self) -> dict[str, dict[str, list[list[float]]]]:
        """By the digest of a picture and by class: the true boxes [x1, y1, x2, y2]."""
        found: dict[str, dict[str, list[list[float]]]] = {}
        for path in self.settings.truth:
            for image in read_annotations(path):
                own = found.setdefault(pixel_digest(load_image(read_image(image.path, root=image.root))), {})
                for item in image.objects:
                    if item.bbox_xywh is not None:
                        x, y, width, height = item.bbox_xywh
                        own.setdefault(item.name, []).append([x, y, x + width, y + height])
        return found

    def find(
        self, pictures: Sequence[EvidencePicture], names: Sequence[Collection[str]]
    ) -> list[Mapping[str, SourceFinding]]:
        answers: list[Mapping[str, SourceFinding]] = []
        for picture, asked in zip(pictures, names, strict=True):
            if picture.key not in self._boxes:
                raise UserError(f"{picture.path}: its truth is not among {NAME}.truth")
            true = defaultdict(list, self._boxes[picture.key])
            answers.append({name: self._finding(picture.key, name, true[name]) for name in asked})
        return answers

    def _finding(self, key: str, name: str, true: Sequence[Sequence[float]]) -> SourceFinding:
        draw = random.Random(f"{self.settings.seed}/{key}/{name}")

        def score() -> float:
            rising = math.sqrt(draw.random())
            return rising if true else 1 - rising

        boxes = [[*box, THRESHOLD + (1 - THRESHOLD) * score()] for box in true if draw.random() >= self.settings.miss]
        if not true and draw.random() < self.settings.false:
            boxes = [[0.0, 0.0, 16.0, 16.0, THRESHOLD + (1 - THRESHOLD) * score()]]
        z = max((box[-1] for box in boxes), default=THRESHOLD * score())
        return SourceFinding(z, "", {"boxes": boxes})

    def assumed_cuts(self, z: Sequence[float]) -> VerdictCuts:
        return VerdictCuts(THRESHOLD, THRESHOLD / 2)
