"""Photos, what is in them, and a source of evidence that reads it from a file: with mistakes, silence and failures
where the file says so."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from PIL import Image
from pydantic import Field

from mmpo.data_builders.candidates.settings import CandidateSettings
from mmpo.evidence.cuts import VerdictCuts
from mmpo.evidence.records import EvidencePicture, SourceFinding
from mmpo.evidence.registry import EVIDENCE_SOURCES, evidence_source
from mmpo.evidence.settings import SourceSettings
from mmpo.evidence.source import EvidenceSource
from mmpo.settings import FILE

DESCRIBE = "Describe the image."
SAYS = (
    "There is a cat on the left and a cup on the right.",
    "There is a cat on the left and a dog on the right.",
    "There is a horse on the left and a cup on the right.",
    "There is a cat on the left and a bird on the right.",
)
ANSWERS = {
    "cat": "Yes, there is a cat.",
    "dog": "Yes, there is a dog.",
    "cup": "No, there is no cup.",
    "horse": "No, there is no horse.",
    "bird": "Yes, there is a bird.",
}
THINGS = ("cat", "cup", "dog", "horse", "bird")
NAMES = [f"p{n}.png" for n in range(10)]
CUT, COPY, ORIGINAL = NAMES[3], NAMES[5], NAMES[1]


def picture(seed: int, size: tuple[int, int] = (64, 48)) -> Image.Image:
    """Large soft shapes, others for each seed."""
    colors = np.random.default_rng(seed).integers(0, 255, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(colors).resize(size, Image.Resampling.BICUBIC)


def write_photos(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(NAMES):
        picture(number).save(folder / name)
    picture(NAMES.index(ORIGINAL), (128, 96)).save(folder / COPY)
    whole = (folder / CUT).read_bytes()
    (folder / CUT).write_bytes(whole[: len(whole) // 2])
    return folder


def truth(**changes: Mapping[str, float | None]) -> dict[str, dict[str, float | None]]:
    """z of each class by photo: a cat and a cup are everywhere, a dog and a horse nowhere, a bird is uncertain."""
    usual: dict[str, float | None] = {"cat": 1.0, "cup": 0.9, "dog": -1.0, "horse": -0.8, "bird": 0.0}
    return {name: {**usual, **changes.get(name.removesuffix(".png"), {})} for name in NAMES}


class ScriptedSettings(SourceSettings):
    """A source whose findings are in a file: {photo: {class: z or null}}."""

    source: Literal["scripted"]
    path: Annotated[Path, FILE] = Field(description="The file.")


class Scripted(EvidenceSource[ScriptedSettings]):
    """Abstains where the file has null or nothing."""

    asked: list[str] = []  # noqa: RUF012

    @property
    def identity(self) -> str:
        return f"scripted {self.settings.path.read_text()}"

    def find(
        self, pictures: Sequence[EvidencePicture], names: Sequence[Collection[str]]
    ) -> list[Mapping[str, SourceFinding]]:
        known = json.loads(self.settings.path.read_text())
        type(self).asked += [picture.path for picture in pictures]
        return [
            {name: self._finding(known.get(picture.path, {}).get(name)) for name in own}
            for picture, own in zip(pictures, names, strict=True)
        ]

    def _finding(self, z: float | None) -> SourceFinding:
        boxes = [[4.0, 4.0, 30.0, 40.0, z]] if z is not None and z > 0 else []
        return SourceFinding(z, "" if z is not None else "silent", {"boxes": boxes} if boxes else {})

    def assumed_cuts(self, z: Sequence[float]) -> VerdictCuts:
        return VerdictCuts(0.5, -0.5)


def register() -> None:
    """Make the source known, once in a process."""
    if "scripted" not in EVIDENCE_SOURCES:
        evidence_source("scripted", settings=ScriptedSettings)(Scripted)


def settings(
    model: Path, photos: Path, folder: Path, *sources: Mapping[str, Mapping[str, float | None]], **changes: Any
) -> CandidateSettings:
    """Settings of a quick build; `sources` are what scripted sources say, by default two that agree."""
    register()
    evidence = []
    for number, findings in enumerate(sources or (truth(), truth())):
        path = folder / f"scripted-{number}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(findings))
        evidence.append({"source": "scripted", "path": str(path)})
    words = folder / "words.json"
    words.write_text(json.dumps({name: [] for name in THINGS}))
    values: dict[str, Any] = {
        "builder": "candidates",
        "model": str(model),
        "images": str(photos),
        "vocabulary": str(words),
        "prompts": [DESCRIBE],
        "samples": 5,
        "temperature": 1.0,
        "max_new_tokens": 40,
        "evidence": evidence,
        "shard_size": 3,
        "drawn": 2,
    }
    return CandidateSettings.model_validate(values | changes)
