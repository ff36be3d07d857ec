"""The part of a report about an evaluation: verdict, intervals, flips with their pictures, and how it was made."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from mmpo.eval.graded import AnswerChange, GradedQuestion, change_of, graded_questions, pictures_of
from mmpo.eval.statistics.rows import Change, Estimate, MetricRow, number
from mmpo.eval.statistics.scorecard import ARROWS, Scorecard, shown_estimate
from mmpo.eval.statistics.verdict import headline_rows
from mmpo.files.atomic import read_json, read_jsonl
from mmpo.report.album import Album
from mmpo.report.cards import AnswerCard, ModelAnswer, ShownPicture, TextPiece, differences, noted
from mmpo.report.svg import Series, histogram, lines
from mmpo.statistics import auroc

CARDS = 400
ORDER: tuple[AnswerChange, ...] = ("broken", "fixed", "wrong", "right")
VIDEOS = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v")
FRAMES = 4


@dataclass(frozen=True)
class ShownMetric:
    """A metric as a row: texts, and places of its values and intervals from 0 to 100 on a common axis."""

    heading: str
    name: str
    before: str
    after: str
    change: str
    flips: str
    sign: str
    marks: tuple[tuple[str, float, float, float], ...]
    meaning: str = ""


@dataclass
class EvaluationPart:
    """What the templates show of an evaluation. `outcomes` counts every graded answer, `cards` are those shown."""

    name: str
    card: Scorecard
    verdict: list[str]
    headlines: list[ShownMetric]
    metrics: list[ShownMetric]
    categories: list[ShownMetric]
    charts: list[str] = field(default_factory=list)
    cards: list[AnswerCard] = field(default_factory=list)
    outcomes: dict[str, int] = field(default_factory=dict)
    shown: str = ""
    counts: list[tuple[str, str]] = field(default_factory=list)
    made: list[tuple[str, str]] = field(default_factory=list)

    @property
    def examples(self) -> list[AnswerCard]:
        """One fixed and one broken answer."""
        first = {outcome: one for one in reversed(self.cards) if (outcome := one.outcome) in ("fixed", "broken")}
        return [first[outcome] for outcome in ("fixed", "broken") if outcome in first]


def evaluation_part(folder: Path, album: Album, *, cards: int = CARDS, images: Path | None = None) -> EvaluationPart:
    """Read the folder of an evaluation. `images` is where its pictures are, when its step does not say."""
    card = Scorecard.read(folder / "scorecard.json")
    part = EvaluationPart(
        name=str(folder),
        card=card,
        verdict=card.verdict(),
        headlines=[_metric(row) for row in headline_rows(card.rows)],
        metrics=[_metric(row) for row in card.rows],
        categories=[
            _shown(c.benchmark.upper(), c.name, True, c.before, c.after, None, c.fixed, c.broken)
            for c in sorted(card.categories, key=lambda c: (c.q if c.q is not None else 1.0, -c.questions))[:60]
        ],
    )
    for c in card.counts:
        where = c.benchmark.upper() + (f" {c.split}" if c.split else "") + f", {c.state}"
        unread = "" if c.unparsed is None else f", {c.unparsed:,} unread"
        close = "" if c.near_ties is None else f", {c.near_ties:,} near-ties"
        told = f"{c.questions:,} answers on {c.images:,} images{unread}{close}, {c.truncated:,} cut off"
        part.counts.append((where, told))
    part.made = _made(folder)
    root = images or pictures_of(folder)
    graded = graded_questions(folder)
    part.charts = _charts(graded)
    questions = [*(_card(one) for one in graded if None not in one.rights), *_captions(folder)]
    for one in questions:
        part.outcomes[one.outcome or "not judged"] = part.outcomes.get(one.outcome or "not judged", 0) + 1
    part.cards = [_pictured(one, album, root) for one in _chosen(questions, cards)]
    part.shown = (
        f"{len(part.cards):,} of {len(questions):,} shown: broken and fixed ones first, the others drawn with seed 0; "
        "all are in answers.jsonl and flips.jsonl"
    )
    return part


def _metric(row: MetricRow) -> ShownMetric:
    heading = row.benchmark.upper() + (f" {row.split}" if row.split else "")
    name = row.shown + ARROWS[row.better]
    flips = (row.change.fixed, row.change.broken) if row.change else (None, None)
    sign = ""
    if row.change is not None and row.defined and row.better != "neither":
        good = (row.change.value > 0) == (row.better == "higher")
        sign = "no clear change" if row.change.p >= 0.05 else "better" if good else "worse"
    return _shown(heading, name, row.percent, row.before, row.after, row.change, *flips, sign=sign, meaning=row.meaning)


def _shown(
    heading: str, name: str, percent: bool, before: Estimate | None, after: Estimate, change: Change | None,
    fixed: int | None, broken: int | None, *, sign: str = "", meaning: str = "",
) -> ShownMetric:  # fmt: skip
    states = [("before", before)] if before is not None else []
    known = [(state, one) for state, one in [*states, ("after", after)] if one is not None and one.defined]
    ends = [edge for _, one in known for edge in (one.low, one.high, one.value)]
    low, high = (0.0, 1.0) if percent and all(0 <= end <= 1 for end in ends) else (min([0.0, *ends]), max([1.0, *ends]))
    marks = tuple(
        (state, *(100 * (min(max(edge, low), high) - low) / (high - low) for edge in (one.value, one.low, one.high)))
        for state, one in known
    )
    moved = ""
    if change is not None:
        value, least, most = (number(edge, percent) for edge in (change.value, change.low, change.high))
        moved = f"{value} [{least}, {most}]"
    return ShownMetric(
        heading=heading,
        name=name,
        before="" if before is None else shown_estimate(before, percent),
        after=shown_estimate(after, percent),
        change=moved,
        flips="" if fixed is None else f"{fixed:,} fixed, {broken or 0:,} broken",
        sign=sign,
        marks=marks,  # type: ignore[arg-type]
        meaning=meaning,
    )


def _card(question: GradedQuestion) -> AnswerCard:
    given = list(question.said.values())
    texts = [str(row.get("answer", "")) for row in given]
    pieces = differences(*texts) if len(texts) == 2 else tuple((TextPiece(text),) for text in texts)
    pictures = (question.image, *question.more) if question.image else question.more
    return AnswerCard(
        id=hashlib.sha256(f"{question.id} {question.expected}".encode()).hexdigest()[:12],
        benchmark=question.benchmark,
        split=question.split,
        question=question.prompt,
        expected=question.expected,
        pictures=_unopened(question.root, *pictures),
        answers=tuple(
            ModelAnswer(
                str(row.get("state")), told, row.get("parsed"), bool(row["right"]), row.get("p_yes"),
                bool(row.get("truncated")),
            )
            for row, told in zip(given, pieces, strict=True)
        ),
        outcome=question.change,
    )  # fmt: skip


def _captions(folder: Path) -> Iterator[AnswerCard]:
    """Descriptions with their made-up objects marked and what they miss; right is one that makes nothing up."""
    for name, file, spans in (("claims", "claims/claims", "claims"), ("chair", "chair/sentences", "mentions")):
        files = {state: folder / f"{file}_{state}.jsonl" for state in ("before", "after")}
        rows: dict[str, dict[str, Mapping[str, Any]]] = {}
        for state, path in files.items():
            for row in read_jsonl(path) if path.is_file() else ():
                rows.setdefault(str(row.get("image_id")), {})[state] = row
        for image, states in rows.items():
            said: list[ModelAnswer] = []
            rights: list[bool | None] = []
            missed = ""
            for state, told in states.items():
                wrong = [
                    (int(one["start"]), int(one["end"]), f"wrong: {one.get('kind', 'object')} {one.get('name', '')}")
                    for one in told.get(spans) or ()
                    if one.get("hallucinated") or one.get("right") is False
                ]
                rights.append(not wrong)
                missed = ", ".join(told.get("missed") or ())
                pieces = noted((TextPiece(str(told.get("caption", ""))),), wrong)
                said.append(ModelAnswer(state, pieces, "", not wrong))
            yield AnswerCard(
                id=hashlib.sha256(f"{name} {image}".encode()).hexdigest()[:12],
                benchmark=name,
                split="",
                question="A description",
                expected=f"nothing made up{f'; after misses {missed}' if missed else ''}",
                pictures=_unopened(None, image),
                answers=tuple(said),
                outcome=change_of(rights),
            )


def _unopened(root: str | None, *paths: str) -> tuple[ShownPicture, ...]:
    return tuple(ShownPicture(path, 4, 3, root or "") for path in paths)


def _pictured(card: AnswerCard, album: Album, images: Path | None) -> AnswerCard:
    """The card with its pictures in the album."""
    shown: list[ShownPicture] = []
    for number_, one in enumerate(card.pictures, 1):
        root = Path(one.alt) if one.alt else images
        alt = f"Picture {number_} of the question {card.question}"
        if root is None:
            shown.append(ShownPicture("", 4, 3, alt, missing=f"{one.href}: give its folder with --images"))
        elif Path(one.href).suffix.lower() in VIDEOS:
            shown += _strip(one.href, root, album)
        else:
            shown.append(album.show(one.href, alt, root))
    return replace(card, pictures=tuple(shown))


def _strip(path: str, root: Path, album: Album) -> Iterator[ShownPicture]:
    """A video as a strip of frames with their times."""
    from mmpo.video import VideoError, read_frames
    from mmpo.video.clip import Clip

    try:
        clip = Clip.of(read_frames(path, num=FRAMES, max_side=336, root=root))
    except (VideoError, OSError) as error:
        yield ShownPicture("", 4, 3, f"Video {path}", missing=str(error))
        return
    for frame, time in zip(clip.frames, clip.times, strict=False):
        one = album.show(cast(bytes, frame), f"Frame at {time:.2f} seconds", root)
        yield replace(one, caption=f"{time:.2f} s")


def _chosen(cards: Sequence[AnswerCard], most: int) -> list[AnswerCard]:
    """At most `most` cards: every benchmark's broken ones, then fixed ones, then a fair draw of the others."""
    chooser = random.Random(0)
    found: list[AnswerCard] = []
    for outcome in ORDER:
        own = [one for one in cards if one.outcome == outcome]
        room = most - len(found)
        limit = room if outcome in ("broken", "fixed") else min(room, max(10, most // 8))
        if len(own) > limit:
            own = [own[k] for k in sorted(chooser.sample(range(len(own)), limit))]
        found += own
    alone = [one for one in cards if one.outcome is None]
    return found + chooser.sample(alone, min(len(alone), most - len(found)))


def _charts(questions: Sequence[GradedQuestion]) -> list[str]:
    """P(yes) of questions with a yes/no answer: histograms, the ROC curve and how far it can be relied on."""
    given: dict[str, list[tuple[float, bool]]] = {}
    for question in questions:
        for state, row in question.said.items():
            if question.expected in ("yes", "no") and isinstance(row.get("p_yes"), float):
                given.setdefault(state, []).append((row["p_yes"], question.expected == "yes"))
    curves: list[Series] = []
    relied: list[Series] = []
    charts: list[str] = []
    for state in ("before", "after"):
        if not (rows := given.get(state)) or len({truth for _, truth in rows}) < 2:
            continue
        p, truth = np.array([one for one, _ in rows]), np.array([one for _, one in rows])
        area = float(auroc(p, truth))
        for answer, mask in (("yes", truth), ("no", ~truth)):
            bars = np.histogram(p[mask], bins=20, range=(0, 1))[0].tolist()
            charts.append(
                histogram(f"P(yes), {state}, where {answer} is right", "P(yes)", bars, 0, 1, y_label="answers")
            )
        order = np.argsort(-p)
        hits, misses = np.cumsum(truth[order]) / truth.sum(), np.cumsum(~truth[order]) / (~truth).sum()
        at = np.unique(np.linspace(0, len(p) - 1, 200).astype(int))
        points = [(0.0, 0.0), *zip(misses[at].tolist(), hits[at].tolist(), strict=True)]
        curves.append(Series(f"{state}, area {area:.3f}", points))
        bins = np.minimum((p * 10).astype(int), 9)
        held = [bins == k for k in range(10) if (bins == k).any()]
        relied.append(Series(state, [(float(p[one].mean()), float(truth[one].mean())) for one in held]))
    if curves:
        even = Series("chance", [(0.0, 0.0), (1.0, 1.0)])
        charts.append(lines("ROC of P(yes)", "share of no called yes", "share of yes called yes", [*curves, even]))
        exact = Series("exact", [(0.0, 0.0), (1.0, 1.0)])
        charts.append(lines("Reliability of P(yes)", "P(yes)", "share that is yes", [*relied, exact]))
    return charts


def _made(folder: Path) -> list[tuple[str, str]]:
    """How it was made: model, versions, speed."""
    made: list[tuple[str, str]] = []
    if (engine := folder / "engine.json").is_file():
        for state, told in read_json(engine).items():
            asked, seconds = told.get("answers", 0), told.get("seconds", 0)
            speed = f", {asked / seconds:.1f} a second" if seconds else " (from the cache)"
            made.append((f"answers, {state}", f"{asked:,} in {seconds:,.0f} s{speed}"))
    if (versions := folder.parent / "versions.json").is_file():
        made.append(("versions", ", ".join(f"{name} {version}" for name, version in read_json(versions).items())))
    return made
