"""Settings of AMBER: a recipe's `eval.amber` section."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from mmpo.eval.amber.words import NounsName
from mmpo.eval.section import Section, distinct
from mmpo.settings import FILE, FOLDER


class AmberSettings(Section):
    """AMBER: its published queries."""

    data: Annotated[str | None, FOLDER] = Field(
        default=None,
        description="Folder with annotations.json, relation.json, safe_words.txt and query/, as published.",
    )
    image_folder: Annotated[str | None, FOLDER] = Field(
        default=None, description="Folder with AMBER_1.jpg and so on. Empty: `images` of the evaluation."
    )
    queries: Annotated[list[str], FILE] = Field(
        default=[], description="Query files. Empty: query/query_all.json in the data folder."
    )
    parts: list[Literal["generative", "discriminative"]] = Field(
        default=["generative", "discriminative"], min_length=1, description="Which halves to ask."
    )
    words: NounsName = Field(
        default="auto",
        description="How nouns are found: `tag-lemma` as published, `noun-lemma` without a tagger, `auto` what is "
        "installed. It stands in the result.",
    )
    similarity: str = Field(
        default="exact",
        description="Which words mean the same: `exact`, `synonyms`, or `spacy:MODEL` with word vectors "
        "(the published script takes en_core_web_lg).",
    )
    order: Literal["published", "names-first"] = Field(
        default="published", description="Whether related words are searched before names, as the script does."
    )
    cog_denominator: Literal["targets", "response"] = Field(
        default="targets", description="Cog as a share of the expected words (script) or of the nouns (paper)."
    )
    parser: Literal["official", "first-word", "vlmevalkit"] = Field(
        default="first-word", description="How Yes or No is read; `official` takes nothing but exactly Yes or No."
    )
    prompt_suffix: str = Field(default="", description="Text after each yes/no question. Changes the numbers.")
    max_new_tokens: int = Field(default=512, ge=1, description="Longest description.")
    yes_no_tokens: int = Field(default=16, ge=1, description="Longest answer to a yes/no question.")

    _unique = field_validator("parts")(distinct)
