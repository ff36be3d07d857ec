"""Settings of MMHal-Bench: a recipe's `eval.mmhal` section."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mmpo.chat.judging import Mode
from mmpo.eval.section import Section
from mmpo.settings import FILE, FOLDER, TEMPLATE


class MmhalSettings(Section):
    """MMHal-Bench: free questions, rated by a judge."""

    questions: Annotated[str | None, FILE] = Field(
        default=None, description="The published answer template, mmhal-bench_answer_template.json."
    )
    images: Annotated[str | None, FOLDER] = Field(
        default=None, description="Folder of the 96 images, named by image id or as in their URLs. Nothing is fetched."
    )
    max_new_tokens: int = Field(default=1024, ge=1, description="Longest answer; 64 is the runner's short mode.")
    parser: Mode = Field(
        default="strict", description="How the rating is read; `strict` is the published script's rule."
    )
    template: Annotated[str, TEMPLATE] = Field(
        default="mmhal_judge", description="The judge's prompt: a packaged template's name or the path of a .j2 file."
    )
