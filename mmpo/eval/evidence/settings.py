"""Settings of the benchmark `evidence`: a recipe's `eval.evidence` section."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, SerializeAsAny

from mmpo.eval.section import Section
from mmpo.evidence.settings import AgreementSettings, AnySource, ControlSettings, EvidenceSettings
from mmpo.settings import PATH, VOCABULARY


class EvidenceBenchmarkSettings(Section):
    """What descriptions of photos claim that is not there, as detectors, a judge or other sources see it.

    The sources are those of a build (docs/evidence.md). Both states are judged by the same cuts.
    """

    images: Annotated[Path | None, PATH] = Field(
        None, description="A folder of photos, or a list of them; others than were learnt from. Nothing else is needed."
    )
    vocabulary: Annotated[str, VOCABULARY] = Field(
        "coco", description="Which words name which object: `coco`, or a file (see eval.chair.vocabulary)."
    )
    prompt: str = Field(
        "Please describe this image in detail.", min_length=1, description="What the model is asked for each photo."
    )
    max_new_tokens: int = Field(256, ge=1, description="Longest description.")
    sources: list[SerializeAsAny[AnySource]] = Field(
        [],
        description="The sources of evidence, as in `build.evidence`; `self` needs its `model`: the one before tuning.",
    )
    controls: ControlSettings | None = Field(
        None, description="Annotated pictures to calibrate the sources on, none of them among the photos."
    )
    least: int = Field(2, ge=1, description="Sources that must agree, as in `build.agree`.")
    precision: float = Field(0.95, gt=0.5, lt=1, description="Least precision that controls must show.")

    def evidence(self) -> EvidenceSettings:
        """These sources and controls as a build has them. Raises ValueError where no source is named."""
        return EvidenceSettings(
            evidence=[one.model_dump() for one in self.sources],  # as a recipe says it: plug-ins are read anew
            controls=self.controls,
            agree=AgreementSettings(least=self.least, dissent="uncertain"),
            precision=self.precision,
        )
