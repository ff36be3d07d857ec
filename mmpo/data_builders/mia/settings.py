"""The settings and the result of the multi-image builder. No torch here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field, field_validator, model_validator

from mmpo.data.layouts.geometry import GRIDS
from mmpo.data.layouts.mixing import COLLAGE_MIX, COLLAGE_TARGETS, SEQUENCE_MIX
from mmpo.data.layouts.noise import CELL_SIGMA, WHOLE_SIGMA
from mmpo.data_builders.model_settings import ModelLoading
from mmpo.settings import FILE, FOLDER, MODEL, Settings

CODE_SEQUENCE = {2: 0.8, 3: 0.7, 4: 0.6, 5: 0.6}
CODE_COLLAGE = {2: 0.7, 3: 0.6, 4: 0.5, 6: 0.4, 9: 0.3}
CODE_INNER = 0.8
PAPER_SEQUENCE = {2: 0.7, 3: 0.6, 4: 0.5, 5: 0.5}
"""Thresholds of the released code, and those of the paper as far as they are known (sequences)."""


class SequenceSettings(Settings):
    """Several images one after another."""

    share: float = Field(default=1.0, ge=0, le=1, description="Share of the records that become a sequence.")
    sizes: dict[int, float] = Field(
        default={k: float(v) for k, v in SEQUENCE_MIX.items()},
        min_length=1,
        description="Proportions of the numbers of images; the published mix by default.",
    )
    label: str = Field(default="Image{n}:", description="What stands before image n.")

    @field_validator("sizes")
    @classmethod
    def _at_least_two(cls, sizes: dict[int, float]) -> dict[int, float]:
        if min(sizes) < 2:
            raise ValueError("a sequence has at least 2 images")
        return sizes


class CollageSettings(Settings):
    """Several pictures in a labelled grid."""

    share: float = Field(default=1.0, ge=0, le=1, description="Share of the records that are asked about in a collage.")
    sizes: dict[int, float] = Field(
        default={k: float(v) for k, v in COLLAGE_MIX.items()},
        min_length=1,
        description="Proportions of collages of 2, 3, 4, 6 and 9 pictures; the published mix by default.",
    )
    targets: dict[int, int] = Field(
        default=dict(COLLAGE_TARGETS),
        description="How many of the pictures are records that are asked about, by number of pictures (1 if missing).",
    )
    noise: float = Field(
        default=CELL_SIGMA, ge=0, description="Noise on the target's cell while the model answers, on a scale of 255."
    )

    @model_validator(mode="after")
    def _grids(self) -> CollageSettings:
        if unknown := sorted(set(self.sizes) - set(GRIDS)):
            raise ValueError(f"a collage of {unknown[0]} has no grid: one of {', '.join(map(str, GRIDS))}")
        if wrong := [n for n in self.sizes if not 1 <= self.targets.get(n, 1) <= n]:
            raise ValueError(f"a collage of {wrong[0]} pictures has 1 to {wrong[0]} targets")
        return self


class PicInPicSettings(Settings):
    """The target in the middle of another picture."""

    share: float = Field(default=1.0, ge=0, le=1, description="Share of the records that become an inner picture.")
    noise: float = Field(
        default=WHOLE_SIGMA, ge=0, description="Noise on the whole picture while the model answers, on a scale of 255."
    )


class AttentionSettings(Settings):
    """Settings for measuring attention onto images while the model answers."""

    layers: list[int] = Field(default=[], description="Decoder layers, from 0, averaged. Empty: the middle one.")
    heads: list[int] = Field(default=[], description="Query heads. Empty: all.")
    reduce: Literal["mean", "max"] = Field(default="mean", description="How the heads become one.")
    predictive: bool = Field(
        default=False, description="Also count the prompt's last row, which predicts the answer's first token."
    )
    sequence: Literal["mean", "sum"] = Field(
        default="mean", description="Compare images by attention per token, or by all of it."
    )
    regions: Literal["blocks", "exact", "only_regions"] = Field(
        default="blocks",
        description=(
            "Collages and inner pictures: the released code's blocks of tokens, or exact overlap with the picture, "
            "over all of the image or over the pictures in it."
        ),
    )


class SelectionSettings(Settings):
    """Settings that select the rejected sides. `mmpo build reselect` applies other values to a finished build."""

    attention: bool = Field(default=True, description="Use the attention filter; false keeps any ratio.")
    thresholds: Literal["code", "paper"] = Field(
        default="code", description="Greatest ratio of a kept answer: the released code's values, or the paper's."
    )
    sequence: dict[int, float] = Field(default={}, description="Other thresholds, by number of images.")
    collage: dict[int, float] = Field(default={}, description="Other thresholds, by number of pictures.")
    pic_in_pic: float | None = Field(default=None, description="Another threshold.")
    times_uniform: float | None = Field(
        default=None, gt=0, description="Instead of thresholds: greatest ratio over that of uniform attention."
    )
    min_perplexity: float | None = Field(
        default=1.1, description="The answer's perplexity must be above this; null for any."
    )
    max_length_ratio: float | None = Field(
        default=None, ge=1, description="Longer over shorter side, in words, at most this."
    )
    min_edit_distance: float | None = Field(
        default=None, ge=0, le=1, description="Edit distance of the sides over the longer one, at least this."
    )
    drop_right: bool = Field(
        default=False,
        description="Drop answers that begin with the right yes or no, however they go on (not in MIA-DPO).",
    )
    max_rejected_characters: int | None = Field(default=None, ge=1, description="Longer answers are dropped.")
    min_seen: float = Field(
        default=0.5, ge=0, le=1, description="Share of the target that the model's processor must not crop away."
    )

    def threshold(self, layout: str, n: int) -> float | None:
        """The greatest ratio of a kept answer; None for a number of images without a threshold."""
        if layout == "sequence":
            table = (PAPER_SEQUENCE if self.thresholds == "paper" else CODE_SEQUENCE) | self.sequence
            return table.get(n, table[max(table)] if n > max(table) else None)
        if layout == "collage":
            return (CODE_COLLAGE | self.collage).get(n)
        return CODE_INNER if self.pic_in_pic is None else self.pic_in_pic


class MiaSettings(ModelLoading):
    """Multi-image pairs from single-image records, selected by attention (MIA-DPO, Liu et al. 2024)."""

    builder: Literal["mia"] = Field(description="Which pairs to build.")
    model: Annotated[str, MODEL] = Field(
        description="Folder or hub name of the model that will be trained; it writes the rejected side."
    )
    data: Annotated[Path, FILE] = Field(
        description="Records: LLaVA's conversations (JSON), or JSON Lines of `image`, `question`, `answer`."
    )
    images: Annotated[Path | None, FOLDER] = Field(
        None, description="Folder that image paths start from. Left out: that of the file."
    )
    allow_links: bool = Field(False, description="Follow links out of the folder of images (hub caches, DVC).")
    limit: int | None = Field(None, ge=1, description="Use only this many records, the first ones of the file.")

    sequence: SequenceSettings | None = Field(default_factory=SequenceSettings, description="null builds none.")
    collage: CollageSettings | None = Field(default_factory=CollageSettings, description="null builds none.")
    pic_in_pic: PicInPicSettings | None = Field(default_factory=PicInPicSettings, description="null builds none.")
    refusals: float = Field(
        0.0, ge=0, le=1, description="Share of the records that also give a question about an image that isn't there."
    )
    refusal: str = Field(
        "There are only {count} images, so there is no Image{index}.", description="The right answer to those."
    )
    companions: Literal["same_subset", "all"] = Field(
        "same_subset", description="Where other images come from; a subset is the first folder of a path."
    )
    drop_boxes: bool = Field(True, description="Leave records with box coordinates out of collages and inner pictures.")
    max_chosen_characters: int = Field(511, ge=1, description="Records with a longer answer are not used.")
    compat: Literal["none", "official"] = Field(
        "none", description="`official`: with the quirks of the released code, for comparing with it."
    )
    attention: AttentionSettings = Field(default_factory=AttentionSettings, description="How attention is measured.")
    selection: SelectionSettings = Field(default_factory=SelectionSettings, description="Which answers are kept.")
    max_new_tokens: int = Field(512, ge=1, description="Longest answer, in tokens.")
    tokens_per_batch: int = Field(16384, ge=64, description="How many tokens are computed together.")

    seed: int = Field(0, ge=0, description="Decides companions, places, phrases and noise.")
    shard_size: int = Field(32, ge=1, description="Prompts in a unit of work: what a killed build does again.")

    @model_validator(mode="after")
    def _in_this_process(self) -> MiaSettings:
        if self.sampler is not None:
            raise ValueError("this builder reads the model's attention, which no server gives: leave `sampler` out")
        return self

    @model_validator(mode="after")
    def _something(self) -> MiaSettings:
        if self.sequence is None and self.collage is None and self.pic_in_pic is None:
            raise ValueError("sequence, collage and pic_in_pic are all null: nothing is built")
        return self


class MiaBuildResult(BaseModel):
    """The result of a multi-image build. `pairs` is relative to the run folder; each table of `counts` adds up."""

    builder: Literal["mia"] = "mia"
    pairs: str = Field(description="The folder of pairs.")
    images: int = Field(description="Composed prompts (a sequence, collage or picture in a picture each).")
    images_used: int = Field(description="Those that gave at least one pair.")
    pairs_made: int
    counts: dict[str, dict[str, int]] = Field(description="Records, prompts and answers: in, paired, and losses.")
    ratios: dict[str, dict[str, float]] = Field(description="Attention ratios by layout: mean, uniform, threshold.")
    chosen_words: float
    rejected_words: float
    warnings: list[str] = Field(default=[])
