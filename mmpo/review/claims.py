"""A folder of candidates as a source of items: one for each claim (a class and a picture) that was judged, the least
certain first. People say whether the evidence's verdict holds."""

from __future__ import annotations

import bisect
import threading
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from mmpo.data.reader import open_shard, shard_path
from mmpo.data_builders.candidates.records import Candidate, JudgedPicture
from mmpo.data_builders.candidates.tables import CLAIMS, CandidateTables
from mmpo.report.cards import AnswerCard, ModelAnswer, TextPiece
from mmpo.review.items import CLAIM_CHOICES, PictureList, QueueRows, ReviewItem, content_digest

SHOWN = 3
"""Most responses that are shown with a claim."""


@dataclass(frozen=True)
class ReviewedClaim:
    """That a class `name` is in a picture, and the evidence's verdict, which is what people decide about."""

    image: str
    name: str
    verdict: str
    digest: str


class ClaimSource:
    """The claims of a finished folder of candidates. A shard is read when one of its claims is shown."""

    noun, choices = "claim", CLAIM_CHOICES

    def __init__(self, folder: Path, images: Path | None = None) -> None:
        self.folder = folder
        self.tables = CandidateTables(folder)
        self.root = images or Path(self.tables.card["root"])
        self._ends: list[int] = []
        self._doubt: list[np.ndarray] = []
        self._reading = threading.Lock()
        self._claims = lru_cache(maxsize=4)(self._claims_of)
        for number in range(len(self.tables)):
            with open_shard(shard_path(folder, CLAIMS, number)) as file:
                table = file.read(columns=["verdict", "confidence"])
            certain = np.array(table["confidence"].to_numpy(), dtype=np.float64)
            undecided = np.array([verdict == "uncertain" for verdict in table["verdict"].to_pylist()], dtype=bool)
            self._doubt.append(np.where(undecided, 2.0, np.nan_to_num(certain, nan=-1.0)))
            self._ends.append(table.num_rows + (self._ends[-1] if self._ends else 0))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def order(self) -> QueueRows:
        """Decided claims, the least confident first; then those that the evidence left open."""
        return np.argsort(np.concatenate(self._doubt), kind="stable") if self._doubt else np.zeros(0, np.int64)

    def rows_of(self, ids: Collection[str]) -> dict[str, int]:
        found: dict[str, int] = {}
        for number in range(len(self.tables) if ids else 0):
            start = self._ends[number - 1] if number else 0
            for place, (picture, name) in enumerate(self._claims(number)):
                if (id := _claim_id(picture, name)) in ids:
                    found[id] = start + place
        return found

    def claim(self, row: int) -> ReviewedClaim:
        """What is decided about in a row."""
        picture, name = self._at(row)
        verdict = picture.opinions[name].verdict
        return ReviewedClaim(picture.image, name, verdict, content_digest([picture.key, name, verdict]))

    def item(self, row: int) -> ReviewItem:
        claim, (picture, name) = self.claim(row), self._at(row)
        pictures = PictureList(row, self.root)
        shown = pictures.show(picture.image, f"Picture {picture.image}")
        by = "; ".join(f"{source}: {one.verdict or 'abstains'}" for source, one in picture.opinions[name].by.items())
        answers = tuple(
            ModelAnswer(f"response {number}", _marked(candidate.text, spans))
            for number, (candidate, spans) in enumerate(_mentioning(picture, name)[:SHOWN], start=1)
        )
        question = f"Is there a {name} in the picture?"
        card = AnswerCard(_claim_id(picture, name), "evidence", by, question, claim.verdict, (shown,), answers)
        return ReviewItem(card.id, claim.digest, card, pictures=tuple(pictures.pictures))

    def _at(self, row: int) -> tuple[JudgedPicture, str]:
        number = bisect.bisect_right(self._ends, row)
        with self._reading:
            claims = self._claims(number)
        return claims[row - (self._ends[number - 1] if number else 0)]

    def _claims_of(self, number: int) -> list[tuple[JudgedPicture, str]]:
        return [(picture, name) for picture in self.tables.pictures(number) for name in picture.opinions]


def _claim_id(picture: JudgedPicture, name: str) -> str:
    return f"{picture.image}/{name}"


def _mentioning(picture: JudgedPicture, name: str) -> list[tuple[Candidate, list[tuple[int, int]]]]:
    found = []
    for candidate in picture.candidates:
        if spans := [(one.start, one.end) for one in candidate.mentions if one.name == name]:
            found.append((candidate, spans))
    return found


def _marked(text: str, spans: list[tuple[int, int]]) -> tuple[TextPiece, ...]:
    pieces, at = [], 0
    for start, end in sorted(spans):
        pieces += [TextPiece(text[at:start]), TextPiece(text[start:end], note="the claim")]
        at = end
    return (*pieces, TextPiece(text[at:]))
