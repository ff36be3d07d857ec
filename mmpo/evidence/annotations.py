"""The source `annotations`: what people marked in the pictures or wrote about them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import ClassVar

from mmpo.data.annotations.read import read_annotations
from mmpo.data.truth import truth_of
from mmpo.errors import UserError
from mmpo.evidence.cuts import VerdictCuts
from mmpo.evidence.records import EvidencePicture, SourceFinding
from mmpo.evidence.settings import AnnotationsSource
from mmpo.evidence.source import EvidenceContext, EvidenceSource
from mmpo.files.atomic import file_digest


class MarkedObjects(EvidenceSource[AnnotationsSource]):
    """z is +1 for a class that is marked or named in a caption, -1 for one that is not. It abstains about pictures it
    does not list, classes outside its own vocabulary, and, unless it is `complete`, classes that are not marked."""

    calibrated: ClassVar[bool] = False

    def __init__(self, settings: AnnotationsSource, context: EvidenceContext) -> None:
        super().__init__(settings, context)
        if not settings.path.is_file():
            raise UserError(f"{settings.path}: no such annotation file")

    @property
    def identity(self) -> str:
        complete, classes = self.settings.complete, ",".join(self.settings.classes)
        return f"annotations {file_digest(self.settings.path)} complete={complete} classes={classes}"

    @cached_property
    def _known(self) -> tuple[dict[str, frozenset[str]], frozenset[str]]:
        """The classes in each picture by its path, and the annotation's own vocabulary."""
        vocabulary, categories = self.context.vocabulary, list[str]()
        present: dict[str, frozenset[str]] = {}
        for image in read_annotations(self.settings.path, self.settings.path.parent, categories=categories):
            present[image.path] = truth_of(image, vocabulary).names | present.get(image.path, frozenset())
        if not present:
            raise UserError(f"{self.settings.path}: no images are listed there")
        listed = self.settings.classes or categories
        own = (
            frozenset(filter(None, map(vocabulary.name_of, listed))) if listed else frozenset().union(*present.values())
        )
        if unknown := [name for name in self.settings.classes if vocabulary.name_of(name) is None]:
            raise UserError(f"evidence.classes: {unknown[0]!r} is not in the vocabulary")
        return present, own

    def find(
        self, pictures: Sequence[EvidencePicture], names: Sequence[Collection[str]]
    ) -> list[Mapping[str, SourceFinding]]:
        present, own = self._known
        return [
            {name: self._finding(present.get(picture.path), name, own) for name in asked}
            for picture, asked in zip(pictures, names, strict=True)
        ]

    def _finding(self, there: frozenset[str] | None, name: str, own: frozenset[str]) -> SourceFinding:
        if there is None:
            return SourceFinding(None, "not_annotated")
        if name in there:
            return SourceFinding(1.0)
        if name not in own:
            return SourceFinding(None, "outside_vocabulary")
        return SourceFinding(-1.0) if self.settings.complete else SourceFinding(None, "not_marked")

    def assumed_cuts(self, z: Sequence[float]) -> VerdictCuts:
        return VerdictCuts(0.0, 0.0)
