"""Settings of evidence: the sources, the control pictures, and how opinions are combined. No torch here.

A builder or a benchmark that uses evidence derives its settings from `EvidenceSettings`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Union

from pydantic import (
    AfterValidator,
    ConfigDict,
    Discriminator,
    Field,
    SerializeAsAny,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from mmpo.chat.settings import ChatSettings
from mmpo.evidence.agreement import combine
from mmpo.evidence.records import CombinedOpinion, Opinion
from mmpo.registry import Registry
from mmpo.settings import ANNOTATIONS, DETECTOR, FOLDER, MODEL, Settings
from mmpo.text.words import article

QUESTIONS = (
    "Is there {article} {object} in the image?",
    "Do you see {article} {object}?",
    "Is there {article} {object} in the picture? Answer yes or no.",
)
NEGATED = ("Is it true that there is no {object} in the image?",)
CLAIM_QUESTIONS = ("{question}", "{question} Please answer yes or no.")
JUDGE_CLAIM = "{question} Reply with one word: yes, no, or unsure."
JUDGE_QUESTION = "Is there {article} {object} in the image? Reply with one word: yes, no, or unsure."


def asked_about(template: str, name: str) -> str:
    """A question's template, filled for a class; one with `{question}` for a question."""
    if "{question}" in template:
        return template.replace("{question}", name)
    return template.replace("{article}", article(name)).replace("{object}", name)


class SourceSettings(Settings):
    """One source of evidence; those of a plug-in add `source: Literal["name"]`."""

    source: str

    @property
    def decides(self) -> bool:
        """Does it decide alone where it doesn't abstain?"""
        return False

    @property
    def answers_questions(self) -> bool:
        """Can it answer any yes/no question about a picture? Others know classes alone, and abstain."""
        return False


class AnnotationsSource(SourceSettings):
    """What people marked or wrote about the pictures."""

    source: Literal["annotations"]
    path: Annotated[Path, ANNOTATIONS] = Field(
        description="Annotated images, as for the builder `hallucination_pairs`; a picture is known by its path."
    )
    complete: bool = Field(
        False,
        description="Everything of the annotation's own classes is marked, so what is not marked is absent. Such an "
        "annotation decides alone. Without it, what is not marked is left open.",
    )
    classes: list[str] = Field(
        [], description="The classes that were looked for. Left out: a COCO file's categories, else all marked names."
    )

    @property
    def decides(self) -> bool:
        return self.complete


class DetectorSource(SourceSettings):
    """An object detector: closed-set, which knows a list of classes, or zero-shot, which is asked for names."""

    FREE: ClassVar[frozenset[str]] = frozenset({"batch_size"})

    source: Literal["detector"]
    model: Annotated[str, DETECTOR] = Field(
        description="A folder of AutoModelForObjectDetection (DETR, YOLOS, …) or AutoModelForZeroShotObjectDetection "
        "(Grounding DINO, OWLv2, OmDet-Turbo, …)."
    )
    threshold: float = Field(
        0.35,
        gt=0,
        lt=1,
        description="Without controls: a box of at least this score makes a class present, none of half of it absent.",
    )
    text_threshold: float = Field(
        0.25, ge=0, lt=1, description="Grounding DINO: least score of a word to count to a box's label."
    )
    batch_size: int = Field(8, ge=1, description="Pictures computed together.")


class SelfSource(SourceSettings):
    """The model's own answers to yes/no questions, in several wordings."""

    source: Literal["self"]
    model: Annotated[str | None, MODEL] = Field(
        None, description="The model that answers. Left out: the model of the section, without adapter."
    )
    questions: list[str] = Field(
        list(QUESTIONS), min_length=1, description="Wordings to which yes means present; `{object}`, `{article}`."
    )
    negated: list[str] = Field(
        list(NEGATED),
        description="Wordings to which yes means absent. They count only where controls show them to be read.",
    )
    claim_questions: list[str] = Field(
        list(CLAIM_QUESTIONS),
        min_length=1,
        description="With `claims: text`: wordings of a claim's question, which `{question}` stands for.",
    )
    dtype: Literal["float32", "bfloat16", "auto"] = Field("float32", description="Number format, with `model`.")

    @property
    def answers_questions(self) -> bool:
        return True

    @field_validator("questions", "negated", "claim_questions")
    @classmethod
    def _have_a_slot(cls, value: list[str], info: ValidationInfo) -> list[str]:
        slot = "{question}" if info.field_name == "claim_questions" else "{object}"
        for text in value:
            if slot not in text:
                raise ValueError(f"{text!r} has no {slot}")
        return value

    @model_validator(mode="after")
    def _differ(self) -> SelfSource:
        asked = [*self.questions, *self.negated, *self.claim_questions]
        if len(set(asked)) < len(asked):
            raise ValueError("each wording at most once")
        return self


