"""One pair, or one answer before and after, as it is shown to people: the records that the templates draw.

    pair ─▶ pair_card ─▶ PairCard ─▶ templates/cards.html
    graded answers ─▶ AnswerCard ─▶ templates/cards.html

Nothing here is HTML: texts are cut into pieces, and the templates escape every one of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher
from itertools import pairwise
from typing import Any

from mmpo.data.pair import PreferencePair
from mmpo.eval.graded import AnswerChange

OUTCOMES: dict[AnswerChange, str] = {
    "broken": "broken: right before, wrong after",
    "fixed": "fixed: wrong before, right after",
    "wrong": "wrong before and after",
    "right": "right before and after",
}

_WORD = re.compile(r"\w+(?:['’-]\w+)*|\s+|[^\w\s]")
LONGEST_ALIGNED = 2_000
"""Words beyond which two texts are compared no more: aligning them takes the square of their number."""


@dataclass(frozen=True)
class TextPiece:
    """A stretch of a text. `changed`: the other side does not have it. `note` says why it is wrong, else is empty."""

    text: str
    changed: bool = False
    note: str = ""


@dataclass(frozen=True)
class DrawnBox:
    """A region of a picture, in its pixels, and what it is; `target` for the one that the question is about."""

    x: float
    y: float
    width: float
    height: float
    label: str = ""
    target: bool = False


@dataclass(frozen=True)
class ShownPicture:
    """A picture on a page: `href` is where it comes from (`#id` of one in the page, or an address), `width` and
    `height` are the original's pixels, which boxes count in. `missing` says why there is none."""

    href: str
    width: int
    height: int
    alt: str
    caption: str = ""
    boxes: tuple[DrawnBox, ...] = ()
    missing: str = ""


Show = Callable[[bytes | str, str], ShownPicture]
"""Puts a picture (encoded bytes, or a path below the dataset) on the page, with a text for who can't see it."""


