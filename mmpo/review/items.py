"""What is reviewed: an item is one pair, one question with its answers, or one claim about a picture.

A source knows how many items there are and in which order they deserve to be looked at, and reads one at a time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mmpo.data.reviews import Ruling
from mmpo.errors import Quarantined
from mmpo.files.images import open_picture, read_image
from mmpo.report.cards import AnswerCard, PairCard, ShownPicture, TextPiece

QueueRows = NDArray[np.int64]


@dataclass(frozen=True)
class VerdictButton:
    """A verdict on the page: its key, and what it is called there."""

    verdict: Ruling
    key: str
    label: str
    means: str


PAIR_CHOICES = (
    VerdictButton("accept", "a", "Accept", "chosen is better, and both sides are fine"),
    VerdictButton("drop", "d", "Drop", "leave this pair out"),
    VerdictButton("swap", "s", "Swap", "rejected is the better one"),
    VerdictButton("edit", "e", "Edit", "correct a side"),
    VerdictButton("unsure", "u", "Unsure", "cannot tell"),
)
LABEL_CHOICES = (
    VerdictButton("accept", "a", "Label is right", "the expected answer holds"),
    VerdictButton("label_wrong", "w", "The label is wrong", "the expected answer does not hold"),
    VerdictButton("drop", "d", "Ambiguous", "leave this question out, as RePOPE does"),
    VerdictButton("unsure", "u", "Unsure", "cannot tell"),
)
CLAIM_CHOICES = (
    VerdictButton("accept", "a", "Verdict is right", "the picture shows what the evidence says"),
    VerdictButton("label_wrong", "w", "Verdict is wrong", "it is the other way round"),
    VerdictButton("unsure", "u", "Unsure", "cannot tell"),
)


@dataclass(frozen=True)
class ReviewItem:
    """One item as it is shown. `digest` names the content that is decided about. `sides` are the texts that can be
    marked and, where `editable`, edited; `pictures` are encoded bytes or paths below the source's root."""

    id: str
    digest: str
    card: PairCard | AnswerCard
    sides: Mapping[str, str] = field(default_factory=dict)
    editable: bool = False
    pictures: tuple[bytes | str, ...] = ()

    def blind(self) -> ReviewItem:
        """Without what a machine thought of it: scores, reasons, problems, marks."""
        if not isinstance(self.card, PairCard):
            return self
        bare = replace(
            self.card, scores=(), reasons=(), facts=(), problems=(), labels={}, numbers={},
            rejected=_unmarked(self.card.rejected),
        )  # fmt: skip
        return replace(self, card=bare)


class ReviewSource(Protocol):
    """Where items come from: `noun` for one of them, `choices` of verdicts, `folder` and the `root` of its pictures.
    `item` raises UserError for one that can't be shown."""

    noun: str
    folder: Path
    root: Path

    @property
    def choices(self) -> tuple[VerdictButton, ...]: ...
    def __len__(self) -> int: ...
    def order(self) -> QueueRows: ...
    def rows_of(self, ids: Collection[str]) -> dict[str, int]: ...
    def item(self, row: int) -> ReviewItem: ...


def content_digest(value: Any) -> str:
    """A name for a content: of JSON values and bytes, which stand as their own digests."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, default=_bytes_digest)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def _bytes_digest(value: Any) -> str:
    if not isinstance(value, bytes):
        raise TypeError(f"{type(value).__name__} has no digest")
    return hashlib.blake2b(value, digest_size=12).hexdigest()


class PictureList:
    """Collects the pictures of an item while its card is made: `show` gives each its address, `/picture/ROW/NUMBER`."""

    def __init__(self, row: int, root: Path) -> None:
        self.row, self.root = row, root
        self.pictures: list[bytes | str] = []

    def show(self, image: bytes | str, alt: str) -> ShownPicture:
        number = len(self.pictures)
        self.pictures.append(image)
        try:
            with open_picture(read_image(image, root=self.root)) as opened:
                width, height = opened.size
                if opened.getexif().get(0x0112, 1) in (5, 6, 7, 8):  # turned by a quarter when it is drawn
                    width, height = height, width
        except (Quarantined, OSError, ValueError, SyntaxError):
            return ShownPicture("", 16, 9, alt, missing="this picture cannot be read")
        return ShownPicture(f"/picture/{self.row}/{number}", width, height, alt)


def plain(text: str) -> tuple[TextPiece, ...]:
    """A text in one piece."""
    return (TextPiece(text),)


def _unmarked(pieces: tuple[TextPiece, ...]) -> tuple[TextPiece, ...]:
    return tuple(TextPiece(piece.text, piece.changed) for piece in pieces)
