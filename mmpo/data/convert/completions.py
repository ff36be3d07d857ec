"""Several answers to one prompt, each with scores: VLFeedback and BPO.

VLFeedback (Silkie, arXiv:2312.10665)   {"id", "prompt", "img_path" | "image" | "images", "completions": [
                                          {"model", "response", "annotations": {ASPECT: {"Rating", "Rationale"}}}, …]}
    ASPECT is Helpfulness, Visual Faithfulness or Ethical Considerations; ratings are texts, 1 to 5.
BPO (arXiv:2403.08730)                  {"prompt", "image", "completions": [{"score", "response", "type"}, …]}

Tables turn the list of completions into lists by key (`{"model": […], "response": […], …}`); both are read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any, Literal

from pydantic import Field, field_validator

from mmpo.data.convert.format import Format, Options, SourceContext
from mmpo.data.convert.media import images_of
from mmpo.data.convert.rows import Row
from mmpo.data.convert.texts import bad, messages_of, need, pair_of
from mmpo.data.pair import PreferencePair

ASPECTS = ("helpfulness", "visual_faithfulness", "ethical_considerations")
CompletionChoice = Literal["best_worst", "all"]
CHOICE = "best_worst: the best answer against the worst; all: each two answers of different score"


class VLFeedbackOptions(Options):
    """Options for VLFeedback: the rating that orders the answers, and which of them become pairs."""

    aspect: str = Field(
        "mean", description=f"The rating that counts: {', '.join(ASPECTS)}, or mean of what was rated (Silkie's)."
    )
    pairs: CompletionChoice = Field("best_worst", description=f"{CHOICE}, as Silkie's training does.")

    @field_validator("aspect")
    @classmethod
    def _known(cls, name: str) -> str:
        plain = "_".join(name.lower().replace("-", " ").replace("_", " ").split())
        if plain not in (*ASPECTS, "mean"):
            raise ValueError(f"no aspect {name!r}; one of {', '.join(ASPECTS)}, mean")
        return plain


class BPOOptions(Options):
    """Options for BPO: the answers of a row that are compared."""

    pairs: CompletionChoice = Field("all", description=f"{CHOICE}, as the released training does.")


ScoredCompletion = tuple[float, str, str]
"""Score, answer, and who wrote it or how it was made."""


def read_vlfeedback(data: Mapping[str, Any], row: Row, context: SourceContext) -> Iterator[PreferencePair]:
    aspect = context.options.aspect
    rated = [
        (rating, need(completion, "response"), str(completion.get("model", "")))
        for completion in _completions(data)
        if (rating := _rating(completion.get("annotations"), aspect)) is not None
    ]
    if len(rated) < 2:
        raise bad("unrated", f"{len(rated)} answer(s) with a rating of {aspect}")
    yield from _pairs(data, row, context, "vlfeedback", rated, aspect)


def read_bpo(data: Mapping[str, Any], row: Row, context: SourceContext) -> Iterator[PreferencePair]:
    scored = []
    for completion in _completions(data):
        score = completion.get("score")
        if isinstance(score, bool) or not isinstance(score, (int, float)) or not math.isfinite(score):
            raise bad("bad_type", f"`score` is {score!r}, not a number")
        scored.append((float(score), need(completion, "response"), str(completion.get("type", ""))))
    if len(scored) < 2:
        raise bad("no_rejected", f"no rejected answer: {len(scored)} completion(s)")
    yield from _pairs(data, row, context, "bpo", scored, "score")


def _pairs(
    data: Mapping[str, Any], row: Row, context: SourceContext, builder: str, scored: list[ScoredCompletion], by: str
) -> Iterator[PreferencePair]:
    """Pairs of different score; at equal scores the earlier answer counts as the better and as the worse one."""
    if context.options.pairs == "best_worst":
        chosen = [(max(scored, key=lambda one: one[0]), min(scored, key=lambda one: one[0]))]
    else:
        chosen = [(a, b) if a[0] > b[0] else (b, a) for a, b in combinations(scored, 2)]
    chosen = [(better, worse) for better, worse in chosen if better[0] > worse[0] and better[1] != worse[1]]
    if not chosen:
        raise bad("no_preference", f"no two different answers with different scores ({by})")
    images = images_of(data, context.images)
    name = data.get("id")
    identity = row.key if name in (None, "") else str(name)
    for number, (better, worse) in enumerate(chosen):
        noted = {"by": by, "chosen_score": better[0], "rejected_score": worse[0],
                 "chosen_from": better[2] or None, "rejected_from": worse[2] or None}  # fmt: skip
        yield pair_of(
            row, builder, id=identity if len(chosen) == 1 else f"{identity}-{number}", images=images, noted=noted,
            prompt=messages_of([("user", need(data, "prompt"))], len(images), trim=True),
            chosen=better[1], rejected=worse[1],
        )  # fmt: skip


def _completions(data: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = need(data, "completions", kind=(list, Mapping))
    if isinstance(found, Mapping):
        columns = {name: values for name, values in found.items() if isinstance(values, list)}
        if len({len(values) for values in columns.values()}) > 1:
            raise bad("malformed", "the lists in `completions` are not of one length")
        found = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    if not all(isinstance(completion, Mapping) for completion in found):
        raise bad("bad_type", "`completions` is not a list of objects")
    return list(found)


def _rating(annotations: Any, aspect: str) -> float | None:
    """The rating of an aspect, or the mean of all; None where there is none (some are "N/A")."""
    ratings: dict[str, float] = {}
    for name, annotation in annotations.items() if isinstance(annotations, Mapping) else ():
        value = annotation.get("Rating", annotation.get("rating")) if isinstance(annotation, Mapping) else None
        try:
            ratings["_".join(str(name).lower().split())] = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            if aspect == "mean" and value is not None:
                return None  # as the released code, which leaves out an answer that has one such rating
    ratings = {name: value for name, value in ratings.items() if math.isfinite(value)}
    if aspect == "mean":
        return sum(ratings.values()) / len(ratings) if ratings else None
    return ratings.get(aspect)


def _parts(row: Mapping[str, Any]) -> set[str]:
    completions = row.get("completions")
    if isinstance(completions, Mapping):
        return set(completions)
    first = completions[0] if isinstance(completions, list) and completions else None
    return set(first) if isinstance(first, Mapping) else set()


def _fits_vlfeedback(row: Mapping[str, Any]) -> bool:
    return "prompt" in row and {"response", "annotations"} <= _parts(row)


def _fits_bpo(row: Mapping[str, Any]) -> bool:
    return "prompt" in row and {"response", "score"} <= _parts(row)


VLFEEDBACK = Format(
    "vlfeedback", "VLFeedback: rated `completions`", read_vlfeedback, _fits_vlfeedback, options=VLFeedbackOptions
)
BPO = Format("bpo", "BPO: scored `completions`", read_bpo, _fits_bpo, options=BPOOptions)
