"""The settings and the result of making pairs from candidates. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, SerializeAsAny

from mmpo.data_builders.from_candidates.maker import MakerSettings, load_makers
from mmpo.data_builders.hallucination.style_probe import StyleReport
from mmpo.data_builders.model_settings import ModelLoading
from mmpo.settings import FOLDER, MODEL


def read_maker(value: Any) -> Any:
    """The settings of a maker from what a recipe says: its name alone, or a map with `maker`."""
    given = {"maker": value} if isinstance(value, str) else value
    if not isinstance(given, Mapping):
        return value
    makers = load_makers()
    name = given.get("maker")
    if not isinstance(name, str) or name not in makers:
        raise ValueError(f"`maker` should be one of {', '.join(sorted(makers))} (it is {name!r})")
    return makers[name].settings.model_validate(given)


def needs_classes(maker: str) -> str:
    """What is wrong with this maker and claims in words."""
    able = ", ".join(sorted(name for name, one in load_makers().items() if not one.settings.needs_classes))
    return f"the maker `{maker}` works with classes, and `claims: text` has none: take one of {able}"


AnyMaker = Annotated[SerializeAsAny[MakerSettings], BeforeValidator(read_maker)]


class PairsFromCandidatesSettings(ModelLoading):
    """Pairs from candidates that an earlier build made and judged; nothing is generated or judged again."""

    builder: Literal["pairs_from_candidates"] = Field(description="Which pairs to build.")
    candidates: Annotated[Path, FOLDER] = Field(
        description="A folder of candidates: RUN/build/candidates of a build with `builder: candidates`."
    )
    pairs: AnyMaker = Field(description="How pairs are made: a maker by name, or {maker: NAME, …} with its settings.")
    sources: list[str] | None = Field(
        default=None,
        min_length=1,
        description="Believe these of the candidates' sources alone (`self`, `detector`, `detector-2`, …): their "
        "verdicts are combined anew. Left out: all of them.",
    )
    images: Annotated[Path | None, FOLDER] = Field(
        None, description="Folder that the photos' paths start in. Left out: as in the build of the candidates."
    )
    allow_links: bool = Field(False, description="Follow links out of the folder of photos (hub caches, DVC).")
    model: Annotated[str | None, MODEL] = Field(
        None, description="The model that makers ask, if they ask one. Left out: the one that gave the candidates."
    )
    max_new_tokens: int = Field(default=256, ge=1, description="Longest text that a maker asks for, in tokens.")
    seed: int = Field(default=0, ge=0, description="Decides what makers draw.")


class PairsMade(BaseModel):
    """The result of making pairs from candidates. `pairs` is relative to the run folder."""

    builder: str = "pairs_from_candidates"
    maker: str
    pairs: str = "pairs"
    images: int
    images_used: int = Field(description="Pictures that gave at least one pair.")
    pairs_made: int
    counts: dict[str, dict[str, int]] = Field(
        description="For pictures and pairs: how many came in, and where each went; each table adds up."
    )
    chosen_words: float = Field(description="Mean length of the chosen sides, in words.")
    rejected_words: float
    chosen_recall: float | None = Field(
        default=None, description="Mean share of what is known to be there that chosen sides name."
    )
    rejected_recall: float | None = None
    punished: dict[str, int] = Field(
        default={}, description="How many pairs punish naming a class, the most punished ones first."
    )
    warnings: list[str] = Field(default=[], description="What to know before training on these pairs.")
    style: StyleReport | None = Field(
        default=None, description="How well style alone separates the sides; None for too few pictures."
    )
