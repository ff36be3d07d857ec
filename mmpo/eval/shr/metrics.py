"""SHR, the sentence-level hallucination ratio (Zhao et al. 2023, "Beyond Hallucinations", arXiv 2311.16839).

A model describes images in detail; a judge that reads what people noted about each image calls every sentence a
hallucination, correct, or not to be judged. SHR is the share of hallucinated sentences among those that got one of the
three classes, over all images together (micro); sentences that could not be parsed are left out of both sides.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mmpo.chat.judging import Mode, without_thinking
from mmpo.eval.statistics.tally import Direction, Metric, Tally, share
from mmpo.statistics import Array

PROMPT = "Describe this image in detail."
Class = Literal["hallucination", "correct", "cannot judge"]
CLASSES: tuple[Class, ...] = ("hallucination", "correct", "cannot judge")

STOP = "###"
"""The published judge's stop sequence."""
GRAMS = (1, 2, 3, 4)
_DELETED = str.maketrans("", "", ".:\n?,")


@dataclass(frozen=True)
class ShrRow:
    """One judged description: its sentences and the class of each (None: unparsed), with the judge's words."""

    image: str
    response: str
    sentences: tuple[str, ...]
    classes: tuple[Class | None, ...]
    judgement: str | None = None
    reasons: tuple[str, ...] = ()


def sentences(response: str) -> list[str]:
    """The sentences that are judged: cut at every full stop, without white space at the ends, without empty ones, and
    without one that equals, or is part of, an earlier kept sentence.

    The published rule, with its faults: it cuts decimals and abbreviations too. Judge and metrics both use this one.
    """
    kept: list[str] = []
    for piece in response.split("."):
        sentence = piece.strip()
        if sentence and not any(sentence in earlier for earlier in kept):
            kept.append(sentence)
    return kept


_LINE = re.compile(
    r"^[\s>*#•·_\-]*(?:(?:sentence|comment|statement)\s+)?[(\[]?(?P<number>\d{1,3})[\s.):\]*_`\"'\[<(\-–]*"
    r"(?P<verdict>hallucinat(?:ion|ed|ory)|correct|can\s?not\s+(?:be\s+)?judged?|can['’]t\s+(?:be\s+)?judged?)\b",
    re.IGNORECASE,
)


def read_judgement(reply: str, count: int, mode: Mode) -> list[Class | None]:
    """The class of each of `count` sentences in a judge's reply.

    strict (the published script, `post_process_no_revise`): the lines after the first that holds "Judgement:", each
    without its first space-separated token, those dropped that are empty then (so a line of one token, such as "```",
    is no line), up to the first colon and exactly a class; another number of lines voids all. What follows the stop
    sequence "###" a published reply never holds, and is cut off. tolerant: each line is found by
    its number, whatever surrounds the verdict; a number with two different verdicts is unparsed.
    """
    return _strict(reply, count) if mode == "strict" else _tolerant(reply, count)


def _strict(reply: str, count: int) -> list[Class | None]:
    lines = [line for line in reply.split(STOP)[0].split("\n") if line]
    start = next((number for number, line in enumerate(lines) if "Judgement:" in line), len(lines))
    stripped = (" ".join(line.split(" ")[1:]).strip() for line in lines[start + 1 :])
    found = [line for line in stripped if line]
    if len(found) != count:
        return [None] * count
    names = [line.split(":")[0].lower() for line in found]
    return [next((known for known in CLASSES if known == name), None) for name in names]


def _tolerant(reply: str, count: int) -> list[Class | None]:
    verdicts: dict[int, set[Class]] = {}
    for line in without_thinking(reply).splitlines():
        if match := _LINE.match(line):
            word = match["verdict"].lower()
            name: Class = (
                "hallucination" if word.startswith("hall") else "correct" if word == "correct" else "cannot judge"
            )
            verdicts.setdefault(int(match["number"]), set()).add(name)
    single = {number: next(iter(names)) for number, names in verdicts.items() if len(names) == 1}
    return [single.get(number) for number in range(1, count + 1)]


def words(sentence: str) -> int:
    """Words of a sentence with its full stop, cut at single spaces as published."""
    return len(f"{sentence}.".split(" "))


