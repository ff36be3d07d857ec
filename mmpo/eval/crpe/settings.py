"""Settings of CRPE: a recipe's `eval.crpe` section."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mmpo.eval.section import Section
from mmpo.settings import FILE, FOLDER

CrpeReader = Literal["official", "letter"]


class CrpeSettings(Section):
    """CRPE: relations between things, each asked four times with the options turned round."""

    questions: Annotated[list[str], FILE] = Field(
        default=[], description="crpe_relation.jsonl and, if wanted, crpe_exist.jsonl."
    )
    images: Annotated[str | None, FOLDER] = Field(
        default=None, description="Folder that the pictures' paths start in. Empty: the folder of the first file."
    )
    parser: CrpeReader = Field(
        default="official",
        description="`official`: the answer must be one letter and nothing else. `letter`: a letter is read off it.",
    )
    max_new_tokens: int = Field(default=16, ge=1, description="Longest answer, in tokens.")
