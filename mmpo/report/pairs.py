"""The part of a report about a folder of pairs: one pass over all of them, cards of some."""

from __future__ import annotations

import hashlib
import heapq
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmpo.data.pair import PreferencePair
from mmpo.data.reader import read_pairs
from mmpo.files.atomic import read_json
from mmpo.report.album import Album
from mmpo.report.cards import PairCard, ShownPicture, labels_of, numbers_of, pair_card
from mmpo.statistics import Interval, wilson

CARDS = 400
WORST = 12
"""Pairs of each problem that are shown."""
BINS = 20


@dataclass(frozen=True)
class Bar:
    """A bar to click on: the `field` of the cards, and the label or the range of numbers that it stands for."""

    field: str
    name: str
    count: int
    share: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class BarChart:
    """How the values of one field are spread over all pairs."""

    title: str
    bars: tuple[Bar, ...]
    numbers: bool


@dataclass
class PairsPart:
    """What the templates show of a folder of pairs. `drops` are (kind of source, reason, count)."""

    name: str
    pairs: int = 0
    cards: list[PairCard] = field(default_factory=list)
    drawn_by: str = ""
    charts: list[BarChart] = field(default_factory=list)
    longer: Interval | None = None
    longer_share: float = 0.0
    problems: list[tuple[str, int]] = field(default_factory=list)
    removed: list[tuple[str, int]] = field(default_factory=list)
    added: list[tuple[str, int]] = field(default_factory=list)
    drops: list[tuple[str, str, int]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(order=True)
class _Kept:
    rank: float
    number: int
    pair: PreferencePair = field(compare=False)


class _Worst:
    """The `most` pairs of the lowest rank."""

    def __init__(self, most: int) -> None:
        self._most, self._heap = most, list[_Kept]()

    def offer(self, rank: float, number: int, pair: PreferencePair) -> None:
        one = _Kept(-rank, -number, pair)
        if len(self._heap) < self._most:
            heapq.heappush(self._heap, one)
        elif one > self._heap[0]:
            heapq.heapreplace(self._heap, one)

    def __iter__(self) -> Iterator[PreferencePair]:
        return (one.pair for one in sorted(self._heap, reverse=True))


def pairs_part(folder: Path, album: Album, *, cards: int = CARDS, rows: list[str] | None = None) -> PairsPart:
    """Read a folder of pairs. `rows` gets every pair as a line of JSON, without its pictures."""
    part = PairsPart(str(folder))
    labels: dict[str, Counter[str]] = {"kind": Counter(), "source": Counter()}
    numbers: dict[str, list[float]] = {}
    removed, added, problems = Counter[str](), Counter[str](), Counter[str]()
    worst: dict[str, _Worst] = {}
    sample = _Worst(cards)
    longer = 0
    for number, pair in enumerate(read_pairs(folder)):
        part.pairs += 1
        found = pair_problems(pair)
        measured = numbers_of(pair)
        longer += measured["more words"] > 0
        for name, label in labels_of(pair).items():
            labels[name][label] += 1
        for name, value in measured.items():
            numbers.setdefault(name, []).append(value)
        removed.update(_strings(pair.provenance.get("removed")))
        added.update([*_strings(pair.provenance.get("added")), *_strings([pair.provenance.get("omitted")])])
        for problem, rank in found.items():
            problems[problem] += 1
            worst.setdefault(problem, _Worst(WORST)).offer(rank, number, pair)
        if (margin := _margin(pair)) is not None:
            worst.setdefault(TINY, _Worst(WORST)).offer(abs(margin), number, pair)
        sample.offer(int(hashlib.sha256(pair.id.encode()).hexdigest()[:12], 16), number, pair)
        if rows is not None:
            rows.append(json.dumps(_row(pair, found), ensure_ascii=False))
    told: dict[str, list[str]] = {}
    chosen: dict[str, PreferencePair] = {}
    for problem, those in worst.items():
        for pair in those:
            told.setdefault(pair.id, []).append(problem)
            chosen.setdefault(pair.id, pair)
    for pair in sample:
        if len(chosen) < max(cards, len(told)):
            chosen.setdefault(pair.id, pair)

    def show(source: bytes | str, alt: str) -> ShownPicture:
        return album.show(source, alt, folder)

    part.cards = [pair_card(pair, show, problems=told.get(pair.id, ())) for pair in chosen.values()]
    part.problems = [*problems.most_common(), *([(TINY, len(list(worst[TINY])))] if TINY in worst else [])]
    part.removed, part.added = removed.most_common(12), added.most_common(12)
    if part.pairs:
        part.longer, part.longer_share = wilson(longer, part.pairs), longer / part.pairs
    part.charts = [_categories(name, counts) for name, counts in labels.items() if len(counts) > 1]
    part.charts += [_spread(name, values) for name, values in _telling(numbers)]
    part.drawn_by = f"the worst {WORST} of each problem, the others by the lowest SHA-256 of their ids"
    part.drops, part.notes = _account(folder)
    return part


TINY = "among the smallest margins"


def pair_problems(pair: PreferencePair) -> dict[str, float]:
    """What looks wrong with a pair, and how good it still is: the lowest is shown first."""
    chosen, rejected = pair.chosen_text, pair.rejected_text
    found: dict[str, float] = {}
    if _plain(chosen) == _plain(rejected) and not pair.rejected_images:
        found["the sides say the same"] = 0
    told = chosen  # without what was put in: a teddy bear is no bear
    for name in _strings(pair.provenance.get("added")):
        told = re.sub(rf"\b{re.escape(name)}", "", told, flags=re.IGNORECASE)
    for name in _strings(pair.provenance.get("removed")):
        if re.search(rf"\b{re.escape(name)}\b", told, re.IGNORECASE):
            found["the judge against itself: chosen names what was judged made up"] = 0
    ends = [text.rstrip().endswith((".", "!", "?", '"', "”", ")", "。")) for text in (chosen, rejected)]
    if ends[0] != ends[1] and min(len(chosen), len(rejected)) > 40:
        found[f"{'rejected' if ends[0] else 'chosen'} looks cut off"] = min(len(chosen), len(rejected))
    words = sorted((len(chosen.split()), len(rejected.split())))
    if words[1] >= 12 and words[1] > 3 * words[0]:
        found["one side is over three times as long"] = words[0] / words[1]
    return found


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def _margin(pair: PreferencePair) -> float | None:
    """The score that says how far chosen lies before rejected, where the builder wrote one."""
    return next((value for name, value in sorted((pair.scores or {}).items()) if name.endswith("margin")), None)


def _strings(value: Any) -> list[str]:
    return [str(one) for one in value if one] if isinstance(value, (list, tuple)) else []


def _row(pair: PreferencePair, problems: dict[str, float]) -> dict[str, Any]:
    return {
        "id": pair.id, "prompt": pair.prompt_text, "chosen": pair.chosen_text, "rejected": pair.rejected_text,
        "scores": pair.scores, "problems": list(problems),
    }  # fmt: skip


def _telling(numbers: dict[str, list[float]]) -> Iterator[tuple[str, list[float]]]:
    """The fields of numbers that take more than one value, at most eight."""
    kept = [(name, values) for name, values in numbers.items() if min(values) < max(values)]
    yield from kept[-8:]


def _categories(name: str, counts: Counter[str]) -> BarChart:
    top = max(counts.values())
    return BarChart(
        name, tuple(Bar(name, label, count, count / top) for label, count in counts.most_common(12)), numbers=False
    )


def _spread(name: str, values: Sequence[float]) -> BarChart:
    low, high = min(values), max(values)
    step = (high - low) / BINS
    counts = Counter(min(BINS - 1, int((value - low) / step)) for value in values)
    top = max(counts.values())
    bars = tuple(
        Bar(name, f"{low + k * step:.3g} to {low + (k + 1) * step:.3g}", counts[k], counts[k] / top,
            low + k * step, low + (k + 1) * step if k < BINS - 1 else high)
        for k in range(BINS)
    )  # fmt: skip
    return BarChart(name, bars, numbers=True)


def _account(folder: Path) -> tuple[list[tuple[str, str, int]], list[str]]:
    """What came in and what was dropped, by rule, from the build's result or else from the data's card."""
    result = folder.parent / "build_result.json"
    if result.is_file():
        counts = read_json(result).get("counts", {})
        return [
            (kind, reason, count)
            for kind, table in counts.items()
            for reason, count in table.items()
            if isinstance(count, int)
        ], []
    card = folder / "card.json"
    if not card.is_file():
        return [], []
    made = read_json(card)
    splits = made.get("splits", {})
    return [
        (split, reason, count) for split, told in splits.items() for reason, count in told.get("reasons", {}).items()
    ], []
