"""Completions of other pairs behind a pair's own question: KTO's mismatched rows, from which its reference point comes.

KTO's authors shift the completions of a micro-batch cyclically, so that what a pair meets depends on how a step is cut,
and a batch of one pair has none. Here the completion is the chosen answer of any pair of the data that shows other
images (or, without images, asks something else: an answer about the same picture would not be mismatched), drawn from
the seed and the pair's name alone. The estimate has the same expectation over pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Generic, Protocol, TypeVar

from torch import Tensor

from mmpo.data.corruption import generator
from mmpo.errors import UserError

Shown = tuple[object, ...]


class _Asked(Protocol):
    """A question about images: a pair's, or a group's."""

    @property
    def id(self) -> str: ...
    @property
    def images(self) -> tuple[str, ...]: ...
    @property
    def prompt(self) -> Tensor: ...


Asked = TypeVar("Asked", bound=_Asked)


class OtherAnswers(Generic[Asked]):
    """For each pair (or group, as `of` says) another whose answer it gets. Those of `held_out`, by name, meet one
    another's answers, and those that are trained on theirs, as long as either have two images. Raises `UserError` where
    all show the same."""

    def __init__(self, rows: Sequence[Asked], seed: int, held_out: Iterable[str] = (), *, of: str = "pair") -> None:
        self.seed, self.held_out = seed, frozenset(held_out)
        everyone = _ByImage(rows)
        if len(everyone.stretches) < 2:
            what = f"there is one {of}" if len(rows) == 1 else f"all {len(rows)} {of}s show one image"
            raise UserError(
                f"the objective needs answers about other images, and {what}",
                hint=f"use {of}s about two images at least; kto also takes z0 as a number",
            )
        sides = [_ByImage([row for row in rows if (row.id in self.held_out) == held]) for held in (False, True)]
        self._trained, self._held = (side if len(side.stretches) > 1 else everyone for side in sides)

    def __call__(self, row: Asked) -> Asked:
        """The one whose answer that one gets."""
        among = self._held if row.id in self.held_out else self._trained
        start, end = among.stretches.get(_shown(row), (0, 0))
        place = int(generator(self.seed, f"{row.id}#other", 0).integers(len(among.rows) - (end - start)))
        return among.rows[place if place < start else place + end - start]


class _ByImage(Generic[Asked]):
    """Pairs in an order that does not depend on that of the data: those that show the same stand together, in
    `stretches` from a place to another."""

    def __init__(self, rows: Sequence[Asked]) -> None:
        groups: dict[Shown, list[Asked]] = {}
        for row in sorted(rows, key=lambda row: row.id):
            groups.setdefault(_shown(row), []).append(row)
        self.rows: list[Asked] = []
        self.stretches: dict[Shown, tuple[int, int]] = {}
        for shown, members in groups.items():
            self.stretches[shown] = (len(self.rows), len(self.rows) + len(members))
            self.rows += members


def _shown(row: _Asked) -> Shown:
    return row.images or tuple(row.prompt.tolist())
