"""Settings of HallusionBench: a recipe's `eval.hallusionbench` section."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mmpo.chat.judging import Mode
from mmpo.eval.section import Section
from mmpo.eval.yes_no import ParserName
from mmpo.settings import FILE, FOLDER, TEMPLATE


class HallusionBenchSettings(Section):
    """HallusionBench: yes/no questions about figures."""

    questions: Annotated[str | None, FILE] = Field(default=None, description="The published HallusionBench.json.")
    images: Annotated[str | None, FOLDER] = Field(
        default=None, description="Folder of the published figures, which holds VD/ and VS/."
    )
    question_set: Literal["all", "image"] = Field(
        default="all", description="`all` 1,129 questions, or the 951 with an `image`, as VLMEvalKit asks them."
    )
    prompt_suffix: str = Field(
        default="", description="Text after each question, e.g. ' Please answer yes or no.' Changes the numbers."
    )
    max_new_tokens: int = Field(default=64, ge=1, description="Longest answer.")
    judged_by: Literal["auto", "model", "rules"] = Field(
        default="auto",
        description="`model`: the text model in eval.judge. `rules`: yes or no is read from the answer. `auto`: the "
        "model where eval.judge is set.",
    )
    yes_no: ParserName = Field(default="vlmevalkit", description="With rules: how yes or no is read from an answer.")
    parser: Mode = Field(
        default="strict", description="How a judge's reply is read; `strict` is the published script's rule."
    )
    attribution: bool = Field(
        default=False,
        description="Let the judge also compare answers about different figures, which tells language hallucination "
        "from visual illusion; up to twice the requests.",
    )
    correct_template: Annotated[str, TEMPLATE] = Field(
        default="hallusion_correct", description="The judge's prompt: a packaged name or the path of a .j2 file."
    )
    same_template: Annotated[str, TEMPLATE] = Field(
        default="hallusion_same", description="The prompt of the comparison, likewise."
    )
