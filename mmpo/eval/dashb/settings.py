"""Settings of DASH-B: a recipe's `eval.dashb` section."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mmpo.eval.section import Section
from mmpo.settings import FOLDER


class DashBSettings(Section):
    """DASH-B: pictures in which models see an object that is not there."""

    folder: Annotated[str | None, FOLDER] = Field(
        default=None, description="The benchmark's folder `images`: dash_benchmark_neg.json, …_pos.json, neg/ and pos/."
    )
    max_new_tokens: int = Field(default=16, ge=1, description="Longest answer, in tokens.")
