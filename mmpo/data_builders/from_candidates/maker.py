"""Makers of pairs from candidates: a picture with its judged candidates in, pairs or a reason out.

A file in `makers/` is a maker: it is found by being there, and registers itself:

    class BestWorstSettings(MakerSettings):
        maker: Literal["best_worst"] = Field("best_worst", description="…")

    @pair_maker("best_worst", settings=BestWorstSettings)
    class BestWorst(PairMaker[BestWorstSettings]):
        def pairs_of(self, picture): ...

Plug-ins register theirs the same way. No torch when a maker is imported: recipes are checked with its settings.
"""

from __future__ import annotations

import pkgutil
from abc import ABC
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, get_args

from pydantic import Field

from mmpo.data.spans import Span
from mmpo.data_builders.candidates.records import Candidate, JudgedPicture
from mmpo.data_builders.from_candidates.guards import GuardSettings, PairFacts
from mmpo.errors import Quarantined, UserError
from mmpo.evidence.records import CombinedOpinion
from mmpo.registry import Registry
from mmpo.settings import Settings
from mmpo.text.vocabulary import ObjectVocabulary

if TYPE_CHECKING:
    from mmpo.chat import ChatModel, ChatSettings
    from mmpo.models.generation.answerer import Answerer


class MakerSettings(Settings):
    """The settings of a maker. Each has `maker: Literal[NAME]`, its name. `needs_classes`: it reads or writes classes
    of the vocabulary, so it has no use for claims in words."""

    needs_classes: ClassVar[bool] = False

    maker: str
    guards: GuardSettings = Field(
        default_factory=GuardSettings, description="What keeps the pairs as a whole from teaching length or silence."
    )


S = TypeVar("S", bound=MakerSettings)


@dataclass(frozen=True)
class PairSide:
    """One side of a pair: a text, and the classes that it names, by verdict; `recall` is `recall_pool` of it, `sample`
    the candidate that it is or was made of. A side whose claims nobody judged has empty sets and `recall` None.
    """

    text: str
    present: frozenset[str] = frozenset()
    absent: frozenset[str] = frozenset()
    uncertain: frozenset[str] = frozenset()
    recall: float | None = None
    sample: int | None = None
    weights: tuple[Span, ...] | None = None

    @classmethod
    def of(cls, candidate: Candidate) -> PairSide:
        """A candidate as it is."""
        return cls(
            candidate.text,
            candidate.present,
            candidate.absent,
            candidate.uncertain,
            candidate.recall_pool,
            candidate.sample,
        )

    @property
    def names(self) -> frozenset[str]:
        return self.present | self.absent | self.uncertain

    @property
    def words(self) -> int:
        return len(self.text.split())


@dataclass(frozen=True)
class MadePair:
    """A pair as a maker gives it. `key` distinguishes it from others of its picture: its id is `IMAGE/key`.

    `begun` is the beginning of the answer that both sides continue (they then begin with a space); with `unfinished`
    no end token is learnt. `about` goes to its provenance and must be JSON data, `scores` to the pair's, beside those
    that every pair has. `free_length`: the sides differ in length by what they say (short answers), so the guards of
    length do not look at it; `kind` is what counts and the style probe call it.
    """

    key: str
    prompt: str
    chosen: PairSide
    rejected: PairSide
    kind: str = "description"
    begun: str = ""
    unfinished: bool = False
    free_length: bool = False
    about: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)

    @property
    def punished(self) -> frozenset[str]:
        """Classes that are absent, and that only the rejected side names: naming them is punished."""
        return self.rejected.absent - self.chosen.names

    @property
    def rewarded(self) -> frozenset[str]:
        """Classes that are present, and that only the chosen side names."""
        return self.chosen.present - self.rejected.names


Opinions = dict[str, CombinedOpinion]
Made = list[MadePair] | Quarantined
"""The pairs of a picture, at least one, or the reason why there are none."""


@dataclass(frozen=True)
class MakerContext:
    """What makers are given beside the pictures.

    `folder` is the maker's own, for replies and texts that models gave; what is in it survives a kill. `engine` loads
    the model that gave the candidates (the one named in the settings, where the folder of candidates says otherwise),
    `evidence` asks the build's sources about further classes, one list for each picture, and judges them by the cuts of
    the candidates. `picture` reads the file of a picture; it raises `Quarantined` where that is gone or another one.
    All of them load what they need at the first call.
    """

    vocabulary: ObjectVocabulary
    seed: int
    folder: Path
    model: str
    engine: Callable[[], Answerer]
    evidence: Callable[[Sequence[JudgedPicture], Sequence[Sequence[str]]], list[Opinions]]
    picture: Callable[[JudgedPicture], bytes]
    chat: Callable[[ChatSettings], ChatModel]


class PairMaker(ABC, Generic[S]):
    """One way of making pairs. What it gives for a picture depends on the picture, its settings, the seed and the
    models that it asks; not on other pictures, unless it says so (`prepare`).

    Override `pairs_of`, or `make` where pictures are better done together (one batch of a model).
    """

    asks: ClassVar[bool] = False
    """Whether it asks the model that gave the candidates."""
    scores: ClassVar[tuple[str, ...]] = ()
    """The names of `MadePair.scores`."""

    def __init__(self, settings: S, context: MakerContext) -> None:
        self.settings, self.context = settings, context

    def prepare(self, shards: int, pictures: Callable[[int], list[JudgedPicture]]) -> None:
        """Called once before any unit is made, for makers whose pairs depend on all pictures: `pictures(number)` reads
        those of a shard. What takes long belongs in `context.folder`: it is called again when a build goes on."""

    def make(self, number: int, pictures: Sequence[JudgedPicture], advance: Callable[[], None]) -> list[Made]:
        """One outcome for each picture of the unit `number`, in order; `advance` is called once for each."""
        found: list[Made] = []
        for picture in pictures:
            try:
                found.append(self.pairs_of(picture))
            except Quarantined as error:
                found.append(error)
            advance()
        return found

    def pairs_of(self, picture: JudgedPicture) -> list[MadePair]:
        """The pairs of one picture, at least one. Raises `Quarantined("filter", reason)` where there is none."""
        raise NotImplementedError

    @classmethod
    def whole(cls, settings: S, pairs: Sequence[PairFacts]) -> dict[str, str]:
        """What the maker itself leaves out once all pairs are there, by id with the reason; before the guards."""
        return {}


@dataclass(frozen=True)
class MakerEntry:
    """A maker with its settings."""

    settings: type[MakerSettings]
    maker: type[PairMaker[Any]]


PAIR_MAKERS: Registry[MakerEntry] = Registry("pair makers")
M = TypeVar("M", bound=type[PairMaker[Any]])


def pair_maker(name: str, *, settings: type[MakerSettings]) -> Callable[[M], M]:
    """Make a maker available by name: a decorator of its class. Raises `UserError` for a name that is taken, and where
    the settings have no `maker` that is this name and nothing else."""
    told = settings.model_fields.get("maker")
    if told is None or get_args(told.annotation) != (name,):
        raise UserError(f"{settings.__name__} has no `maker: Literal[{name!r}]`", hint=f"maker {name!r} needs it")

    def add(maker: M) -> M:
        PAIR_MAKERS.add(name, MakerEntry(settings, maker), module=maker.__module__)
        return maker

    return add


def load_makers() -> Registry[MakerEntry]:
    """All makers: mmpo's own, and those of the plug-ins that were imported."""
    from mmpo.data_builders.from_candidates import makers

    for found in pkgutil.iter_modules(makers.__path__, f"{makers.__name__}."):
        import_module(found.name)
    return PAIR_MAKERS
