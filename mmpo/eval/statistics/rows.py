"""Records of a scorecard: metrics with their intervals and changes, categories, and what the numbers rest on."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from mmpo.eval.statistics.tally import Direction


class FrozenRecord(BaseModel):
    """A block that refuses unknown keys and does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Estimate(FrozenRecord):
    """A metric with its 95% interval; `defined` is False where its denominator is 0 and `value` stands for nothing."""

    value: float
    low: float
    high: float
    method: str
    defined: bool = True


class Change(FrozenRecord):
    """After minus before, paired by image. `fixed` and `broken` count single answers where the test is McNemar's.

    `q` is p adjusted for all splits or categories of the benchmark that have this metric (Benjamini and Hochberg);
    None where there is only one.
    """

    value: float
    low: float
    high: float
    p: float
    q: float | None = None
    test: Literal["bootstrap", "mcnemar"]
    fixed: int | None = None
    broken: int | None = None
    detectable: float | None = Field(
        description="Smallest true difference that this many images would show four times out of five."
    )


class MetricRow(FrozenRecord):
    """One metric of one benchmark (and split), with what `Metric` says for its readers; `before` and `change` are None
    where only one model was asked.
    """

    benchmark: str
    split: str | None
    metric: str
    label: str = ""
    meaning: str = ""
    headline: int = 0
    sentence: str = ""
    better: Direction
    percent: bool
    before: Estimate | None
    after: Estimate
    change: Change | None

    @property
    def shown(self) -> str:
        """The metric's name in tables."""
        return self.label or self.metric

    @property
    def defined(self) -> bool:
        """True if all its numbers are defined."""
        return self.after.defined and (self.before is None or self.before.defined)


class Category(FrozenRecord):
    """Single answers of one category (an asked object, say): how many of `questions` are right, with Wilson's interval;
    `fixed` and `broken` are the changed ones, `p` McNemar's exact test of them, `q` p adjusted for all categories of
    the benchmark (Benjamini and Hochberg).
    """

    benchmark: str
    name: str
    questions: int
    before: Estimate | None
    after: Estimate
    fixed: int | None = None
    broken: int | None = None
    p: float | None = None
    q: float | None = None


class MetricCounts(FrozenRecord):
    """The counts behind one number: images, questions (or descriptions), how many answers could not be read or were cut
    off, whether none could be read, and how many yes/no answers were so close that another number format may turn them
    (None: not known).
    """

    benchmark: str
    split: str | None
    state: Literal["before", "after"]
    images: int
    questions: int
    unparsed: int | None
    truncated: int
    near_ties: int | None = None
    unreadable: bool = False


class Overlap(FrozenRecord):
    """The number of `images` (and clips) asked about, and of those that are, by their pixels, in the training pairs."""

    images: int
    shared: int

    def warning(self) -> str:
        """A warning for the reader; empty where no image is shared."""
        if not self.shared:
            return ""
        return (
            f"SHARED IMAGES: {self.shared:,} of the {self.images:,} images asked about are in the pairs that were "
            "built to train on. What was learnt by heart looks like an improvement there: evaluate on other images"
        )


def number(value: float, percent: bool) -> str:
    """A metric as it is shown: percentages with one digit, else two below ten."""
    if percent:
        return f"{100 * value:.1f}"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"  # lines, scores; words, tokens
