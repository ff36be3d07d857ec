"""Test whether style alone separates the sides of the pairs: then a policy may learn style instead of truth.

That both sides should be written by one writer is the point of HA-DPO's third step (Zhao et al. 2023,
arXiv:2311.16839). The probe is a logistic regression on surface features, cross-validated with all pairs of an image in
one fold, and asked with and without the words that carry the truth:

    style    length, punctuation, word and character n-grams of the texts with every object word blanked out
    wording  which of these n-grams occur, not how often: how things are worded, whatever the number of things
    beyond   wording, without the stretches in which only one side names something: what taking an object out, or
             putting one in, does not account for
    length   nothing but the number of words
    all      style with the object words: these may separate the sides, that is what the pairs are about
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import partial
from typing import Any

import numpy as np
from pydantic import BaseModel, Field

from mmpo.data_builders.hallucination.grammar import lexicon as lx
from mmpo.text.described import COLORS
from mmpo.text.vocabulary import ObjectVocabulary

FOLDS = 5
Features = Callable[[np.ndarray], Callable[[np.ndarray], Any]]
"""Of the rows that a classifier is fitted on: a function that gives the features of any rows."""

MAX_PAIRS = 3000
RESAMPLES = 1000
SEPARABLE = 0.6
"""The probe warns where the lower end of the interval of `beyond` is above this (0.5 is chance). Style and length of
sides that differ by an edit are separable as well, by the edit: that says nothing about who wrote them."""

_MARKS = ".,;:!?-()\"'\n"
_NUMBER = re.compile(rf"\b(?:an?|{'|'.join(lx.NUMBERS)}|several|some|\d+)\b", re.I)


class Separation(BaseModel):
    """AUROC and accuracy of a classifier of chosen or rejected; intervals: 95% percentiles over resampled images."""

    auroc: float = Field(description="Probability that a chosen text scores above a rejected one, out of fold.")
    auroc_low: float
    auroc_high: float
    accuracy: float = Field(description="Share of the texts whose side is classified correctly, out of fold.")
    accuracy_low: float
    accuracy_high: float


class StyleReport(BaseModel):
    """The style probe of a build."""

    pairs: int = Field(description="Pairs that were probed.")
    images: int
    style: Separation = Field(description="Surface features without object words.")
    wording: Separation = Field(description="Which n-grams occur without object words; no counts, no length.")
    beyond: Separation | None = Field(
        default=None, description="Wording where both sides name the same; edits of objects are left out."
    )
    all: Separation = Field(description="Surface features with object words.")
    length: Separation = Field(description="Number of words alone.")
    longer_by: float = Field(description="Mean of chosen minus rejected, in words.")
    longer_by_low: float
    longer_by_high: float
    separable: bool = Field(
        description=f"Wording beyond the edits separates the sides: its AUROC is above {SEPARABLE}."
    )

    def line(self) -> str:
        """A one-line summary."""
        text = (
            f"style alone tells chosen from rejected with AUROC {self.style.auroc:.2f} "
            f"[{self.style.auroc_low:.2f}, {self.style.auroc_high:.2f}] (wording alone {self.wording.auroc:.2f}, "
            + (f"beyond the edits {self.beyond.auroc:.2f}, " if self.beyond else "")
            + f"length alone {self.length.auroc:.2f}); "
            f"chosen is {abs(self.longer_by):.1f} words {'longer' if self.longer_by >= 0 else 'shorter'}"
        )
        if not self.separable:
            return text
        return (
            f"{text}. WARNING: the sides are worded differently where they say the same, so a policy can learn style "
            "instead of truth; let one `writer` word both"
        )


@dataclass(frozen=True)
class Sides:
    """A pair to probe, with the image it is about."""

    image: str
    chosen: str
    rejected: str


def probe(pairs: Iterable[Sides], vocabulary: ObjectVocabulary, *, seed: int = 0) -> StyleReport | None:
    """Probe up to `MAX_PAIRS` pairs (drawn by `seed`). None where fewer than `FOLDS` images have pairs, too few to
    hold some out. The same pairs give the same report.
    """
    pairs = list(pairs)
    if len(pairs) > MAX_PAIRS:
        pairs = random.Random(f"{seed}/style").sample(pairs, MAX_PAIRS)
    images = sorted({pair.image for pair in pairs})
    if len(images) < FOLDS:
        return None
    texts = [text for pair in pairs for text in (pair.chosen, pair.rejected)]
    labels = np.tile([1, 0], len(pairs))
    place = {image: number for number, image in enumerate(images)}
    groups = np.repeat([place[pair.image] for pair in pairs], 2)
    words = np.array([len(text.split()) for text in texts], dtype=float)
    blank = [without_objects(text, vocabulary) for text in texts]
    alike = [text for sides in zip(blank[0::2], blank[1::2], strict=True) for text in without_edits(*sides)]
    weights = resample_weights(len(images), seed)[:, groups]
    columns = FixedFeatures(words[:, None])
    features: list[Features] = [
        partial(surface_features, texts=blank),
        partial(surface_features, texts=blank, counted=False),
        partial(surface_features, texts=alike, counted=False),
        partial(surface_features, texts=texts),
        lambda fitted: columns,
    ]
    style, wording, beyond, everything, length = (
        separation(out_of_fold(kind, labels, groups), labels, weights) for kind in features
    )
    longer = words[0::2] - words[1::2]
    shares = weights[:, 0::2]
    low, high = np.percentile((shares * longer).sum(1) / shares.sum(1), [2.5, 97.5])
    return StyleReport(
        pairs=len(pairs),
        images=len(images),
        style=style,
        wording=wording,
        beyond=beyond,
        all=everything,
        length=length,
        longer_by=round(float(longer.mean()), 4),
        longer_by_low=round(float(low), 4),
        longer_by_high=round(float(high), 4),
        separable=beyond.auroc_low > SEPARABLE,
    )


def without_objects(text: str, vocabulary: ObjectVocabulary) -> str:
    """The text with each object word, and what counts or colours it, blanked out: `There is * * on the left.`"""
    for mention in reversed(vocabulary.find(text)):
        before = re.sub(r"(?:\b[\w-]+\s+){0,2}$", _blank_description, text[: mention.start])
        text = f"{before}*{text[mention.end :]}"
    return text


def without_edits(chosen: str, rejected: str) -> tuple[str, str]:
    """Two blanked texts without the edits: stretches with an object that stand on one side alone, or have less than
    three words for them on the other (`is` becomes `are`, a comma `and`)."""
    first, second = (re.findall(r"[\w*]+|[^\w\s]", text) for text in (chosen, rejected))
    kept: tuple[list[str], list[str]] = ([], [])
    for kind, *ends in SequenceMatcher(None, first, second, autojunk=False).get_opcodes():
        parts = first[ends[0] : ends[1]], second[ends[2] : ends[3]]
        if kind == "equal" or "*" not in (*parts[0], *parts[1]) or min(map(len, parts)) >= 3:
            for words, part in zip(kept, parts, strict=True):
                words += part
    return " ".join(kept[0]), " ".join(kept[1])


def _blank_description(match: re.Match[str]) -> str:
    words = match.group().split()
    return "".join("* " if _NUMBER.fullmatch(word) or word.lower() in COLORS else f"{word} " for word in words)


@dataclass
class FixedFeatures:
    """Features that need no fitting."""

    values: np.ndarray

    def __call__(self, rows: np.ndarray) -> Any:
        return self.values[rows]


def surface_features(fitted: np.ndarray, texts: Sequence[str], counted: bool = True) -> Callable[[np.ndarray], Any]:
    """Counts, and n-grams whose vocabulary comes from the rows `fitted` alone; without `counted` only whether an n-gram
    occurs.
    """
    from scipy.sparse import csr_matrix, hstack
    from sklearn.feature_extraction.text import TfidfVectorizer

    columns = []
    if counted:
        counts = np.array([_counts(text) for text in texts])
        columns.append(csr_matrix((counts - counts[fitted].mean(0)) / np.maximum(counts[fitted].std(0), 1e-9)))
    weighing = {"norm": "l2"} if counted else {"norm": None, "use_idf": False, "binary": True}
    for analyzer, sizes, most in (("word", (1, 2), 4000), ("char_wb", (2, 4), 6000)):
        pattern = r"[\w*]+|[^\w\s]" if analyzer == "word" else None
        grams = TfidfVectorizer(
            analyzer=analyzer, ngram_range=sizes, token_pattern=pattern, max_features=most, **weighing
        )
        grams.fit([texts[row] for row in fitted])
        columns.append(grams.transform(texts))
    table = hstack(columns).tocsr()
    return lambda rows: table[rows]


def _counts(text: str) -> list[float]:
    words = text.split()
    sentences = [part for part in re.split(r"[.!?]+(?:\s|$)", text) if part.strip()]
    marks = [text.count(mark) for mark in _MARKS]
    mean_word = sum(map(len, words)) / max(len(words), 1)
    return [len(words), len(text), len(sentences), len(words) / max(len(sentences), 1), mean_word, *marks]


def out_of_fold(
    features: Features,
    labels: np.ndarray,
    groups: np.ndarray,
) -> np.ndarray:
    """For each text the score of a classifier that saw no text about its image."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MaxAbsScaler

    scores = np.zeros(len(labels))
    for fitted, held_out in GroupKFold(FOLDS).split(labels, labels, groups):
        select = features(fitted)
        model = make_pipeline(MaxAbsScaler(), LogisticRegression(max_iter=1000))
        model.fit(select(fitted), labels[fitted])
        scores[held_out] = model.decision_function(select(held_out))
    return scores


