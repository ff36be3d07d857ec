"""Settings of an evaluation: what a recipe's `eval` section holds."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from mmpo.eval.yes_no import ParserName

BenchmarkName = Literal["pope", "chair"]
SplitName = Literal["random", "popular", "adversarial"]


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid")


def _none_word(value: Any) -> Any:
    return None if value == "none" else value


def _distinct(values: list[Any]) -> list[Any]:
    if len(set(values)) != len(values):
        raise ValueError("each name at most once")
    return values


class PopeSettings(_Settings):
    """How POPE questions are built from the annotations and asked."""

    splits: list[SplitName] = Field(
        default=["random", "popular", "adversarial"],
        min_length=1,
        description="How absent objects are chosen, one set of questions each.",
    )
    questions_per_image: int = Field(
        default=6, ge=2, description="Questions per image and split, half about present objects; even."
    )
    images: int | None = Field(
        default=None,
        ge=1,
        description="How many images to draw; an error if fewer qualify. Empty: all that qualify, at most 500.",
    )
    parser: ParserName = Field(
        default="official", description="The rule that reads yes or no from an answer; it stands in the result."
    )
    prompt_suffix: str = Field(
        default="",
        description="Text after each question, e.g. LLaVA's instruction to answer with a single word. "
        "Changes the numbers.",
    )
    max_new_tokens: int = Field(
        default=16, ge=1, description="Longest answer; the official rule reads the first sentence only."
    )
    seed: int = Field(default=0, description="Seed of the image draw and of the random negatives.")

    @field_validator("questions_per_image")
    @classmethod
    def _even(cls, value: int) -> int:
        if value % 2:
            raise ValueError("must be even: each present object is paired with an absent one")
        return value

    _unique = field_validator("splits")(_distinct)


class ChairSettings(_Settings):
    """How images are described and the descriptions checked."""

    prompt: str = Field(
        default="Please describe this image in detail.",
        min_length=1,
        description="What the model is asked for each image.",
    )
    vocabulary: str = Field(
        default="auto",
        description="Which words name which object: `coco` (80 names with synonyms), a file "
        "(CHAIR's synonyms.txt, JSON or YAML), "
        "or `auto`: coco where all annotated names are COCO's, else the annotated names with their plurals.",
    )
    published_rules: bool = Field(
        default=False,
        description="Read texts as the published script does: its double words, entries exactly as written.",
    )
    max_new_tokens: int = Field(
        default=512, ge=1, description="Longest description; 512 and 64 are the usual protocols."
    )


class BootstrapSettings(_Settings):
    """Resampling of images for intervals and tests."""

    samples: int = Field(
        default=10_000, ge=100, description="Number of resamples; the smallest p-value is 2 / (samples + 1)."
    )
    seed: int = Field(default=0, description="Seed of the resamples.")


class EvalSettings(_Settings):
    """One evaluation: a model (and adapter) on an annotated folder of images."""

    model: str = Field(description="Model folder, or a Hugging Face id that is already in the local cache.")
    adapter: str | None = Field(
        default=None, description="Adapter folder of a training run; empty evaluates the model alone."
    )
    compare: Annotated[Literal["base"] | None, BeforeValidator(_none_word)] = Field(
        default="base",
        description="`base`: also without the adapter, for a before/after table. `none`: with the adapter only.",
    )
    images: str = Field(description="Folder that holds the images.")
    annotations: str = Field(
        description="COCO instances JSON, or JSON Lines with `image`, `objects` and optionally `captions`."
    )
    limit: int | None = Field(default=None, ge=1, description="Use only the first so many annotated images.")
    benchmarks: list[BenchmarkName] = Field(default=["pope", "chair"], min_length=1, description="What to measure.")
    pope: PopeSettings = Field(default_factory=PopeSettings, description="POPE: yes/no questions about objects.")
    chair: ChairSettings = Field(default_factory=ChairSettings, description="CHAIR: objects in free descriptions.")
    bootstrap: BootstrapSettings = Field(default_factory=BootstrapSettings, description="Intervals and tests.")
    dtype: Literal["float32", "bfloat16", "auto"] = Field(
        default="auto", description="Number format of the model; auto is the model's own."
    )
    tokens_per_batch: int = Field(
        default=8192, ge=64, description="How many tokens are computed together; lower it if memory runs out."
    )

    _unique = field_validator("benchmarks")(_distinct)
