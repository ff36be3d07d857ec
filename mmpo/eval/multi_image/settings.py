"""Settings of the multi-image benchmark: a recipe's `eval.multi_image` section."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from mmpo.data.layouts.geometry import GRIDS
from mmpo.eval.section import Section, distinct
from mmpo.eval.yes_no import ParserName

LayoutName = Literal["sequence", "collage", "pic_in_pic"]


class MultiImageSettings(Section):
    """Questions about one of several pictures."""

    layouts: list[LayoutName] = Field(
        default=["sequence", "collage", "pic_in_pic"], min_length=1, description="How the pictures are shown."
    )
    prompts: int = Field(default=100, ge=1, description="Composed prompts of each layout; each gets up to 4 questions.")
    sequence_sizes: list[int] = Field(default=[2, 3], min_length=1, description="Numbers of images in a sequence.")
    collage_sizes: list[int] = Field(default=[2, 4], min_length=1, description="Numbers of pictures in a collage.")
    label: str = Field(default="Image{n}:", description="What stands before image n of a sequence.")
    question: str = Field(
        default="Is there {article} {object}?", description="The yes/no question, put behind `In Image3, `."
    )
    which: str = Field(default="Which image shows {article} {object}?", description="The question for an image.")
    parser: ParserName = Field(default="official", description="The rule that reads yes or no from an answer.")
    prompt_suffix: str = Field(default="", description="Text after each question. Changes the numbers.")
    max_new_tokens: int = Field(default=16, ge=1, description="Longest answer, in tokens.")
    seed: int = Field(default=0, description="Seed of pictures, places and objects.")

    _unique = field_validator("layouts", "sequence_sizes", "collage_sizes")(distinct)

    @field_validator("collage_sizes")
    @classmethod
    def _grids(cls, sizes: list[int]) -> list[int]:
        if unknown := [size for size in sizes if size not in GRIDS]:
            raise ValueError(f"a collage of {unknown[0]} has no grid: one of {', '.join(map(str, GRIDS))}")
        return sizes

    @field_validator("sequence_sizes")
    @classmethod
    def _several(cls, sizes: list[int]) -> list[int]:
        if min(sizes) < 2:
            raise ValueError("a sequence has at least 2 images")
        return sizes
