"""Settings of POPE: a recipe's `eval.pope` section."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from mmpo.eval.section import Section, distinct
from mmpo.eval.yes_no import ParserName
from mmpo.settings import FILE, FOLDER, TEMPLATE

SplitName = Literal["random", "popular", "adversarial"]
PopeParser = Literal[ParserName, "vcd"]


class PopeSettings(Section):
    """POPE: yes/no questions about objects."""

    questions: Annotated[list[str], FILE] = Field(
        default=[],
        description="Published question files, one a split, to be asked as they are. Empty: questions are built from "
        "the annotations by the official tool's algorithm.",
    )
    corrected: Annotated[list[str], FILE] = Field(
        default=[],
        description="RePOPE's files, one a split, with corrected labels of `questions`: both numbers are printed.",
    )
    image_folder: Annotated[str | None, FOLDER] = Field(
        default=None, description="Folder of the images that `questions` names. Empty: eval.images."
    )
    splits: list[SplitName] = Field(
        default=["random", "popular", "adversarial"],
        min_length=1,
        description="How absent objects are chosen, one set of questions each.",
    )
    questions_per_image: int = Field(
        default=6, ge=2, description="Questions per image and split, half about present objects; even."
    )
    images: int | None = Field(
        default=None,
        ge=1,
        description="How many images to draw; a warning if fewer qualify. Empty: all that qualify, at most 500.",
    )
    article: Literal["fixed", "official"] = Field(
        default="fixed",
        description="a or an. `fixed`: by sound. `official`: by the first letter, as in the published texts.",
    )
    parser: PopeParser = Field(
        default="official", description="The rule that reads yes or no from an answer; it stands in the result."
    )
    judge: bool = Field(
        default=False,
        description="Ask `eval.judge` about answers that the parser `vlmevalkit` can't read, as VLMEvalKit does where "
        "it is given a judge.",
    )
    judge_template: Annotated[str, TEMPLATE] = Field(
        default="yes_no_match", description="The judge's prompt: a packaged template's name or the path of a .j2 file."
    )
    prompt_suffix: str = Field(
        default="",
        description="Text after each question, e.g. LLaVA's instruction to answer with a single word. "
        "Changes the numbers.",
    )
    max_new_tokens: int = Field(
        default=16, ge=1, description="Longest answer; the official rule reads the first sentence only."
    )
    seed: int = Field(default=0, description="Seed of the image draw and of the random negatives.")

    @field_validator("questions_per_image")
    @classmethod
    def _even(cls, value: int) -> int:
        if value % 2:
            raise ValueError("must be even: each present object is paired with an absent one")
        return value

    @model_validator(mode="after")
    def _judged(self) -> PopeSettings:
        if self.judge and self.parser != "vlmevalkit":
            raise ValueError("`judge` goes with `parser: vlmevalkit`: the other rules read every answer, or ask nobody")
        if self.corrected and not self.questions:
            raise ValueError("`corrected` are other labels of published `questions`; name these, too")
        return self

    _unique = field_validator("splits")(distinct)