def gram_diversity(response: str, n: int) -> float | None:
    """Distinct n-grams / n-grams of a response without . : ? , and line breaks (which joins the words
    around a bare one), cut at any white space. None below n words. Published as
    `gram-n-repetition`: higher means less repetition.
    """
    tokens = response.translate(_DELETED).split()
    grams = [tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1)]
    return len(set(grams)) / len(grams) if grams else None


_COLUMNS = (
    "images", "sentences", "words", "hal_sentences", "hal_words", "judged_sentences", "judged_words", "unjudgeable",
    "unparsed", *(f"gram{n}" for n in GRAMS), *(f"has_gram{n}" for n in GRAMS),
)  # fmt: skip
_AT = {name: column for column, name in enumerate(_COLUMNS)}


def _metric(
    name: str, numerator: str, denominator: str, better: Direction, meaning: str, percent: bool = True, **shown: Any
) -> Metric:
    return share(name, _AT[numerator], _AT[denominator], better, meaning, percent=percent, **shown)


JUDGED_METRICS = (
    _metric(
        "hal_sents_ratio",
        "hal_sentences",
        "judged_sentences",
        "lower",
        "hallucinated sentences",
        label="SHR, by sentences",
        headline=1,
    ),
    _metric("hal_words_ratio", "hal_words", "judged_words", "lower", "words in them", label="SHR, by words"),
    _metric("hal_sents_per_image", "hal_sentences", "images", "lower", "hallucinated sentences an image", False),
    _metric("hal_words_per_image", "hal_words", "images", "lower", "words in hallucinated sentences an image", False),
    _metric("cannot_judge_ratio", "unjudgeable", "judged_sentences", "neither", "sentences that can't be judged"),
)
TEXT_METRICS = (
    _metric("sents_per_image", "sentences", "images", "neither", "sentences of a description", False),
    _metric("words_per_image", "words", "images", "neither", "words of a description", False),
)
GRAM_METRICS = tuple(
    _metric(
        f"gram-{n}-repetition", f"gram{n}", f"has_gram{n}", "higher", f"distinct of all sequences of {n} words",
        label=f"distinct {n}-grams",
    )
    for n in GRAMS
)  # fmt: skip


def tally(rows: Sequence[ShrRow]) -> Tally:
    """Counts of judged descriptions by image, with all metrics."""
    counts = np.array([_counts(row) for row in rows], dtype=float)
    return Tally(tuple(row.image for row in rows), counts, (*JUDGED_METRICS, *TEXT_METRICS, *GRAM_METRICS))


def metrics(tallies: Sequence[Tally]) -> dict[str, Any]:
    """The metrics of the published `metrics.json` of one or more judging runs of the same responses, rounded to 3
    decimals; the counts and the n-grams are those of the first run. `SHR` is 100 x `mean_hal_ratio`. None is undefined.
    """
    first = tallies[0]
    every = [one.values["hal_sents_ratio"] for one in tallies if "hal_sents_ratio" not in one.undefined]
    mean = sum(every) / len(every) if every else None
    numbers = {"num_images": len(first.images), **first.shown(), "mean_hal_ratio": mean}
    rounded: dict[str, Any] = {name: None if value is None else round(value, 3) for name, value in numbers.items()}
    return {"SHR": None if mean is None else round(100 * mean, 1), **rounded}


def text_metrics(responses: Sequence[str]) -> dict[str, Any]:
    """The four n-gram numbers, which need no judge."""
    rows = [ShrRow(str(number), text, (), ()) for number, text in enumerate(responses)]
    found = tally(rows).shown()
    return {m.name: None if (value := found[m.name]) is None else round(value, 3) for m in GRAM_METRICS}


def _counts(row: ShrRow) -> Array:
    counts = np.zeros(len(_COLUMNS))

    def add(column: str, value: float = 1.0) -> None:
        counts[_AT[column]] += value

    add("images")
    for sentence, name in zip(row.sentences, row.classes, strict=True):
        length = words(sentence)
        add("sentences")
        add("words", length)
        if name is None:
            add("unparsed")
            continue
        add("judged_sentences")
        add("judged_words", length)
        if name == "hallucination":
            add("hal_sentences")
            add("hal_words", length)
        elif name == "cannot judge":
            add("unjudgeable")
    for n in GRAMS:
        if (value := gram_diversity(row.response, n)) is not None:
            add(f"gram{n}", value)
            add(f"has_gram{n}")
    return counts
