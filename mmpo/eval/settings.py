"""Settings of an evaluation: what a recipe's `eval` section holds."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, cast

from pydantic import BeforeValidator, Field, create_model, field_validator, model_validator

from mmpo.chat.settings import ChatSettings, SamplerSettings
from mmpo.data.video_input import VIDEO_INPUT, VideoInput
from mmpo.eval.drift.settings import DriftSettings
from mmpo.eval.section import Section, distinct, own_sections, sections
from mmpo.settings import ADAPTER, ANNOTATIONS, FOLDER, MODEL, OUTPUT


def _none_word(value: Any) -> Any:
    return None if value == "none" else value


class BootstrapSettings(Section):
    """Resampling of images for intervals and tests."""

    samples: int = Field(
        default=10_000, ge=100, description="Number of resamples; the smallest p-value is 2 / (samples + 1)."
    )
    seed: int = Field(default=0, description="Seed of the resamples.")


class CommonSettings(Section):
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
    before: Annotated[str | None, MODEL] = Field(
        default=None,
        description="Another model that stands before, such as the one that several trainings began with. Left out: "
        "`model` without the adapter.",
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
    benchmarks: list[str] = Field(default=["pope", "chair"], min_length=1, description="What to measure.")
    video_input: VideoInput = Field(default="auto", description=VIDEO_INPUT)
    judge: ChatSettings | None = Field(
        default=None, description="The text model that judges answers, for the benchmarks that need one."
    )
    sampler: SamplerSettings | None = Field(
        default=None,
        description="The server that answers (docs/servers.md): `sampler.model` before, `sampler.adapter` after. Left "
        "out: the model in this process.",
    )
    bootstrap: BootstrapSettings = Field(default_factory=BootstrapSettings, description="Intervals and tests.")
    drift: DriftSettings = Field(default_factory=DriftSettings, description=DriftSettings.about())
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

    @model_validator(mode="after")
    def _one_server(self) -> CommonSettings:
        if self.sampler is None:
            return self
        if self.before is not None:
            raise ValueError("with `sampler` the model before is `sampler.model`; leave `before` out")
        if self.adapter is not None and self.sampler.adapter is None:
            raise ValueError(
                "`adapter` is not what the server answers with: name it as the server does, in `sampler.adapter`"
            )
        return self

    _unique = field_validator("benchmarks")(distinct)

    def of(self, name: str) -> Section:
        """The settings of a benchmark."""
        return cast(Section, getattr(self, name))


def eval_settings() -> type[CommonSettings]:
    """The `eval` section of a recipe, with the sections of all benchmarks that are registered by now."""
    return _with(tuple(sections().items()))


@cache
def _with(known: tuple[tuple[str, type[Section]], ...]) -> type[CommonSettings]:
    asked = CommonSettings.model_fields["benchmarks"]
    fields: dict[str, Any] = {
        name: (section, Field(default_factory=section, description=section.about())) for name, section in known
    }
    fields["benchmarks"] = (
        list[Literal[tuple(name for name, _ in known)]],  # type: ignore[misc]
        Field(default=asked.default, min_length=1, description=asked.description),
    )
    return create_model(
        "EvalSettings", __base__=CommonSettings, __module__=__name__, __doc__=CommonSettings.__doc__, **fields
    )


if TYPE_CHECKING:
    EvalSettings = CommonSettings
else:
    EvalSettings = _with(tuple(own_sections().items()))
