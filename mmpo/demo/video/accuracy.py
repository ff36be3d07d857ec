"""Accuracy of a model's answers about clips, by kind of claim: things, events, sides, order.

    python -m mmpo.demo.video.accuracy [MODEL] [--adapter DIR] [--clips 200]

The model is shown the key frames as they are drawn and asked every kind of question once a clip; its answers are read
in the few wordings of `narration.py` and compared with what the clip's tracks do. Events count where their thing is in
the clip, sides where the event happens, the order of two things where both move and begin at different times.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmpo.demo.by_kind import KindOutcome, KindShare, before_after, command, shares
from mmpo.demo.language import Turn
from mmpo.demo.things import THINGS
from mmpo.demo.video import model_path
from mmpo.demo.video.clips import COURSES, OTHER, ScriptedClip
from mmpo.demo.video.narration import DESCRIBE, EXACT, VERBS, questions
from mmpo.demo.video.world import world_split
from mmpo.errors import in_one_line

if TYPE_CHECKING:
    from mmpo.models.generation.answer import AnswerEngine

KINDS = (
    "description: things that are there", "description: events that happen", "description: sides", "description: order",
    "description: things mentioned", "description: mentioned once",
    "what does it do: event", "what does it do: side", "what does it do: absent things denied",
    "does it: what happens", "does it: what does not", "is there: what is there", "is there: what is not",
    "which moves first",
)  # fmt: skip
_THING = "|".join(sorted(map(re.escape, THINGS), key=len, reverse=True))
_EVENT = re.compile(
    rf"\bthe (?P<thing>{_THING}) (?P<does>{'|'.join(COURSES)})\b(?: (?:from|to)(?: the)? (?P<side>left|right))?", re.I
)
_ASKED = re.compile(
    rf"\b(?:does the|is there an?) (?P<thing>{_THING})\b(?: (?P<does>{'|'.join(VERBS.values())})\b)?", re.I
)
_COURSE_OF = {verb: course for course, verb in VERBS.items()}


@dataclass(frozen=True)
class Told:
    """One event in an answer; `side` is the one the thing comes from or, if it leaves, goes to."""

    thing: str
    does: str
    side: str | None


def read_events(answer: str) -> list[Told]:
    """The events in an answer, in order."""
    found = (match.groupdict() for match in _EVENT.finditer(answer))
    return [Told(**{name: word and word.lower() for name, word in one.items()}) for one in found]


def side_of(clip: ScriptedClip, thing: str, does: str) -> str | None:
    """The side of an event that happens in the clip; None for staying."""
    track = next(track for track in clip.tracks if track.thing == thing)
    if does == "stays":
        return None
    return OTHER[track.side] if track.course == "passes" and does == "leaves" else track.side


def outcomes(turn: Turn, answer: str, clip: ScriptedClip) -> Iterator[KindOutcome]:
    """The kind of each claim in an answer, and whether it is right. `turn` is the question with its exact answer."""
    if turn.question == DESCRIBE:
        yield from _of_description(read_events(answer), clip)
    elif turn.question.startswith("Which"):
        yield "which moves first", answer.strip(" .").lower() == turn.answer.strip(" .").lower()
    else:
        asked = _ASKED.search(turn.question)
        if asked is None:
            raise ValueError(f"no kind of question: {turn.question}")
        thing, verb = asked["thing"].lower(), asked["does"]
        if turn.question.startswith("What"):
            yield from _of_course(read_events(answer), thing, clip)
            return
        right = answer.lower().startswith("yes" if turn.answer.startswith("Yes") else "no")
        if turn.question.startswith("Does"):
            happens = (thing, _COURSE_OF[verb.lower()]) in clip.events
            yield f"does it: {'what happens' if happens else 'what does not'}", right
        else:
            yield f"is there: {'what is there' if thing in clip.things else 'what is not'}", right


def _of_description(told: list[Told], clip: ScriptedClip) -> Iterator[KindOutcome]:
    for number, one in enumerate(told):
        yield "description: things that are there", one.thing in clip.things
        yield "description: mentioned once", one not in told[:number]
    yield from _of_events(told, clip, "description: events that happen", "description: sides")
    for thing in clip.things:
        yield "description: things mentioned", any(one.thing == thing for one in told)
    first: dict[str, int] = {}
    for number, one in enumerate(told):
        first.setdefault(one.thing, number)
    starts = {track.thing: track.start for track in clip.moving if track.thing in first}
    for a, b in combinations(starts, 2):
        if starts[a] != starts[b]:
            yield "description: order", (first[a] < first[b]) == (starts[a] < starts[b])


def _of_course(told: list[Told], thing: str, clip: ScriptedClip) -> Iterator[KindOutcome]:
    if thing not in clip.things:
        yield "what does it do: absent things denied", not told
        return
    mine = [one for one in told if one.thing == thing]
    if not mine:
        yield "what does it do: event", False
    yield from _of_events(mine, clip, "what does it do: event", "what does it do: side")


def _of_events(told: list[Told], clip: ScriptedClip, event: str, side: str) -> Iterator[KindOutcome]:
    for one in told:
        if one.thing not in clip.things:
            continue
        happens = (one.thing, one.does) in clip.events
        yield event, happens
        true = side_of(clip, one.thing, one.does) if happens else None
        if true is not None:
            yield side, one.side == true


def asked_of(clip: ScriptedClip) -> list[Turn]:
    """The questions about a clip, with their exact answers."""
    return questions(clip, np.random.default_rng((*clip.seed, 8)), EXACT)


def count(clips: Sequence[ScriptedClip], answers: Sequence[str]) -> dict[str, KindShare]:
    """Shares by kind of claim; `answers` are those to `asked_of` every clip, in order."""
    turns = [(clip, turn) for clip in clips for turn in asked_of(clip)]
    said = (one for (clip, turn), answer in zip(turns, answers, strict=True) for one in outcomes(turn, answer, clip))
    return shares(said, KINDS)


def measure(
    model: Path, adapter: Path | None = None, clips: int = 200, seed: int = 0
) -> dict[str, dict[str, KindShare]]:
    """Greedy answers about unseen clips, counted: `base`, and with an adapter `tuned`."""
    drawn = list(world_split("video_test", clips, seed))
    asked = [([scene.draw() for scene in clip.scenes()], [turn.question for turn in asked_of(clip)]) for clip in drawn]

    def look(engine: AnswerEngine) -> dict[str, KindShare]:
        return count(drawn, [answer.text for answer in engine.answer(asked)])

    return before_after(model, adapter, look, max_new_tokens=96)


def main() -> None:
    """`python -m mmpo.demo.video.accuracy [MODEL] [--adapter DIR] [--clips N] [--json]`."""
    command(__doc__, measure, model_path, "clips", 200)


if __name__ == "__main__":
    in_one_line(main)
