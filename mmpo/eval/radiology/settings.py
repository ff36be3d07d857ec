"""Settings of the radiology benchmark: a recipe's `eval.radiology` section."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mmpo.eval.section import Section
from mmpo.settings import FOLDER, LEXICON, PATH


class RadiologyEvalSettings(Section):
    """Hallucinated earlier exams in radiology reports."""

    reports: Annotated[str | None, PATH] = Field(
        default=None, description="Reference reports with their films: .csv, .tsv, .jsonl, or MIMIC-CXR's folders."
    )
    images: Annotated[str | None, FOLDER] = Field(default=None, description="Folder that image paths start from.")
    section: Literal["findings", "impression", "both", "report"] = Field(
        default="findings", description="Which part of a reference is compared."
    )
    prompt: str = Field(
        default="Write a radiology report for this chest radiograph.", min_length=1, description="What is asked."
    )
    max_new_tokens: int = Field(default=256, ge=1, description="Longest report.")
    lexicon: Annotated[str | None, LEXICON] = Field(
        default=None, description="Further words for the detector (YAML or JSON)."
    )
    judged_by: Literal["rules", "both"] = Field(
        default="rules", description="`both`: lines are also judged by eval.judge, and the agreement is given."
    )
    uncertain_as: Literal["positive", "negative", "ignore"] = Field(
        default="positive", description="How an uncertain finding counts."
    )
