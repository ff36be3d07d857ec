"""What a source of evidence is: it looks at pictures and gives each class a number, or abstains."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

from mmpo.evidence.cuts import VerdictCuts, unlabelled_cuts
from mmpo.evidence.records import EvidencePicture, SourceFinding
from mmpo.evidence.settings import SourceSettings
from mmpo.text.vocabulary import ObjectVocabulary

if TYPE_CHECKING:
    from mmpo.models.generation.answerer import Answerer

S = TypeVar("S", bound=SourceSettings)


@dataclass(frozen=True)
class EvidenceContext:
    """What sources may use: the classes, the builder's model without adapter (`engine` loads it, `model` is the
    fingerprint of its files), the file for replies of chats, and the stack that closes what they open. `questions`:
    they are asked yes/no questions in place of classes; only sources whose settings say `answers_questions` are."""

    vocabulary: ObjectVocabulary
    stack: ExitStack = field(default_factory=ExitStack)
    engine: Callable[[], Answerer] | None = None
    model: str = ""
    replies: Path | None = None
    questions: bool = False


class EvidenceSource(ABC, Generic[S]):
    """One source. Making it reads settings and fingerprints; what takes long is loaded by the first `find`.

    `calibrated` False: its numbers mean the same everywhere and are not fitted on controls. `finds_classes`:
    `find` also reports classes that nobody asked for; the other sources are asked about those that `assumed_cuts` calls
    present. Whether it decides alone is a property of its settings, `decides`.
    """

    calibrated: ClassVar[bool] = True
    finds_classes: bool = False

    def __init__(self, settings: S, context: EvidenceContext) -> None:
        self.settings, self.context = settings, context

    @property
    @abstractmethod
    def identity(self) -> str:
        """Everything that decides its findings: settings, and the content of the files it uses."""

    @abstractmethod
    def find(
        self, pictures: Sequence[EvidencePicture], names: Sequence[Collection[str]]
    ) -> list[Mapping[str, SourceFinding]]:
        """For each picture a finding of each of its `names` (classes of the vocabulary). It may add findings of other
        classes. A finding depends on the picture and its names, not on the other pictures. What can't be decided
        abstains; UserError where nothing can be (a model that doesn't load, a server that is not there)."""

    def parts(self, found: SourceFinding) -> Mapping[str, float]:
        """The numbers that z is the mean of, by name, higher for present. On controls those that don't separate present
        from absent are left out of z. Empty: z is one number."""
        return {}

    def assumed_cuts(self, z: Sequence[float]) -> VerdictCuts:
        """The cuts without controls; `z` are its numbers for all claims. By default found in these (Otsu)."""
        return unlabelled_cuts(z)
