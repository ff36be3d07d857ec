"""Settings of SHR: a recipe's `eval.shr` section."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mmpo.chat.judging import Mode
from mmpo.eval.section import Section
from mmpo.settings import FOLDER, PATH, TEMPLATE, VOCABULARY


class ShrSettings(Section):
    """SHR: sentences of free descriptions, judged."""

    annotations: Annotated[str | None, PATH] = Field(
        default=None,
        description="SHR's published annotations: val_images_final.json or its folder, with shr_factual*.jsonl beside "
        "it. Empty: the evaluation's own annotated images.",
    )
    images: Annotated[str | None, FOLDER] = Field(
        default=None, description="With `annotations`: folder of the Visual Genome images, IMAGE_ID.jpg."
    )
    prompt: str = Field(default="Describe this image in detail.", min_length=1, description="What the model is asked.")
    max_new_tokens: int = Field(default=512, ge=1, description="Longest description.")
    judged_by: Literal["auto", "model", "rules"] = Field(
        default="auto",
        description="`model`: the text model in eval.judge. `rules`: object names against the annotations, no model. "
        "`auto`: the model where eval.judge is set.",
    )
    parser: Mode = Field(
        default="tolerant", description="How a judge's reply is read; `strict` is the published script's rule."
    )
    template: Annotated[str, TEMPLATE] = Field(
        default="shr_judge", description="The judge's prompt: a packaged template's name or the path of a .j2 file."
    )
    temperature: float = Field(
        default=0.0, ge=0, description="The judge's temperature; the published protocol samples at 0.7."
    )
    vocabulary: Annotated[str, VOCABULARY] = Field(
        default="coco",
        description="With `annotations` and rules: which words name which object, `coco` or a file of synonyms.",
    )