def resample_weights(images: int, seed: int) -> np.ndarray:
    """Counts of each image in each of `RESAMPLES` draws with replacement, after one row of ones."""
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(images, np.full(images, 1 / images), size=RESAMPLES)
    return np.concatenate([np.ones((1, images), dtype=int), drawn])


def separation(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> Separation:
    """Weighted AUROC (ties count half) and accuracy of all resamples; the first row of `weights` is the plain one."""
    scores = np.round(scores, 9)
    order = np.argsort(scores, kind="stable")
    values, starts = np.unique(scores[order], return_index=True)
    positive = np.add.reduceat((weights * labels)[:, order], starts, axis=1).astype(float)
    negative = np.add.reduceat((weights * (1 - labels))[:, order], starts, axis=1).astype(float)
    below = negative.cumsum(1) - negative / 2
    auroc = (positive * below).sum(1) / np.maximum(positive.sum(1) * negative.sum(1), 1)
    right = np.where(scores == 0, 0.5, (scores > 0) == (labels == 1))
    accuracy = (weights * right).sum(1) / weights.sum(1)
    assert len(values) == positive.shape[1]
    numbers: dict[str, Any] = {}
    for name, value in (("auroc", auroc), ("accuracy", accuracy)):
        low, high = np.percentile(value[1:], [2.5, 97.5])
        numbers |= {name: value[0], f"{name}_low": low, f"{name}_high": high}
    return Separation(**{name: round(float(value), 4) for name, value in numbers.items()})
