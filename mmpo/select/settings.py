"""Settings and result of a selection. No torch here."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, cast

from pydantic import BaseModel, Field, create_model, model_serializer, model_validator

from mmpo.data.video_input import VIDEO_INPUT, VideoInput
from mmpo.select.registry import SELECTORS, Keep, SelectorSettings
from mmpo.select.selectors import OWN
from mmpo.select.table import LOGPS, POLICY, REFERENCE
from mmpo.settings import ADAPTER, MODEL, PAIRS, PATH, Settings


class SelectStep(Settings):
    """One step: `{dual_margin: {keep: 0.5}}`, or a selector's name alone."""

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {value: {}}
        if isinstance(value, dict):
            return {name: {} if given is None else given for name, given in value.items()}
        return value

    @model_validator(mode="after")
    def _one_selector(self) -> SelectStep:
        if len(self.model_fields_set) != 1:
            raise ValueError("one selector in each step, such as `- length_balance: {unit: words}`")
        return self

    @model_serializer
    def _the_one(self) -> dict[str, Any]:
        return {self.name: self.selector.model_dump(mode="json")}

    @property
    def name(self) -> str:
        return next(iter(self.model_fields_set))

    @property
    def selector(self) -> SelectorSettings:
        return cast(SelectorSettings, getattr(self, self.name))


class CommonSelectSettings(Settings):
    """One selection: which pairs, by what, and how many."""

    FREE: ClassVar[frozenset[str]] = frozenset({"allow_network"})

    pairs: Annotated[Path, PAIRS] = Field(
        description="Folder of preference pairs. Left out in a recipe with `build`: those of the build."
    )
    by: list[Any] = Field(min_length=1, description="Selectors, applied one after another (docs/select.md).")
    keep: Keep | None = Field(
        default=None,
        description="Share (or number) that the one selector that ranks keeps, of the pairs that reach it.",
    )
    logps: Annotated[Path | None, PATH] = Field(
        default=None,
        description="Log-probs computed before: a Parquet file or a folder of them, such as `select/logps` of another "
        "run, or what `mmpo.load(…).score(pairs).to_pandas()` gives. Left out: from the pairs' scores, or the model.",
    )
    model: Annotated[str | None, MODEL] = Field(
        default=None, description="Model folder or hub name that scores the pairs where a selector reads log-probs."
    )
    adapter: Annotated[str | None, ADAPTER] = Field(
        default=None, description="Its adapter: with it the policy, without it the reference."
    )
    batch_size: int = Field(default=8, ge=1, description="Pairs scored in one forward pass.")
    max_pixels: int | None = Field(default=None, ge=1, description="Larger images are scaled down before scoring.")
    dtype: Literal["float32", "bfloat16", "auto"] = Field(
        default="float32", description="Number format of the model that scores."
    )
    video_input: VideoInput = Field(default="auto", description=VIDEO_INPUT)
    trust_remote_code: bool = Field(default=False, description="Let the model folder run its own Python code.")
    allow_network: bool = Field(default=False, description="Let the model be downloaded from the hub.")
    seed: int = Field(default=0, ge=0, description="Decides what is drawn, and the order within a stage.")

    @model_validator(mode="after")
    def _adapter_has_its_model(self) -> CommonSelectSettings:
        if self.adapter is not None and self.model is None:
            raise ValueError("adapter: of which model? say `model`")
        return self

    @model_validator(mode="after")
    def _keep_has_its_step(self) -> CommonSelectSettings:
        ranking = [step for step in self.steps() if step.selector.ranks]
        if self.keep is not None and len(ranking) != 1:
            raise ValueError(
                f"keep: {len(ranking)} of the selectors rank pairs; say `keep` in the selector"
                if ranking
                else "keep: none of the selectors ranks pairs"
            )
        if self.keep is not None and "keep" in ranking[0].selector.model_fields_set:
            raise ValueError(f"keep: stands here and in {ranking[0].name}; once is enough")
        ordering = [step.name for step in self.steps() if step.selector.orders]
        if len(ordering) > 1:
            raise ValueError(f"by: {' and '.join(ordering)} both order the pairs; one can")
        return self

    def steps(self) -> list[SelectStep]:
        return self.by

    def keep_of(self, step: SelectStep) -> float:
        """How many a step that ranks keeps."""
        own: float = getattr(step.selector, "keep")  # noqa: B009 - of the classes that rank alone
        return own if self.keep is None else self.keep

    @property
    def ordered(self) -> bool:
        """The pairs are written in the order in which they are to be learnt."""
        return any(step.selector.orders for step in self.steps())

    def reads(self) -> tuple[str, ...]:
        """All columns that its steps read, each once."""
        return tuple(dict.fromkeys(name for step in self.steps() for name in step.selector.reads()))

    def logps_read(self) -> tuple[str, ...]:
        return tuple(name for name in self.reads() if name in LOGPS)

    @property
    def reads_both(self) -> bool:
        """A step compares a policy with its reference."""
        return any({*POLICY, *REFERENCE} <= set(step.selector.reads()) for step in self.steps())


def select_settings() -> type[CommonSelectSettings]:
    """The `select` section of a recipe, with every selector that is registered by now."""
    return _with(tuple(SELECTORS.items()))


@cache
def _with(known: tuple[tuple[str, type[SelectorSettings]], ...]) -> type[CommonSelectSettings]:
    fields: dict[str, Any] = {
        name: (found, Field(default=None, description=_about(found), validate_default=False)) for name, found in known
    }
    step = create_model("SelectStep", __base__=SelectStep, __module__=__name__, **fields)
    asked = CommonSelectSettings.model_fields["by"]
    by: Any = (list[step], Field(min_length=1, description=asked.description))  # type: ignore[valid-type]
    return create_model("SelectSettings", __base__=CommonSelectSettings, __module__=__name__, by=by)


def _about(found: type[SelectorSettings]) -> str:
    return (found.__doc__ or "").strip().partition("\n")[0]


if TYPE_CHECKING:
    SelectSettings = CommonSelectSettings
else:
    SelectSettings = _with(tuple(OWN.items()))


class PairMeans(BaseModel):
    """Means over pairs: `words` of the chosen and the rejected side, their difference, and margins by name."""

    pairs: int
    chosen_words: float | None
    rejected_words: float | None
    length_difference: float | None = Field(description="Words of chosen minus words of rejected.")
    margins: dict[str, float | None]


class StepReport(BaseModel):
    """What one step did: in = kept + the dropped by reason."""

    step: str
    pairs_in: int
    kept: int
    dropped: dict[str, int]
    figures: dict[str, float]
    before: PairMeans
    after: PairMeans


class SelectResult(BaseModel):
    """What a selection came to. Paths are relative to its folder."""

    pairs: str = Field(description="The folder of the pairs that are kept.")
    pairs_in: int
    pairs_kept: int
    counts: dict[str, dict[str, int]] = Field(description="In each table the other rows add up to `in`.")
    steps: list[StepReport]
    before: PairMeans
    after: PairMeans
    ordered: bool = Field(description="The pairs stand in the order of a curriculum.")
    stages: dict[int, int] = Field(default={}, description="Pairs of each stage of the curriculum.")
    scored: str = Field(description="Where the log-probs are from: scores, logps, model, or nothing read any.")
