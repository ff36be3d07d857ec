"""Scores of pairs for the objectives that read them: which score of the data is which, and a look at every pair before
any work starts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

import torch

from mmpo.errors import UserError
from mmpo.models.scoring.pairs import PairBatch, blank_logps, score_tensors
from mmpo.objectives import Objective
from mmpo.objectives.stand_in import filled, of_scores, scores_read
from mmpo.trainers.collate import EncodedPairs
from mmpo.trainers.score_settings import ScoreSettings

_AT_ONCE = 256
"""Pairs that are looked at together."""
_TOKEN = torch.zeros(1, dtype=torch.int32)
"""Stands for a response: which one it is does not matter to a score."""


class HasScores(Protocol):
    """A pair as far as its scores go."""

    @property
    def id(self) -> str: ...
    @property
    def scores(self) -> Mapping[str, float] | None: ...


class ScoresAlone(NamedTuple):
    """A pair's id and its scores alone."""

    id: str
    scores: Mapping[str, float] | None


def with_scores(settings: ScoreSettings | None, objective: Objective, *data: EncodedPairs) -> tuple[EncodedPairs, ...]:
    """The data with the scores that the objective reads, under the names that it reads them by and NaN where a pair has
    none; without scores where it reads none. Raises `UserError` for a score that a pair lacks, or with which a loss is
    undefined."""
    columns = check_scores(settings, objective, [row for some in data for row in some.rows])
    return tuple(
        replace(some, rows=[replace(row, scores=_named(row, columns) or None) for row in some.rows]) for some in data
    )


def check_scores(
    settings: ScoreSettings | None, objective: Objective, rows: Sequence[HasScores]
) -> Mapping[str, str | None]:
    """The score of the data that is meant by each name that the objective reads, None where pairs have none and need
    none. Raises `UserError` as `with_scores` does; needs no model, so that preflight can ask."""
    read = scores_read(objective)
    columns = {name: _column(name, settings, rows) for name in read}
    there = f"they have {', '.join(_names(rows))}" if _names(rows) else "they have no scores"
    if read and not any(columns.values()):
        raise UserError(f"the objective reads the scores {', '.join(read)} of pairs, and {there}", hint=_HINT)
    for name in (name for name, needed in read.items() if needed):
        column = columns[name]
        if column is None:
            raise UserError(f"the objective reads the score {name!r} of every pair, and {there}", hint=_HINT)
        if lack := [row for row in rows if column not in (row.scores or {})]:
            raise UserError(
                f"the objective reads the score {column!r} of every pair, and {len(lack)} of {len(rows)} have none; "
                f"the first is {lack[0].id}, with {', '.join(sorted(lack[0].scores or {})) or 'no scores'}",
                hint=_HINT,
            )
    if read:
        _check(of_scores(objective), [ScoresAlone(row.id, _named(row, columns)) for row in rows])
    return columns


def _named(row: HasScores, columns: Mapping[str, str | None]) -> dict[str, float]:
    own = row.scores or {}
    return {name: own.get(column, math.nan) if column else math.nan for name, column in columns.items()}


_HINT = "name the scores of your pairs: scores: {chosen: …, rejected: …, similarity: …}"


def _names(rows: Sequence[HasScores]) -> list[str]:
    return sorted({name for row in rows for name in row.scores or {}})


def _column(name: str, settings: ScoreSettings | None, rows: Sequence[HasScores]) -> str | None:
    """The score of the data that is read as `name`; None where there is none."""
    there = _names(rows)
    given: str | None = getattr(settings, name, None)
    if given is None:
        return next((one for one in (name, f"{name}_reward") if one in there), None)
    if given not in there:
        raise UserError(
            f"scores.{name}: no pair has a score {given!r}",
            hint=f"they have {', '.join(there)}" if there else "these pairs have no scores at all",
        )
    return given


def _check(objective: Objective, rows: Sequence[HasScores]) -> None:
    """Run all pairs through the losses, before a model has seen them. Raises `UserError` that names the pair."""
    for start in range(0, len(rows), _AT_ONCE):
        some = rows[start : start + _AT_ONCE]
        try:
            _try(objective, some)
        except UserError:
            for row in some:
                try:
                    _try(objective, [row])
                except UserError as error:
                    raise UserError(f"pair {row.id}: {error.message}", hint=error.hint) from None
            raise


def _try(objective: Objective, rows: Sequence[HasScores]) -> None:
    batch = PairBatch(
        ids=[row.id for row in rows],
        prompt_ids=[],
        chosen_ids=[_TOKEN] * len(rows),
        rejected_ids=[_TOKEN] * len(rows),
        image_inputs={},
        image_index=[],
        scores=score_tensors([row.scores for row in rows]),
    )
    blank = filled(blank_logps(batch))
    weighted = (replace(side, weights=side.mask.float()) for side in (blank.chosen, blank.rejected))
    blank.chosen, blank.rejected = weighted
    terms = objective.terms(replace(blank, views=dict.fromkeys(objective.views, blank.chosen)))
    for name, (_, term) in terms.items():
        if not bool(torch.isfinite(term.values).all()):
            raise UserError(f"{name} is not finite with the scores of the pair", hint="rescale the scores")
