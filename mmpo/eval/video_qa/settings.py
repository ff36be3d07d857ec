"""Settings of open-ended video QA: a recipe's `eval.video_qa` section."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mmpo.eval.section import Section, VideoFrames
from mmpo.settings import FILE, FOLDER, TEMPLATE

Protocol = Literal["zero_shot", "reward"]
Parser = Literal["tolerant", "video_chatgpt", "llava_hound"]


class VideoQaSettings(Section):
    """Open-ended questions about videos, judged."""

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
    protocol: Protocol = Field(
        default="zero_shot", description="zero_shot: yes/no and 0 to 5 (Video-ChatGPT). reward: 1 to 5 with captions."
    )
    captions: Annotated[str | None, FILE] = Field(
        default=None, description="JSON Lines with captions, for the protocol reward."
    )
    parser: Parser = Field(
        default="tolerant", description="How the judge's replies are read; the others are the published scripts' rules."
    )
    template: Annotated[str | None, TEMPLATE] = Field(
        default=None, description="The judge's prompt, in place of the protocol's own."
    )
