"""Which numbers of the data are the scores that an objective reads. No torch here."""

from __future__ import annotations

from pydantic import Field

from mmpo.settings import Settings


class ScoreSettings(Settings):
    """Which scores of the pairs an objective reads, by their names in the data."""

    chosen: str | None = Field(
        default=None, min_length=1, description="Of the chosen response. Left out: `chosen`, else `chosen_reward`."
    )
    rejected: str | None = Field(
        default=None, min_length=1, description="Of the rejected one. Left out: `rejected`, else `rejected_reward`."
    )
    similarity: str | None = Field(
        default=None, min_length=1, description="Of the chosen response with prompt or image. Left out: `similarity`."
    )
    weight: str | None = Field(
        default=None,
        min_length=1,
        description="What the losses of a pair count, with `times: given`, such as `madpo_weight`. Left out: `weight`.",
    )
