"""The settings and the result of a build of candidates. No torch here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, Field, model_validator

from mmpo.chat.settings import ChatSettings
from mmpo.data_builders.from_candidates.settings import AnyMaker, PairsMade, needs_classes
from mmpo.data_builders.hallucination.settings import DESCRIPTION_PROMPTS
from mmpo.data_builders.model_settings import ModelLoading
from mmpo.evidence.settings import EvidenceSettings
from mmpo.settings import MODEL, OUTPUT, PATH, TEMPLATE, VOCABULARY, Settings


class ClaimWriter(Settings):
    """The text model that splits responses into claims, with its prompts."""

    chat: ChatSettings = Field(description="The model: on a server, or a local one. It sees no picture.")
    split: Annotated[str, TEMPLATE] = Field("claims_split", description="The prompt that lists a response's facts.")
    ask: Annotated[str, TEMPLATE] = Field("claims_ask", description="The prompt that makes a question of each fact.")
    max_tokens: int = Field(
        1024, ge=1, description="Longest list, in tokens; a response with a longer one is left out."
    )


class CandidateSettings(EvidenceSettings, ModelLoading):
    """Candidates about photos that nobody annotated: what the model says, judged by evidence; and pairs of them."""

    FREE: ClassVar[frozenset[str]] = ModelLoading.FREE | {"evidence_cache"}

    builder: Literal["candidates"] = Field(description="Which pairs to build.")
    model: Annotated[str, MODEL] = Field(
        description="Folder or hub name of the model that will be trained; it writes the candidates."
    )
    images: Annotated[Path, PATH] = Field(
        description='A folder of photos, or a list of them (.jsonl): {"image": PATH, "prompt"?: TEXT, "answer"?: TEXT}.'
    )
    allow_links: bool = Field(False, description="Follow links out of the folder of photos (hub caches, DVC).")
    vocabulary: Annotated[str, VOCABULARY] = Field(
        "coco",
        description="Object classes and their synonyms whose presence is checked: `coco`, or a file (CHAIR's synonym "
        "format, JSON or YAML).",
    )
    claims: Literal["objects", "text"] = Field(
        "objects",
        description="What is checked of a response. `objects`: the classes of the vocabulary that it names. `text`: "
        "every fact that it states, as `writer` lists them (RLAIF-V); only `self` and `judge` can check these.",
    )
    writer: ClaimWriter | None = Field(None, description="With `claims: text`: who splits responses into claims.")
    limit: int | None = Field(default=None, ge=1, description="Use only this many photos, the first ones.")
    not_in: Annotated[list[Path], PATH] = Field(
        [],
        description="Photos that must not be among those used, nor copies of them: folders of photos, or lists of "
        "hashes (images.sha256 of a run). Name test photos and benchmarks here.",
    )
    near_duplicates: bool = Field(
        True, description="Use one photo of each group that look alike (at most 10 of 256 bits of dHash differ)."
    )

    prompts: list[str] = Field(
        list(DESCRIPTION_PROMPTS),
        min_length=1,
        description="Requests for a description; one is drawn for each photo that the list has no prompt for.",
    )
    samples: int = Field(
        default=9, ge=0, description="Sampled responses to each prompt, besides the greedy one, from one prefill."
    )
    temperature: float = Field(default=0.7, gt=0, description="Temperature of the sampled responses.")
    top_p: float = Field(default=1.0, gt=0, le=1, description="Nucleus of the sampled responses.")
    max_new_tokens: int = Field(default=256, ge=1, description="Longest response, in tokens.")
    log_probs: bool = Field(True, description="Keep the log-prob of each response.")
    log_probs_blind: bool = Field(False, description="Also without the photo: how much the response needs it.")
    probe_absent: int = Field(
        default=2,
        ge=0,
        description="Classes that no response names, but that usually come with those that are named, to ask the "
        "evidence about: decoys for detectors, and questions whose answer is no.",
    )
    pairs: AnyMaker | None = Field(
        None,
        description="Make pairs at once: a maker by name, or {maker: NAME, …} with its settings. Left out: candidates "
        "alone, for the builder `pairs_from_candidates`.",
    )
    evidence_cache: Annotated[Path | None, OUTPUT] = Field(
        None,
        description="Folder for what sources found, so that other builds that name it ask nothing about the same photo "
        "and class again. Left out: in the build's own folder; in a run with rounds, one for all of them.",
    )
    drawn: int = Field(default=8, ge=0, description="Photos to draw with their verdicts and boxes for the page.")

    seed: int = Field(default=0, ge=0, description="Decides prompts and samples.")
    shard_size: int = Field(default=64, ge=1, description="Photos in a unit of work: what a killed build does again.")

    @model_validator(mode="after")
    def _claims_fit(self) -> CandidateSettings:
        if (self.claims == "text") != (self.writer is not None):
            told = "needs `writer`, the text model that splits responses" if self.writer is None else "has no `writer`"
            raise ValueError(f"`claims: {self.claims}` {told}")
        if self.claims == "text":
            self._of_text()
        return self

    def _of_text(self) -> None:
        """ValueError for what can't be had of claims in words."""
        if self.controls is not None:
            raise ValueError("`controls` know classes, and `claims: text` has none: leave them out")
        if "probe_absent" in self.model_fields_set and self.probe_absent:
            raise ValueError("`probe_absent` are classes, and `claims: text` has none: leave it out")
        self.probe_absent = 0
        able = [one.source for one in self.evidence if one.answers_questions]
        if not able:
            raise ValueError("of the sources only `self` and `judge` can check `claims: text`; `evidence` has neither")
        if len(able) < (needed := min(self.agree.least, len(self.evidence))):
            raise ValueError(
                f"only {', '.join(able)} can check `claims: text`, and `agree.least` wants {needed} sources: leave the "
                "others out, or set `agree: {least: 1}`"
            )
        if self.pairs is not None and self.pairs.needs_classes:
            raise ValueError(needs_classes(self.pairs.maker))


class CandidatesMade(BaseModel):
    """The result of a build of candidates. Folders are relative to the run folder; without a maker there are no
    `pairs`."""

    builder: str = "candidates"
    candidates: str = "candidates"
    pairs: str | None = None
    images: int
    images_used: int = Field(
        description="Photos that gave a pair; where no pairs were asked for, those with a candidate that is kept."
    )
    candidates_made: int
    claims: int = Field(description="Classes in photos that were asked about.")
    counts: dict[str, dict[str, int]] = Field(
        description="For photos, candidates, claims and each source: how many came in, and where each went; each table "
        "adds up."
    )
    absent_share: float = Field(description="Share of the greedy responses that name an absent class.")
    absent_per_response: float = Field(description="Absent classes in a greedy response, in the mean.")
    recall_pool: float | None = Field(
        default=None, description="Share of what is known to be there that a greedy response names, in the mean."
    )
    words: float = Field(description="Words of a greedy response, in the mean.")
    calibrated: bool = Field(description="Whether controls calibrated the sources.")
    sources: dict[str, Any] = Field(default={}, description="Each source's cuts and, with controls, how good it is.")
    warnings: list[str] = Field(default=[], description="What to know before using them.")
    made: PairsMade | None = Field(default=None, description="The result of making pairs.")
