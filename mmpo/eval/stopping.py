"""Settings of when rounds of build and train end early. Neither torch nor numpy here: recipes import it."""

from __future__ import annotations

from pydantic import Field, field_validator

from mmpo.settings import Settings

WATCHED = {
    "wrong": ("claims.wrong", "chair.CHAIRs", "object_halbench.CHAIRs", "evidence.absent_share"),
    "recall": ("chair.Recall", "object_halbench.obj_rec", "evidence.recall_pool"),
    "words": ("chair.Len", "object_halbench.avg_word_len", "evidence.words"),
}
"""The metrics that are watched where a recipe names none: of each row the first that is measured."""


class StopSettings(Settings):
    """What ends rounds early, read from the scorecards: metrics as BENCHMARK.METRIC or BENCHMARK.SPLIT.METRIC, by the
    names in `scorecard.json`."""

    wrong: str | None = Field(
        default=None,
        description="Wrong or absent claims, which have to go on falling. Left out: claims.wrong, else chair.CHAIRs.",
    )
    least_fall: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="Stop where `wrong` fell by less than this share of itself since the round before.",
    )
    recall: str | None = Field(
        default=None, description="What is named of what is there. Left out: chair.Recall, if it is measured."
    )
    most_lost: float = Field(
        default=0.05, ge=0, description="Stop where `recall` lies more than this below that of the first model."
    )
    words: str | None = Field(
        default=None, description="The length of a description. Left out: chair.Len, if it is measured."
    )
    most_changed: float = Field(
        default=0.15,
        gt=0,
        description="Stop where `words` differs from that of the first model by more than this share of it.",
    )

    @field_validator("wrong", "recall", "words")
    @classmethod
    def _named(cls, value: str | None) -> str | None:
        if value is not None and ("." not in value or not all(value.split("."))):
            raise ValueError("must be BENCHMARK.METRIC or BENCHMARK.SPLIT.METRIC, such as claims.wrong")
        return value


def metric_key(name: str) -> tuple[str, str | None, str]:
    """(benchmark, split, metric) of `BENCHMARK.METRIC` or `BENCHMARK.SPLIT.METRIC`."""
    benchmark, _, rest = name.partition(".")
    split, _, metric = rest.rpartition(".")
    return benchmark, split or None, metric
