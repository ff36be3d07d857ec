"""Settings of the multiple-choice benchmarks: a recipe's `eval.multiple_choice` section."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mmpo.eval.section import Section
from mmpo.settings import FILE, FOLDER

FormatName = Literal["nlvr2", "blink", "mantis_eval", "mvbench"]


class MultipleChoiceSettings(Section):
    """NLVR2, BLINK, Mantis-Eval, MVBench: published questions."""

    format: FormatName = Field(default="blink", description="Which benchmark's files these are.")
    questions: Annotated[list[str], FILE] = Field(default=[], description="The question files, as published.")
    images: Annotated[str | None, FOLDER] = Field(
        default=None, description="Folder that image or video paths start from. Empty: the first file's folder."
    )
    frames: int = Field(default=8, ge=1, le=64, description="Frames of a video (MVBench).")
    prompt_suffix: str = Field(
        default="\nAnswer with the option's letter from the given choices directly.",
        description="Text after a question with options. Changes the numbers.",
    )
    max_new_tokens: int = Field(default=16, ge=1, description="Longest answer, in tokens.")