@dataclass(frozen=True)
class PairCard:
    """A preference pair to look at. `labels` and `numbers` are what it is filtered and sorted by."""

    id: str
    kind: str
    prompt: str
    pictures: tuple[ShownPicture, ...]
    rejected_pictures: tuple[ShownPicture, ...]
    chosen: tuple[TextPiece, ...]
    rejected: tuple[TextPiece, ...]
    scores: tuple[tuple[str, float], ...] = ()
    reasons: tuple[str, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    problems: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelAnswer:
    """What a model in one `state` (before, after) said: as read by the benchmark's parser, and whether it is right."""

    state: str
    pieces: tuple[TextPiece, ...]
    parsed: str | None = None
    right: bool | None = None
    p_yes: float | None = None
    truncated: bool = False


@dataclass(frozen=True)
class AnswerCard:
    """A question with its answers, before and after."""

    id: str
    benchmark: str
    split: str
    question: str
    expected: str
    pictures: tuple[ShownPicture, ...]
    answers: tuple[ModelAnswer, ...]
    outcome: AnswerChange | None = None

    @property
    def told(self) -> str:
        """The outcome in words."""
        return "" if self.outcome is None else OUTCOMES[self.outcome]


def differences(first: str, second: str) -> tuple[tuple[TextPiece, ...], tuple[TextPiece, ...]]:
    """Both texts in pieces; words that the other has not are `changed`. Joined, the pieces are the texts again."""
    ours, theirs = _WORD.findall(first), _WORD.findall(second)
    if max(len(ours), len(theirs)) > LONGEST_ALIGNED:
        return (TextPiece(first),), (TextPiece(second),)
    matcher = SequenceMatcher(None, [w.lower() for w in ours], [w.lower() for w in theirs], autojunk=False)
    found: tuple[list[TextPiece], list[TextPiece]] = ([], [])
    for kind, a, b, c, d in matcher.get_opcodes():
        for pieces, words in ((found[0], ours[a:b]), (found[1], theirs[c:d])):
            if words:
                pieces.append(TextPiece("".join(words), kind != "equal"))
    return tuple(found[0]), tuple(found[1])


def noted(pieces: Sequence[TextPiece], spans: Sequence[tuple[int, int, str]]) -> tuple[TextPiece, ...]:
    """The pieces with notes on `spans`: (start, end, note) in characters of the whole text; the first span wins where
    two meet."""
    cuts = sorted({edge for start, end, _ in spans for edge in (start, end)})
    found: list[TextPiece] = []
    at = 0
    for piece in pieces:
        end = at + len(piece.text)
        edges = [at, *(cut for cut in cuts if at < cut < end), end]
        for left, right in pairwise(edges):
            note = next((told for start, stop, told in spans if start <= left and right <= stop), "")
            found.append(TextPiece(piece.text[left - at : right - at], piece.changed, note))
        at = end
    return tuple(found)


def pair_card(pair: PreferencePair, show: Show, *, problems: Sequence[str] = ()) -> PairCard:
    """A pair as a card. Its pictures are put on the page by `show`; whatever its builder noted may be missing."""
    source = pair.provenance
    chosen, rejected = differences(pair.chosen_text, pair.rejected_text)
    extra, removed = _names(source.get("added")), _names(source.get("removed"))
    wrong, reasons = _verdicts(source.get("verdicts"), pair.rejected_text)
    wrong += [(m.start(), m.end(), f"made up: {name}") for name in removed for m in _mentions(name, pair.rejected_text)]
    facts = [
        ("made up, only in rejected", ", ".join(removed)),
        ("only in chosen", ", ".join(extra) or str(source.get("omitted") or "")),
        ("judge", str(source.get("judge") or "")),
        ("section", str(source.get("section") or "")),
        ("builder", str(source.get("builder") or "")),
    ]
    pictures = [show(image, f"Picture {k} of the pair") for k, image in enumerate(pair.images, 1)]
    if (boxes := _regions(source)) and pictures:
        pictures[0] = replace(pictures[0], boxes=boxes)
    scores = tuple(sorted((pair.scores or {}).items()))
    return PairCard(
        id=pair.id,
        kind=labels_of(pair)["kind"],
        prompt=pair.prompt_text,
        pictures=(*pictures, *_frames(pair, show)),
        rejected_pictures=tuple(show(image, "Picture of the rejected side") for image in pair.rejected_images or ()),
        chosen=chosen,
        rejected=noted(rejected, wrong),
        scores=scores,
        reasons=tuple(reasons),
        facts=tuple((name, text) for name, text in facts if text),
        problems=tuple(problems),
        labels=labels_of(pair),
        numbers=numbers_of(pair),
    )


def labels_of(pair: PreferencePair) -> dict[str, str]:
    """What a pair is filtered by: its kind, and the builder that it is from."""
    source = pair.provenance
    kind = source.get("kind") or source.get("layout") or source.get("builder") or "pair"
    return {"kind": str(kind), "source": str(source.get("builder") or "unknown")}


def numbers_of(pair: PreferencePair) -> dict[str, float]:
    """What a pair is sorted by: its scores, and words of each side."""
    chosen, rejected = (len(text.split()) for text in (pair.chosen_text, pair.rejected_text))
    return {**(pair.scores or {}), "words chosen": chosen, "words rejected": rejected, "more words": chosen - rejected}


def _frames(pair: PreferencePair, show: Show) -> Iterator[ShownPicture]:
    """The frames of videos that are stored as frames, each with its time."""
    for video in pair.videos or ():
        for frame, time in zip(video.get("frames") or (), video.get("times") or (), strict=False):
            shown = show(frame, f"Frame at {time:.2f} seconds")
            yield replace(shown, caption=f"{time:.2f} s")
        if path := video.get("path"):
            yield ShownPicture("", 16, 9, f"Video {path}", str(path), (), "a video file: mmpo inspect shows its frames")


def _names(value: Any) -> list[str]:
    return [str(one) for one in value] if isinstance(value, (list, tuple)) else []


def _mentions(name: str, text: str) -> Iterator[re.Match[str]]:
    return re.finditer(rf"\b{re.escape(name)}(?:s|es)?\b", text, re.IGNORECASE)


def _verdicts(value: Any, text: str) -> tuple[list[tuple[int, int, str]], list[str]]:
    """What a judge held against sentences of a text: spans of the text with the reason, and all reasons. The verdicts
    may be about a text that was worded anew: spans outside of the sentence they belong to are of that one."""
    spans: list[tuple[int, int, str]] = []
    reasons: list[str] = []
    for one in value if isinstance(value, list) else ():
        if not isinstance(one, Mapping) or one.get("verdict") != "hallucination":
            continue
        reason, sentence = str(one.get("reason") or "made up"), str(one.get("sentence") or "")
        reasons.append(reason)
        at = text.find(sentence) if sentence else -1
        for span in one.get("spans") or ():
            if at >= 0 and isinstance(span, Mapping):
                start, end = span.get("start"), span.get("end")
                if isinstance(start, int) and isinstance(end, int) and at <= start < end <= at + len(sentence):
                    spans.append((start, end, reason))
    return spans, list(dict.fromkeys(reasons))


def _regions(source: Mapping[str, Any]) -> tuple[DrawnBox, ...]:
    """The regions of a composed picture that a builder noted, as [x0, y0, x1, y1]."""
    found = []
    for place, region in enumerate(source.get("regions") or (), start=1):
        x0, y0, x1, y1 = (float(edge) for edge in region)
        found.append(DrawnBox(x0, y0, x1 - x0, y1 - y0, f"Image {place}", place == source.get("target")))
    return tuple(found)
