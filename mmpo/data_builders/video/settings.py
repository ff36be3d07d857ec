"""The settings and the result of the video builder. No torch here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field, model_validator

from mmpo.chat import ChatSettings
from mmpo.data.video_input import VIDEO_INPUT, VideoInput
from mmpo.data_builders.model_settings import ModelLoading
from mmpo.settings import FILE, FOLDER, MODEL, SAMPLING, TEMPLATE, Settings


class FrameSettings(Settings):
    """Settings that choose the frames of a video that the model sees, in building as in training."""

    num: int = Field(default=8, ge=1, le=256, description="Frames of a video.")
    sampling: Annotated[str, SAMPLING] = Field(
        default="linspace_trunc",
        description="How they are chosen: linspace_trunc, segment_mid, time_linspace, fps:R, …",
    )
    max_side: int | None = Field(default=336, ge=16, description="Longer side of a frame; larger ones are shrunk.")
    on_error: Literal["strict", "nearest", "skip"] = Field(
        default="strict",
        description="Frames that can't be decoded: give the video up, take the nearest clean one, leave out.",
    )
    isolate: bool = Field(default=False, description="Decode in a process that is killed when it hangs.")
    timeout: float = Field(default=60.0, gt=0, description="Seconds for one video.")


class JudgeSettings(Settings):
    """The judge that rewards the answers: a text model that reads caption, question, reference and answer, or rules."""

    by: Literal["rules", "model"] = Field(
        default="rules", description="`rules` over the annotations, or a text `model`."
    )
    model: ChatSettings | None = Field(default=None, description="The text model, for `by: model`.")
    template: Annotated[str, TEMPLATE] = Field(
        default="video_reward", description="Its prompt: a packaged one, or a .j2 file."
    )
    rule: Literal["tolerant", "llava_hound"] = Field(
        default="tolerant",
        description="How scores are read from its replies; llava_hound is the published script's way.",
    )
    max_words: int = Field(default=256, ge=1, description="Words of an answer that the judge sees, as in the paper.")
    max_tokens: int = Field(default=512, ge=16, description="Longest reply.")

    @model_validator(mode="after")
    def _whole(self) -> JudgeSettings:
        if (self.by == "model") != (self.model is not None):
            raise ValueError("`by: model` and `model: {backend: …}` belong together")
        return self


class VideoRewardSettings(ModelLoading):
    """Preference pairs about videos from rewards of sampled answers (after LLaVA-Hound-DPO, arXiv 2404.01258)."""

    builder: Literal["video_rewards"] = Field(description="Which pairs to build.")
    model: Annotated[str, MODEL] = Field(
        description="Folder or hub name of the model that will be trained; it answers the questions."
    )
    videos: Annotated[Path, FILE] = Field(
        description="JSON Lines: one video a line, with caption, questions, annotations (docs/video.md)."
    )
    root: Annotated[Path | None, FOLDER] = Field(
        None, description="Folder that video paths start from. Left out: that of the file."
    )
    allow_links: bool = Field(False, description="Follow links out of the folder of images (hub caches, DVC).")
    captions: Annotated[Path | None, FILE] = Field(None, description="JSON Lines with captions, by id or video.")
    limit: int | None = Field(None, ge=1, description="Use only this many videos, the first ones of the file.")

    frames: FrameSettings = Field(default_factory=FrameSettings, description="Which frames the model sees.")
    video_input: VideoInput = Field("auto", description=VIDEO_INPUT)
    captioner: ChatSettings | None = Field(
        None,
        description="A vision model that writes missing captions from the frames; without it such videos drop out.",
    )
    caption_template: Annotated[str, TEMPLATE] = Field("video_caption", description="Its prompt.")
    min_caption_words: int = Field(20, ge=0, description="Shorter captions are no evidence; their videos drop out.")
    questioner: ChatSettings | None = Field(
        None, description="A text model that writes questions from the caption, for videos without any."
    )
    question_template: Annotated[str, TEMPLATE] = Field("video_questions", description="Its prompt.")
    questions_per_video: int = Field(3, ge=1, description="Questions to be written; given ones are all used.")

    samples: int = Field(6, ge=2, description="Sampled answers to each question.")
    temperature: float = Field(1.0, gt=0, description="Temperature of the samples.")
    top_p: float = Field(0.95, gt=0, le=1, description="Nucleus of the samples.")
    max_new_tokens: int = Field(128, ge=1, description="Longest answer, in tokens; answers that reach it are not used.")

    judge: JudgeSettings = Field(default_factory=JudgeSettings, description="Who rewards the answers.")
    threshold: float = Field(3.0, description="Answers with this reward or more are good, the others bad.")
    min_gap: float = Field(0.0, ge=0, description="Least difference of the two rewards of a pair.")
    pairs_per_question: int = Field(1, ge=1, description="Most pairs of one question.")
    pick: Literal["random", "extreme", "closest_length"] = Field(
        "random", description="Which good and which bad answer: any (the paper), best and worst, most alike in length."
    )

    seed: int = Field(0, ge=0, description="Decides samples and picks.")
    shard_size: int = Field(16, ge=1, description="Videos in a unit of work: what a killed build does again.")


class VideoBuildResult(BaseModel):
    """The result of a video build. `pairs` is relative to the run folder; each table of `counts` adds up."""

    builder: Literal["video_rewards"] = "video_rewards"
    pairs: str = Field(description="The folder of pairs.")
    images: int = Field(description="Videos that came in.")
    images_used: int = Field(description="Videos that gave at least one pair.")
    pairs_made: int
    judge: str = Field(description="Exactly which judge: its numbers compare with no other's.")
    counts: dict[str, dict[str, int]] = Field(description="For videos, questions and answers: in, paired, and losses.")
    scores: dict[str, int] = Field(description="How many answers got which reward.")
    decoded_by: dict[str, int] = Field(description="Videos by decoding back end.")
    mean_score: float
    length_correlation: float | None = Field(description="Pearson correlation of reward and words; null if undefined.")
    chosen_words: float
    rejected_words: float
    warnings: list[str] = Field(default=[])
