"""The settings and the result of a build. No torch here: recipes and the command line import it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidatorFunctionWrapHandler, field_validator, model_validator

from mmpo.chat.settings import ChatSettings
from mmpo.data_builders.hallucination.style_probe import StyleReport
from mmpo.data_builders.model_settings import ModelLoading
from mmpo.settings import ANNOTATIONS, FILE, FOLDER, MODEL, TEMPLATE, VOCABULARY, Settings
from mmpo.text.scene_claims import KINDS, ClaimKind

DESCRIPTION_PROMPTS = (
    "Describe this image in detail.",
    "Please describe this image in detail.",
    "What do you see in this picture?",
    "Give a detailed description of the image.",
)


class AnswerWeights(Settings):
    """The frequencies of no and yes as right answers, as weights: {no: 10, yes: 1} is ten to one."""

    no: float = Field(ge=0, allow_inf_nan=False, strict=True, description="Weight of pairs whose chosen side says no.")
    yes: float = Field(ge=0, allow_inf_nan=False, strict=True, description="Weight of those that say yes.")

    @model_validator(mode="after")
    def _not_both_zero(self) -> AnswerWeights:
        if not self.no and not self.yes:
            raise ValueError("one of `no` and `yes` must be above 0")
        return self


class QuestionSettings(Settings):
    """Questions put to the model itself: yes/no questions about objects, and about numbers, colours and places."""

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
    balance: Literal["equal", "none"] | AnswerWeights = Field(
        default="equal",
        description=(
            "How often yes and no are the right answers: `equal`; `none`, as they come; or weights such as "
            "{no: 10, yes: 1} (HA-DPO's LLaVA set has 1,403 no to 141 yes). Kept within each unit of work, rounded. "
            "Numbers, colours and places: each is chosen as often as it is rejected, but with `none`."
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
    counts_per_image: int = Field(
        default=1,
        ge=0,
        description="Questions `How many …?` about each image, half of them about several objects, if there are.",
    )
    colors_per_image: int = Field(
        default=1, ge=0, description="Questions `What color …?`, about single objects with a `color` attribute."
    )
    places_per_image: int = Field(default=1, ge=0, description="Questions `Where …?`, about single objects with boxes.")
    count_templates: list[str] = Field(
        default=["How many {objects} are in the image?"],
        min_length=1,
        description="How numbers are asked for; `{objects}` stands for the plural, `{object}` for the name.",
    )
    color_templates: list[str] = Field(
        default=["What color is the {object}?"], min_length=1, description="How colours are asked for."
    )
    place_templates: list[str] = Field(
        default=["Where is the {object}?"], min_length=1, description="How places are asked for."
    )
    max_new_tokens: int = Field(default=32, ge=1, description="Longest answer, in tokens; longer ones are not used.")
    writer: ChatSettings | None = Field(
        default=None,
        description=(
            "A text model that makes a question of each description pair, as in HA-DPO. Left out: rules ask about "
            "objects, absent ones by what they usually come with."
        ),
    )
    written_per_image: int = Field(
        default=4,
        ge=1,
        description="With `writer`: most questions that it makes about an image (4.3 in HA-DPO's MiniGPT-4 set).",
    )

    @field_validator("balance", mode="wrap")
    @classmethod
    def _one_kind(cls, value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        """One message about what was meant, not one for each kind of value."""
        if isinstance(value, (AnswerWeights, dict)):
            return AnswerWeights.model_validate(value)
        if value not in ("equal", "none"):
            raise ValueError("must be equal, none, or weights such as {no: 10, yes: 1}")
        return handler(value)

    def weights(self) -> dict[bool, float] | None:
        """`balance` as weights of pairs whose right answer is yes (True) and no (False); None for as they come."""
        if isinstance(self.balance, AnswerWeights):
            return {True: self.balance.yes, False: self.balance.no}
        return {True: 1.0, False: 1.0} if self.balance == "equal" else None


class ChoiceSettings(Settings):
    """Settings that choose the annotated images to describe."""

    min_objects: int = Field(default=0, ge=0, description="Fewest kinds of object in an image.")
    max_objects: int | None = Field(default=None, ge=1, description="Most kinds of object.")
    min_phrases: int = Field(default=0, ge=0, description="Fewest captions and phrases about regions together.")
    images: int | None = Field(default=None, ge=1, description="Draw this many of those that fit; left out: all.")


class TemplateSettings(Settings):
    """The prompts of text models: names of packaged templates, or paths of your own .j2 files."""

    judge: Annotated[str, TEMPLATE] = Field(default="ha_dpo_judge", description="Checks and corrects a description.")
    writer: Annotated[str, TEMPLATE] = Field(default="ha_dpo_rewrite", description="Rewords a description.")
    questions: Annotated[str, TEMPLATE] = Field(
        default="ha_dpo_question", description="Makes a yes/no question of two descriptions."
    )


class BuildSettings(ModelLoading):
    """Preference pairs from annotated images: the model's own text against its corrected text (after HA-DPO)."""

    builder: Literal["hallucination_pairs"] = Field("hallucination_pairs", description="Which pairs to build.")
    model: Annotated[str, MODEL] = Field(
        description="Folder or hub name of the model that will be trained; it writes the descriptions."
    )
    annotations: Annotated[Path, ANNOTATIONS] = Field(
        description=(
            "Which objects are in which image: COCO instances, Visual Genome's image_data.json (its other files beside "
            "it), or rows of your own (.jsonl, or .json with a list)."
        )
    )
    images: Annotated[Path | None, FOLDER] = Field(
        None, description="Folder that image paths start from. Left out: the annotation file's folder."
    )
    allow_links: bool = Field(False, description="Follow links out of the folder of images (hub caches, DVC).")
    captions: Annotated[Path | None, FILE] = Field(
        None, description="COCO captions file to go with COCO instances; objects named there count as present."
    )
    vocabulary: Annotated[str | None, VOCABULARY] = Field(
        None,
        description=(
            "Object classes and their synonyms: a file (CHAIR's synonym format, JSON or YAML), or `coco`. "
            "Left out: all `categories` of a COCO file, with COCO's synonyms where they are called like COCO's; of "
            "other files the annotated names, without synonyms."
        ),
    )
    choose: ChoiceSettings = Field(
        default_factory=ChoiceSettings,
        description="Leave out images with too few or too many objects, or with thin annotation; draw from the rest.",
    )
    limit: int | None = Field(None, ge=1, description="Use only this many images, the first ones of those chosen.")

    prompts: list[str] = Field(
        list(DESCRIPTION_PROMPTS), min_length=1, description="Requests for a description; one is drawn for each image."
    )
    samples_per_image: int = Field(2, ge=0, description="Sampled descriptions of each image, besides the greedy one.")
    temperature: float = Field(1.0, gt=0, description="Temperature of the sampled descriptions.")
    top_p: float = Field(0.9, gt=0, le=1, description="Nucleus of the sampled descriptions.")
    max_new_tokens: int = Field(
        128, ge=1, description="Longest description, in tokens; an unfinished sentence at its end is cut off."
    )
    correct: list[ClaimKind] = Field(
        list(KINDS),
        min_length=1,
        description=(
            "Kinds of claim that rules compare with the annotation and put right: which objects are there, how many, "
            "their colour (`color` attributes), their place in the picture and their relations (left of, above; boxes)."
        ),
    )
    exhaustive: bool = Field(
        False,
        description=(
            "Descriptions list everything they show, as the demo's do: `a dog` is one dog, and wrong where there are "
            "two. Else it says that there is at least one."
        ),
    )
    judge: ChatSettings | None = Field(
        None,
        description=(
            "A text model that checks and corrects descriptions against the annotation, sentence by sentence. "
            "Left out: rules."
        ),
    )
    correction: Literal["edit", "caption", "template"] = Field(
        "edit",
        description=(
            "What rules put on the chosen side: the description with its mistakes edited out, the image's first "
            "caption, or a new description written from the annotated objects."
        ),
    )
    rewrite: bool = Field(
        True,
        description=(
            "Let one writer word both sides, so that style does not distinguish them. Without it the rejected side is "
            "the description as it is, and the chosen side as its corrector wrote it."
        ),
    )
    writer: ChatSettings | None = Field(
        None, description="A text model that rewrites both sides. Left out: rules, with the same choices for both."
    )
    templates: TemplateSettings = Field(
        default_factory=TemplateSettings, description="Prompts of the text models, as files that you can edit."
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
        le=4,
        description=(
            "For each description, once right, so many pairs whose rejected side leaves out a true object (0.5: for "
            "half of the descriptions). Keeps the model from learning only to say less; 0 builds none."
        ),
    )
    variants: int = Field(
        1,
        ge=1,
        description=(
            "Wordings of both sides of each description pair (3 in HA-DPO). By rules: the model's own sentence "
            "openings, then other ones, alike on both sides."
        ),
    )
    pairs_per_image: int | None = Field(
        None,
        ge=1,
        description=(
            "Pairs from the wordings of one description: 1 (sides drawn independently, HA-DPO's released code), as "
            "many as variants (wording k with wording k; the default), or variants squared (all combinations)."
        ),
    )
    changed_weight: float | None = Field(
        None,
        ge=0,
        description=(
            "Weight of the characters in which the sides claim different things, for objectives with token weights "
            "(dense DPO; 5 in RLHF-V). Left out: no weights."
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

    @model_validator(mode="after")
    def _fitting(self) -> BuildSettings:
        if self.pairs_per_image not in (None, 1, self.variants, self.variants**2):
            allowed = " or ".join(str(number) for number in sorted({1, self.variants, self.variants**2}))
            raise ValueError(f"pairs_per_image can be {allowed} with `variants: {self.variants}`")
        if not self.rewrite and (self.variants > 1 or self.writer is not None):
            raise ValueError("`rewrite: false` leaves one wording and no `writer`")
        if self.correction != "edit" and self.judge is not None:
            raise ValueError(
                f"`correction: {self.correction}` and a `judge` both say what the chosen side is: take one"
            )
        return self


class BuildResult(BaseModel):
    """The result of a build. `pairs` is relative to the run folder."""

    pairs: str = Field(description="The folder of pairs.")
    images: int
    images_used: int = Field(description="Images that gave at least one pair.")
    description_pairs: int
    omission_pairs: int = Field(description="Pairs whose rejected side leaves out a true object.")
    question_pairs: int = Field(description="Pairs from yes/no questions.")
    counts: dict[str, dict[str, int]] = Field(
        description=(
            "For images, descriptions, their claims, wordings of both sides and questions: how many came in, and where "
            "each went; each table adds up."
        )
    )
    chosen_words: float = Field(description="Mean length of the chosen sides that are descriptions, in words.")
    rejected_words: float = Field(description="Mean length of the rejected ones.")
    yes_share: float = Field(description="Share of the yes/no pairs whose right answer is yes.")
    question_answers: dict[str, int] = Field(
        default={}, description="How many yes/no pairs have no and yes as the right answer."
    )
    value_pairs: dict[str, int] = Field(
        default={}, description="How many pairs there are from questions about numbers, colours and places."
    )
    corrected: dict[str, int] = Field(
        default={},
        description="In how many description pairs the rejected side is wrong about objects, numbers, …, by kind.",
    )
    hallucinating_share: float = Field(description="Share of the model's own descriptions with a mistake.")
    warnings: list[str] = Field(default=[], description="What to know before training on these pairs.")
    style: StyleReport | None = Field(
        default=None,
        description="How well style alone separates the sides of the description pairs; None for too few.",
    )
