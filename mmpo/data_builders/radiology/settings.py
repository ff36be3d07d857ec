"""The settings and the result of the radiology builder. No torch here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field, model_validator

from mmpo.chat.settings import ChatSettings
from mmpo.data_builders.model_settings import ModelLoading
from mmpo.settings import FOLDER, LEXICON, MODEL, PATH, TEMPLATE, Settings

REPORT_PROMPTS = ("Write a radiology report for this chest radiograph.",)


class EditorSettings(Settings):
    """Settings for the editor that finds and removes the references to earlier exams."""

    by: Literal["rules", "model"] = Field(
        default="rules", description="`rules`, or a text `model` whose edits are checked."
    )
    model: ChatSettings | None = Field(default=None, description="The text model, for `by: model`.")
    template: Annotated[str, TEMPLATE] = Field(
        default="radiology_priors", description="Its prompt: a packaged one, or a .j2 file."
    )
    tries: int = Field(
        default=3, ge=1, description="How often a report is asked about until an answer keeps all rules."
    )

    @model_validator(mode="after")
    def _has_model(self) -> EditorSettings:
        if (self.by == "model") != (self.model is not None):
            raise ValueError("`model` belongs to `by: model`, and `by: model` needs it")
        return self


class RadiologySettings(ModelLoading):
    """Preference pairs against references to earlier exams (after Banerjee et al. 2024, arXiv 2406.06496). The paper's
    own filters and settings are not available to us: the defaults here are ours."""

    builder: Literal["radiology"] = Field(description="Which pairs to build.")
    reports: Annotated[Path, PATH] = Field(
        description="Reports: .csv, .tsv, .jsonl, or a folder in MIMIC-CXR's layout."
    )
    images: Annotated[Path | None, FOLDER] = Field(
        None, description="Folder that image paths start from. Left out: that of the reports."
    )
    allow_links: bool = Field(False, description="Follow links out of the folder of images (hub caches, DVC).")
    limit: int | None = Field(None, ge=1, description="Use only this many reports, the first ones.")
    section: Literal["findings", "impression", "both", "report"] = Field(
        "findings", description="Which part of a report is meant; reports without it drop out."
    )
    sources: list[Literal["reports", "model", "injected"]] = Field(
        ["reports"],
        min_length=1,
        description="What is rejected: the `reports` as dictated, what the `model` writes about the film, or reports "
        "without any reference, with references `injected`. The chosen side is the same text without them.",
    )
    model: Annotated[str | None, MODEL] = Field(
        None, description="Folder or hub name of the model, for `sources: [model]`."
    )
    prompts: list[str] = Field(
        list(REPORT_PROMPTS), min_length=1, description="Requests for a report; one is drawn for each film."
    )
    samples_per_image: int = Field(2, ge=0, description="Sampled reports of each film, besides the greedy one.")
    temperature: float = Field(1.0, gt=0, description="Temperature of the sampled reports.")
    top_p: float = Field(0.9, gt=0, le=1, description="Nucleus of the sampled reports.")
    max_new_tokens: int = Field(256, ge=1, description="Longest report of the model; an unfinished end is cut off.")

    editor: EditorSettings = Field(default_factory=EditorSettings, description="Who takes the references out.")
    lexicon: Annotated[Path | None, LEXICON] = Field(None, description="Further words for the detector (YAML or JSON).")
    credentialed: bool = Field(
        False, description="All reports are under a data agreement: no remote server may see them, `has_prior` or not."
    )
    weights: bool = Field(True, description="Write which characters were edited, for the objective subset_dpo.")
    junction: bool = Field(
        True, description="Where a deletion leaves no words, the word that follows counts as edited."
    )
    min_words: int = Field(3, ge=1, description="Shorter chosen sides drop out.")
    max_length_ratio: float = Field(1.05, gt=0, description="Most words of chosen over rejected.")
    max_removed: float = Field(0.9, gt=0, le=1, description="Largest share of the words that may go.")
    held_out_share: float = Field(
        0.0, ge=0, lt=1, description="Share of the patients whose pairs go to `held_out` instead of `pairs`."
    )
    sft_share: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of the reports without any reference that are kept in `unedited`, to be learnt: "
        "train.auxiliary.data names them, train.objective.auxiliary weighs them.",
    )

    seed: int = Field(0, ge=0, description="Decides prompts, samples, injections and the held-out patients.")
    shard_size: int = Field(64, ge=1, description="Reports in a unit of work: what a killed build does again.")

    @model_validator(mode="after")
    def _model_given(self) -> RadiologySettings:
        if "model" in self.sources and self.model is None:
            raise ValueError("sources: [model] needs `model`")
        return self


class RadiologyBuildResult(BaseModel):
    """The result of a radiology build. Folders are relative to the run folder; each table of `counts` adds up."""

    builder: Literal["radiology"] = "radiology"
    pairs: str
    held_out: str | None = None
    unedited: str | None = None
    images: int = Field(description="Reports that came in.")
    images_used: int = Field(description="Reports that gave at least one pair.")
    pairs_made: int
    editor: str
    counts: dict[str, dict[str, int]] = Field(description="For reports, texts and lines: in, paired, and losses.")
    lines_with_priors: float = Field(description="Lines with a reference, per text.")
    chosen_words: float
    rejected_words: float
