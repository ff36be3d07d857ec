"""Settings of MMVP: a recipe's `eval.mmvp` section."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mmpo.eval.section import Section
from mmpo.settings import FILE, FOLDER

ReaderName = Literal["lmms-eval", "internvl"]
GoldName = Literal["corrected", "published"]


class MmvpSettings(Section):
    """MMVP: pairs of pictures that CLIP takes for the same, one question with two options about both."""

    questions: Annotated[str | None, FILE] = Field(default=None, description="MMVP's Questions.csv.")
    images: Annotated[str | None, FOLDER] = Field(
        default=None, description="Folder of 1.jpg, 2.jpg, … Empty: the folder `MMVP Images` beside the questions."
    )
    parser: ReaderName = Field(default="lmms-eval", description="The rule that reads an option off an answer.")
    gold: GoldName = Field(
        default="corrected",
        description="`published`: the right answers as released. `corrected`: those of questions 99, 100, 279 and 280, "
        "which were swapped, the right way round, as lmms-eval has them.",
    )
    max_new_tokens: int = Field(default=16, ge=1, description="Longest answer, in tokens.")