class JudgeSource(SourceSettings):
    """A model on a server that sees the picture."""

    source: Literal["judge"]
    chat: ChatSettings = Field(description="An OpenAI-compatible server with a model that sees pictures.")
    question: str = Field(JUDGE_QUESTION, description="The question; `{object}` and `{article}` stand for the class.")
    claim_question: str = Field(
        JUDGE_CLAIM, description="The question with `claims: text`; `{question}` stands for that of a claim."
    )
    max_tokens: int = Field(8, ge=1, description="Longest reply, in tokens.")

    @property
    def answers_questions(self) -> bool:
        return True

    @field_validator("chat")
    @classmethod
    def _sees(cls, value: ChatSettings) -> ChatSettings:
        if value.backend == "local":
            raise ValueError("a local text model sees no pictures; name a server with `backend: server`")
        return value

    @field_validator("question", "claim_question")
    @classmethod
    def _has_a_slot(cls, value: str, info: ValidationInfo) -> str:
        slot = "{question}" if info.field_name == "claim_question" else "{object}"
        if slot not in value:
            raise ValueError(f"has no {slot}")
        return value


OWN_SOURCES: dict[str, type[SourceSettings]] = {
    "annotations": AnnotationsSource,
    "detector": DetectorSource,
    "self": SelfSource,
    "judge": JudgeSource,
}
SOURCE_SETTINGS: Registry[type[SourceSettings]] = Registry("evidence sources", OWN_SOURCES)
"""The settings of every source by name; the sources themselves are in `mmpo.evidence.registry`."""


class _FromPlugin(SourceSettings):
    """Stands for the settings of a plug-in's source until they are read."""

    model_config = ConfigDict(extra="allow")

    source: str = ""


def _of_plugin(value: SourceSettings) -> SourceSettings:
    kind = SOURCE_SETTINGS.get(value.source)
    if kind is None or value.source in OWN_SOURCES:
        raise ValueError(f"`source` should be one of {', '.join(SOURCE_SETTINGS)} (it is {value.source!r})")
    try:
        return kind.model_validate(value.model_dump())
    except ValidationError as error:
        told = (f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise ValueError(f"{value.source}: {'; '.join(told)}") from None


def _kind(value: Any) -> str:
    name = value.get("source") if isinstance(value, Mapping) else getattr(value, "source", None)
    return name if isinstance(name, str) and name in OWN_SOURCES else "plug-in"


_KINDS = [Annotated[kind, Tag(name)] for name, kind in OWN_SOURCES.items()]
_PLUGIN = Annotated[_FromPlugin, AfterValidator(_of_plugin), Tag("plug-in")]
_MEMBERS: Any = (*_KINDS, _PLUGIN)
AnySource: Any = Annotated[Union[_MEMBERS], Discriminator(_kind)]  # noqa: UP007


class ControlSettings(Settings):
    """Annotated pictures on which sources are calibrated. None of them may be among those that are judged."""

    annotations: Annotated[Path, ANNOTATIONS] = Field(description="Annotated images with everything in them marked.")
    images: Annotated[Path | None, FOLDER] = Field(
        None, description="The folder that their paths start in; left out: the folder of the annotation file."
    )
    limit: int | None = Field(None, ge=1, description="Use the first so many of them; 50 to 200 are enough.")


class AgreementSettings(Settings):
    """How the opinions of several sources become one verdict."""

    least: int = Field(
        2, ge=1, description="Sources that must have an opinion and agree (all of them, if fewer are listed)."
    )
    dissent: Literal["uncertain", "majority"] = Field(
        "uncertain",
        description="One source against the others: the claim is `uncertain`, or the `majority` decides where it has "
        "`least` votes and more than twice those of the others.",
    )


class EvidenceSettings(Settings):
    """What decides whether a claim about a picture is true."""

    evidence: list[SerializeAsAny[AnySource]] = Field(
        min_length=1, description="The sources: `annotations`, `detector`, `self`, `judge`, and those of plug-ins."
    )
    controls: ControlSettings | None = Field(
        None,
        description="Annotated pictures to calibrate the sources on. Without them thresholds are assumed.",
    )
    agree: AgreementSettings = Field(
        default_factory=lambda: AgreementSettings(least=2, dissent="uncertain"),
        description="How opinions are combined.",
    )
    precision: float = Field(
        0.95, gt=0.5, lt=1, description="Least share of right verdicts that controls must show, as a lower bound."
    )

    def source_labels(self) -> list[str]:
        """A name for each source, in order: its kind, numbered from the second of a kind on (`detector-2`)."""
        kinds = [one.source for one in self.evidence]
        return [
            kind if (number := kinds[: place + 1].count(kind)) == 1 else f"{kind}-{number}"
            for place, kind in enumerate(kinds)
        ]

    def combined(self, name: str, by: Mapping[str, Opinion]) -> CombinedOpinion:
        """The verdict about a class from the opinions of these sources, or of some of them, by label."""
        decides = [label for label, one in zip(self.source_labels(), self.evidence, strict=True) if one.decides]
        return combine(name, by, least=self.agree.least, dissent=self.agree.dissent, decides=decides)
