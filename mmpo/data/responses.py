"""A group of responses: one prompt over images or videos, and any number of answers to it, each with a score."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmpo.data.pair import Message, PreferencePair, Video, check_id, check_question, check_shown, check_text, join_text
from mmpo.data.spans import is_number
from mmpo.errors import Quarantined, UserError


@dataclass(frozen=True)
class ScoredResponse:
    """One answer; a higher `score` is better, None: nobody scored it."""

    text: str
    score: float | None = None


@dataclass(frozen=True)
class ResponseGroup:
    """Answers to one prompt. `images` fill the prompt's image parts in order; bytes are encoded images, strings are
    paths. Two answers may read the same; not all of several may."""

    id: str
    prompt: list[Message]
    responses: list[ScoredResponse]
    images: list[bytes | str] = field(default_factory=list)
    videos: list[Video] | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def unscored(self) -> int:
        """The number of answers without a score."""
        return sum(response.score is None for response in self.responses)


def validate_group(group: ResponseGroup, where: str = "group") -> ResponseGroup:
    """The group itself if it keeps every rule, else UserError "`where`: what is wrong"."""
    where = check_id(group.id, where)
    check_question(group.prompt, where)
    check_shown(group.prompt, {"images": group.images}, group.videos, where)
    if not group.responses:
        raise UserError(f"{where}: `responses` is empty", hint="drop the row")
    for number, response in enumerate(group.responses):
        at = f"{where}: `responses[{number}]`"
        check_text(response.text, f"{at}: `text`")
        if response.score is not None and not is_number(response.score):
            raise UserError(f"{at}: the score is {response.score!r}, not a finite number", hint="null: no score")
    if len(group.responses) > 1 and len({response.text for response in group.responses}) == 1:
        raise UserError(f"{where}: all {len(group.responses)} responses are the same", hint="drop the row")
    return group


def groups_of_pairs(
    pairs: Iterable[PreferencePair], scores: Sequence[str] | None = None
) -> Iterator[ResponseGroup | tuple[str, Quarantined]]:
    """Each pair as a group of two: chosen, then rejected. `scores` name the pair's scores of both; without them the
    chosen response has 1, the other 0. A pair that is no group comes as its id and the reason."""
    for pair in pairs:
        try:
            yield group_of_pair(pair, scores)
        except Quarantined as error:
            yield pair.id, error


def group_of_pair(pair: PreferencePair, scores: Sequence[str] | None = None) -> ResponseGroup:
    """As `groups_of_pairs`. Quarantined for a pair whose sides see other images, are of several turns, or continue a
    beginning."""
    if pair.rejected_images not in (None, pair.images):
        raise Quarantined("groups", "other_images", "the rejected response sees other images")
    if len(pair.chosen) > 1 or len(pair.rejected) > 1:
        raise Quarantined("groups", "several_turns", "a response of a group is one message")
    if pair.prompt[-1]["role"] == "assistant" or pair.unfinished:
        raise Quarantined("groups", "unfinished", "the responses of a group begin and end")
    own = pair.scores or {}
    values = (1.0, 0.0) if scores is None else [own.get(name) for name in scores]
    texts = (join_text(pair.chosen), join_text(pair.rejected))
    responses = [ScoredResponse(text, score) for text, score in zip(texts, values, strict=True)]
    return ResponseGroup(pair.id, pair.prompt, responses, pair.images, pair.videos, pair.provenance)
