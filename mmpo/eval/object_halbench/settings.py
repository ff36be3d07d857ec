"""Settings of Object HalBench: a recipe's `eval.object_halbench` section."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mmpo.chat.judging import Mode
from mmpo.eval.section import Section
from mmpo.settings import FILE, OUTPUT, PATH, TEMPLATE, VOCABULARY
from mmpo.text.word_forms import FormName


class ObjectHalBenchSettings(Section):
    """Object HalBench: its published questions."""

    questions: Annotated[str | None, FILE] = Field(
        default=None,
        description="The questions: JSON Lines of `image_id`, `question`, `image` (a path, or base64 as published).",
    )
    image_folder: Annotated[str | None, OUTPUT] = Field(
        default=None,
        description="Folder of the images. Pictures that the question file holds are unpacked into it once.",
    )
    annotations: Annotated[str | None, PATH] = Field(
        default=None,
        description="What the images show: COCO instances, COCO's annotations folder, JSON Lines, or a table "
        "`{image_id: [objects]}`.",
    )
    captions: Annotated[str | None, FILE] = Field(
        default=None, description="COCO's captions file, to go with an instances file."
    )
    vocabulary: Annotated[str, VOCABULARY] = Field(
        default="auto", description="Synonyms: the published synonyms_refine.txt, another file, `coco` or `auto`."
    )
    words: FormName = Field(default="noun-lemma", description="How words get their base form; as published.")
    extraction: Literal["auto", "model", "words"] = Field(
        default="auto",
        description="`model`: the text model in eval.judge lists the objects of every answer (the published protocol). "
        "`words`: the answer's own words. `auto`: the model where eval.judge is set.",
    )
    parser: Mode = Field(
        default="tolerant", description="How a judge's list is read; `strict` is the published script's rule."
    )
    template: Annotated[str, TEMPLATE] = Field(
        default="object_halbench_extract",
        description="The judge's prompt: a packaged template's name or the path of a .j2 file.",
    )
    temperature: float = Field(
        default=0.0, ge=0, description="The judge's temperature; the published protocol has 0.2."
    )
    max_new_tokens: int = Field(default=1024, ge=1, description="Longest answer.")
