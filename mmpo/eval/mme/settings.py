"""Settings of MME: a recipe's `eval.mme` section."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from mmpo.eval.section import Section, distinct
from mmpo.settings import FOLDER, PATH

BuiltSubtask = Literal["existence", "count", "position", "color"]


class MmeSettings(Section):
    """MME: pairs of yes/no questions, 14 subtasks."""

    questions: Annotated[str | None, PATH] = Field(
        default=None,
        description="The published benchmark: its folder, the scoring tool's folder, or Hugging Face rows. Empty: "
        "pairs are built from the annotations.",
    )
    image_folder: Annotated[str | None, FOLDER] = Field(
        default=None,
        description="Folder with the benchmark's images, by subtask. Empty: `questions` itself holds them.",
    )
    subtasks: list[str] = Field(
        default=[], description="Only these subtasks. Empty: all there are; of built ones, all four."
    )
    images: int | None = Field(
        default=None, ge=1, description="Built pairs: at most so many images in each subtask (MME has 30)."
    )
    seed: int = Field(default=0, description="Built pairs: seed of the draws.")
    instruction: str = Field(
        default=" Please answer yes or no.",
        description="What follows each question; MME's own by default. Changes the numbers.",
    )
    parser: Literal["official", "lmms-eval", "vlmevalkit"] = Field(
        default="official", description="The rule that reads yes or no from an answer; it stands in the result."
    )
    max_new_tokens: int = Field(
        default=16, ge=1, description="Longest answer; the official rule reads four characters."
    )

    _unique = field_validator("subtasks")(distinct)
