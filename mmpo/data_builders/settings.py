"""What a build can be told, and what it tells afterwards. No torch here: recipes and the command line import it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

DESCRIPTION_PROMPTS = (
    "Describe this image in detail.",
    "Please describe this image in detail.",
    "What do you see in this picture?",
    "Give a detailed description of the image.",
)


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True)


class QuestionSettings(_Settings):
    """Yes/no questions about objects, put to the model itself."""

    questions_per_image: int = Field(
        default=6,
        ge=2,
        description=(
            "Questions about each image: half about objects in it, half about absent ones that usually come with those."
        ),
    )
    keep_right_share: float = Field(
        default=0.25,
        ge=0,
        le=1,
        description=(
            "Share of the questions answered rightly that become pairs too, besides those that balance yes and no."
        ),
    )
    templates: list[str] = Field(
        default=["Is there {article} {object} in the image?"],
        min_length=1,
        description=(
            "How questions are asked; `{object}` stands for the object's name and `{article}` for a or an. "
            "One is drawn for each question."
        ),
    )
    max_new_tokens: int = Field(default=32, ge=1, description="Longest answer, in tokens; longer ones are not used.")


class BuildSettings(_Settings):
    """Preference pairs from annotated images: what the model says against what it should have said (after HA-DPO)."""

    builder: Literal["hallucination_pairs"] = Field("hallucination_pairs", description="Which pairs to build.")
    model: str = Field(description="Folder or hub name of the model that will be trained; it writes the descriptions.")
    annotations: Path = Field(
        description="COCO instances (.json) or JSON Lines (.jsonl): which objects are in which image."
    )
    images: Path | None = Field(
        None, description="Folder that image paths start from. Left out: the annotation file's folder."
    )
    captions: Path | None = Field(
        None, description="COCO captions file to go with COCO instances; objects named there count as present."
    )
    vocabulary: str | None = Field(
        None,
        description=(
            "Object classes and their synonyms: a file (CHAIR's synonym format, JSON or YAML), or `coco`. "
            "Left out: the annotated names, without synonyms."
        ),
    )
    limit: int | None = Field(None, ge=1, description="Use only so many images, the first ones of the file.")

    prompts: list[str] = Field(
        list(DESCRIPTION_PROMPTS), min_length=1, description="Requests for a description; one is drawn for each image."
    )
    samples_per_image: int = Field(2, ge=0, description="Sampled descriptions of each image, besides the greedy one.")
    temperature: float = Field(1.0, gt=0, description="Temperature of the sampled descriptions.")
    top_p: float = Field(0.9, gt=0, le=1, description="Nucleus of the sampled descriptions.")
    max_new_tokens: int = Field(
        128, ge=1, description="Longest description, in tokens; an unfinished sentence at its end is cut off."
    )
    add_missed: Literal["none", "balance", "all"] = Field(
        "balance",
        description=(
            "Objects that a description leaves out: never add them to its chosen side, add as many as wrong ones were "
            "removed (keeps recall and length), or add all."
        ),
    )
    min_area: float = Field(
        0.004, ge=0, lt=1, description="Objects that cover a smaller share of the image are not added."
    )
    omission_share: float = Field(
        1.0,
        ge=0,
        le=1,
        description=(
            "Share of the descriptions that, once right, also give a pair whose rejected side leaves out a true "
            "object. Keeps the model from learning merely to say less; 0 builds none."
        ),
    )
    variants: int = Field(
        1,
        ge=1,
        description=(
            "Wordings of each description pair: the model's own sentence openings, then other ones, alike "
            "on both sides."
        ),
    )
    qa: QuestionSettings | None = Field(
        default_factory=QuestionSettings, description="Question pairs; null builds none."
    )

    seed: int = Field(0, ge=0, description="Decides prompts, samples, questions and wordings.")
    shard_size: int = Field(
        64,
        ge=1,
        description=(
            "Images in a unit of work: what a killed build does again, over which questions balance, and from which "
            "the model's way of naming things is learnt."
        ),
    )
    dtype: Literal["float32", "bfloat16", "auto"] = Field("float32", description="Number format of the model.")
    allow_network: bool = Field(False, description="Fetch the model from the hub if it is not on this machine.")
    trust_remote_code: bool = Field(False, description="Run code that comes with the model.")


class BuildResult(BaseModel):
    """What a build leaves behind. `pairs` is relative to the run folder."""

    pairs: str = Field(description="The folder of pairs.")
    images: int
    images_used: int = Field(description="Images that gave at least one pair.")
    description_pairs: int
    omission_pairs: int = Field(description="Pairs whose rejected side leaves out a true object.")
    question_pairs: int
    counts: dict[str, dict[str, int]] = Field(
        description="For images, descriptions and questions: how many came in, and where each went; each table adds up."
    )
    chosen_words: float = Field(description="Mean length of the chosen sides that are descriptions, in words.")
    rejected_words: float = Field(description="Mean length of the rejected ones.")
    yes_share: float = Field(description="Share of the question pairs whose right answer is yes.")
    hallucinating_share: float = Field(description="Share of the model's own descriptions that name an absent object.")
