"""What a recipe's `eval.video_qa` and `eval.temporal` sections hold."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mmpo.eval.section import Section
from mmpo.settings import FILE, FOLDER, PATH, SAMPLING, TEMPLATE


class VideoFrames(Section):
    """Which frames of a video the model sees."""

    num: int = Field(default=8, ge=1, le=256, description="Frames of a video.")
    sampling: Annotated[str, SAMPLING] = Field(
        default="linspace_trunc", description="How they are chosen: see docs/video.md."
    )
    max_side: int | None = Field(default=336, ge=16, description="Longer side of a frame; larger ones are shrunk.")


class VideoQaSettings(Section):
    """Open-ended questions about videos, judged by a text model or by rules."""

    questions: Annotated[str | None, FILE] = Field(
        default=None,
        description="Question file: MSVD, MSRVTT, ActivityNet, TGIF-QA, LLaVA-Hound, or mmpo's own list of videos.",
    )
    answers: Annotated[str | None, FILE] = Field(
        default=None, description="File of right answers, where it stands apart (ActivityNet)."
    )
    videos: Annotated[str | None, FOLDER] = Field(default=None, description="Folder of the videos.")
    video_pattern: str = Field(
        default="{video}", description="File of a video by its name in the question file, e.g. video{video}.mp4."
    )
    frames: VideoFrames = Field(default_factory=VideoFrames, description="Which frames the model sees.")
    prompt_suffix: str = Field(default="", description="Text after each question. Changes the numbers.")
    max_new_tokens: int = Field(default=64, ge=1, description="Longest answer.")
    judged_by: Literal["model", "rules"] = Field(
        default="model",
        description="`model`: eval.judge. `rules`: over the annotations of mmpo's own list of videos; also counts "
        "answers with a thing or an event that is not in the video.",
    )
    protocol: Literal["zero_shot", "reward"] = Field(
        default="zero_shot", description="zero_shot: yes/no and 0 to 5 (Video-ChatGPT). reward: 1 to 5 with captions."
    )
    captions: Annotated[str | None, FILE] = Field(
        default=None, description="JSON Lines with captions, for the protocol reward."
    )
    parser: Literal["tolerant", "video_chatgpt", "llava_hound"] = Field(
        default="tolerant", description="How the judge's replies are read; the others are the published scripts' rules."
    )
    template: Annotated[str | None, TEMPLATE] = Field(
        default=None, description="The judge's prompt, in place of the protocol's own."
    )


class TemporalSettings(Section):
    """Yes/no and multiple-choice questions about videos: VideoHallucer, TempCompass."""

    questions: Annotated[str | None, PATH] = Field(
        default=None, description="Question file or folder of JSON files, in either format."
    )
    videos: Annotated[str | None, FOLDER] = Field(default=None, description="Folder of the videos.")
    video_pattern: str = Field(default="{video}", description="File of a video by its name, e.g. {video}.mp4.")
    frames: VideoFrames = Field(default_factory=VideoFrames, description="Which frames the model sees.")
    prompt_suffix: str | None = Field(
        default=None,
        description="Text after each question; changes the numbers. Empty: the benchmark's own (TempCompass: by task).",
    )
    parser: Literal["official", "first-word", "tolerant"] = Field(
        default="official",
        description="How answers are read: `official`, the published scripts' rules; `first-word` (VideoHallucer) or "
        "`tolerant` (TempCompass), ours.",
    )
    max_new_tokens: int = Field(default=16, ge=1, description="Longest answer.")
