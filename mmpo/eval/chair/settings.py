"""Settings of CHAIR: a recipe's `eval.chair` section."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mmpo.eval.section import Section
from mmpo.settings import VOCABULARY
from mmpo.text.object_words import WordsName


class ChairSettings(Section):
    """CHAIR: objects in free descriptions."""

    prompt: str = Field(
        default="Please describe this image in detail.",
        min_length=1,
        description="What the model is asked for each image.",
    )
    vocabulary: Annotated[str, VOCABULARY] = Field(
        default="auto",
        description="Which words name which object: `coco` (80 names with synonyms), a file "
        "(CHAIR's synonyms.txt, JSON or YAML), "
        "or `auto`: coco where all annotated names are COCO's, else the annotated names with their plurals.",
    )
    words: WordsName = Field(
        default="rules",
        description="How words get their base form: `rules` (listed and regular plurals, nothing to install), or as "
        "the published scripts do: `tag-lemma`, `noun-lemma`, `singularize`. Changes the numbers.",
    )
    published_rules: bool | None = Field(
        default=None,
        description="Read texts as the published script does: its double words, entries exactly as written. "
        "Empty: where the vocabulary is a .txt list, CHAIR's own form.",
    )
    max_new_tokens: int = Field(
        default=512, ge=1, description="Longest description; 512 and 64 are the usual protocols."
    )
