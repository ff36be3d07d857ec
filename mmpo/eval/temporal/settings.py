"""Settings of VideoHallucer and TempCompass: a recipe's `eval.temporal` section."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mmpo.eval.section import Section, VideoFrames
from mmpo.settings import FOLDER, PATH


class TemporalSettings(Section):
    """VideoHallucer and TempCompass: short answers about videos."""

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
