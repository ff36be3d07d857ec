"""Settings of NaturalBench: a recipe's `eval.naturalbench` section."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mmpo.eval.section import Section
from mmpo.settings import FILE, FOLDER


class NaturalBenchSettings(Section):
    """NaturalBench: two pictures, two questions, opposite answers."""

    questions: Annotated[list[str], FILE] = Field(
        default=[], description="Files of its rows: Parquet with pictures inside, JSON or JSON Lines with their paths."
    )
    images: Annotated[str | None, FOLDER] = Field(
        default=None, description="Folder that paths of pictures start in. Empty: the folder of the first file."
    )
    max_new_tokens: int = Field(default=16, ge=1, description="Longest answer, in tokens.")
