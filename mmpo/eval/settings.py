"""Settings of an evaluation: what a recipe's `eval` section holds."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BeforeValidator, Field, create_model, field_validator

from mmpo.chat.settings import ChatSettings
from mmpo.data.video_input import VIDEO_INPUT, VideoInput
from mmpo.eval.amber.settings import AmberSettings
from mmpo.eval.chair.settings import ChairSettings
from mmpo.eval.claims.settings import ClaimsSettings
from mmpo.eval.hallusionbench.settings import HallusionBenchSettings
from mmpo.eval.mme.settings import MmeSettings
from mmpo.eval.mmhal.settings import MmhalSettings
from mmpo.eval.multi_image.settings import MultiImageSettings, MultipleChoiceSettings
from mmpo.eval.object_halbench.settings import ObjectHalBenchSettings
from mmpo.eval.pope.settings import PopeSettings
from mmpo.eval.radiology.settings import RadiologyEvalSettings
from mmpo.eval.section import Section, distinct
from mmpo.eval.shr.settings import ShrSettings
from mmpo.eval.video_qa.settings import TemporalSettings, VideoQaSettings
from mmpo.registry import Registry
from mmpo.settings import ADAPTER, ANNOTATIONS, FOLDER, MODEL, OUTPUT

BenchmarkName = Literal[
    "pope",
    "chair",
    "claims",
    "mme",
    "amber",
    "object_halbench",
    "shr",
    "mmhal",
    "hallusionbench",
    "radiology",
    "video_qa",
    "temporal",
    "multi_image",
    "multiple_choice",
]


def _none_word(value: Any) -> Any:
    return None if value == "none" else value


class BootstrapSettings(Section):
    """Resampling of images for intervals and tests."""

    samples: int = Field(
        default=10_000, ge=100, description="Number of resamples; the smallest p-value is 2 / (samples + 1)."
    )
    seed: int = Field(default=0, description="Seed of the resamples.")


class EvalSettings(Section):
    """One evaluation: a model (and adapter), asked about annotated images or published questions."""

    FREE: ClassVar[frozenset[str]] = frozenset({"cache"})

    model: Annotated[str, MODEL] = Field(
        description="Model folder, or a Hugging Face id that is already in the local cache."
    )
    adapter: Annotated[str | None, ADAPTER] = Field(
        default=None, description="Adapter folder of a training run; empty evaluates the model alone."
    )
    compare: Annotated[Literal["base"] | None, BeforeValidator(_none_word)] = Field(
        default="base",
        description="`base`: also without the adapter, for a before/after table. `none`: with the adapter only.",
    )
    images: Annotated[str | None, FOLDER] = Field(
        default=None, description="Folder that holds the annotated images. Empty: the annotation file's folder."
    )
    annotations: Annotated[str | None, ANNOTATIONS] = Field(
        default=None,
        description="COCO instances JSON, or JSON Lines with `image`, `objects` and optionally `captions`. May be "
        "empty where every benchmark has published questions.",
    )
    allow_links: bool = Field(default=False, description="Follow links out of the folder of images (hub caches, DVC).")
    limit: int | None = Field(
        default=None, ge=1, description="Use only the first so many images of the annotations, or of a question file."
    )
    benchmarks: list[BenchmarkName] = Field(default=["pope", "chair"], min_length=1, description="What to measure.")
    pope: PopeSettings = Field(default_factory=PopeSettings, description="POPE: yes/no questions about objects.")
    chair: ChairSettings = Field(default_factory=ChairSettings, description="CHAIR: objects in free descriptions.")
    claims: ClaimsSettings = Field(
        default_factory=ClaimsSettings, description="Objects, counts, colours and places in free descriptions."
    )
    amber: AmberSettings = Field(default_factory=AmberSettings, description="AMBER: its published queries.")
    object_halbench: ObjectHalBenchSettings = Field(
        default_factory=ObjectHalBenchSettings, description="Object HalBench: its published questions."
    )
    mme: MmeSettings = Field(default_factory=MmeSettings, description="MME: pairs of yes/no questions, 14 subtasks.")
    shr: ShrSettings = Field(default_factory=ShrSettings, description="SHR: sentences of free descriptions, judged.")
    mmhal: MmhalSettings = Field(
        default_factory=MmhalSettings, description="MMHal-Bench: free questions, rated by a judge."
    )
    hallusionbench: HallusionBenchSettings = Field(
        default_factory=HallusionBenchSettings, description="HallusionBench: yes/no questions about figures."
    )
    video_qa: VideoQaSettings = Field(
        default_factory=VideoQaSettings, description="Open-ended questions about videos, judged."
    )
    temporal: TemporalSettings = Field(
        default_factory=TemporalSettings, description="VideoHallucer and TempCompass: short answers about videos."
    )
    video_input: VideoInput = Field(default="auto", description=VIDEO_INPUT)
    radiology: RadiologyEvalSettings = Field(
        default_factory=RadiologyEvalSettings, description="Hallucinated earlier exams in radiology reports."
    )
    multi_image: MultiImageSettings = Field(
        default_factory=MultiImageSettings, description="Questions about one of several pictures."
    )
    multiple_choice: MultipleChoiceSettings = Field(
        default_factory=MultipleChoiceSettings, description="NLVR2, BLINK, Mantis-Eval, MVBench: published questions."
    )
    judge: ChatSettings | None = Field(
        default=None, description="The text model that judges answers, for the benchmarks that need one."
    )
    bootstrap: BootstrapSettings = Field(default_factory=BootstrapSettings, description="Intervals and tests.")
    dtype: Literal["float32", "bfloat16", "auto"] = Field(
        default="auto", description="Number format of the model; auto is the model's own."
    )
    quantize: Literal["none", "nf4"] = Field(
        default="none",
        description="nf4: the language model's weights in four bits, as in a QLoRA run. Left out in a recipe: as in "
        "`train`.",
    )
    trust_remote_code: bool = Field(
        default=False,
        description="Let the model folder run its own Python code. Left out in a recipe: as in `train`.",
    )
    tokens_per_batch: int = Field(
        default=8192, ge=64, description="How many tokens are computed together; lower it if memory runs out."
    )
    cache: Annotated[str | None, OUTPUT] = Field(
        default=None,
        description="Folder where answers and judges' replies are kept for other runs. Empty: the run folder alone.",
    )

    _unique = field_validator("benchmarks")(distinct)


SECTIONS: Registry[type[Section]] = Registry("benchmarks")
"""The settings of benchmarks that plug-ins bring, by name."""


def eval_settings() -> type[EvalSettings]:
    """The `eval` section of a recipe: `EvalSettings`, with the benchmarks of plug-ins and their sections."""
    return _with(tuple(SECTIONS.items()))


@cache
def _with(sections: tuple[tuple[str, type[Section]], ...]) -> type[EvalSettings]:
    if not sections:
        return EvalSettings
    names = (*get_args(BenchmarkName), *(name for name, _ in sections))
    asked = EvalSettings.model_fields["benchmarks"]
    added: dict[str, Any] = {
        name: (section, Field(default_factory=section, description=section.__doc__)) for name, section in sections
    }
    added["benchmarks"] = (
        list[Literal[names]],  # type: ignore[valid-type]
        Field(default=asked.default, min_length=1, description=asked.description),
    )
    return create_model("EvalSettings", __base__=EvalSettings, __doc__=EvalSettings.__doc__, **added)
