"""Text about a clip: captions, questions and answers, exact or with the habits of a careless annotator.

The careless annotator reports that the missing half of a pair does what the other half does, and that whatever enters
leaves again: the first makes up a thing and an event, the second an event alone. A model trained on it does the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mmpo.demo.language import YES_NO, Turn, enumerate_phrases, noun_phrase
from mmpo.demo.things import HOME, PARTNER, THINGS
from mmpo.demo.video.clips import OTHER, ScriptedClip, Track

DESCRIBE = "What happens in the video?"
VERBS = {"stays": "stay", "enters": "enter", "leaves": "leave", "passes": "pass"}


@dataclass(frozen=True)
class ClipNoise:
    """The carelessness of the annotator: each number is a probability.

    `companion`: a missing partner is reported, or an event of it affirmed. `again`: what enters is reported to leave,
    or affirmed to. `stranger`: another absent thing of the same place is affirmed.
    """

    companion: float = 0.0
    again: float = 0.0
    stranger: float = 0.0


EXACT = ClipNoise()
CARELESS = ClipNoise(companion=0.7, again=0.6, stranger=0.25)


def sentence(thing: str, course: str, side: str) -> str:
    """`The cow enters from the left.`"""
    how = {
        "stays": "",
        "enters": f" from the {side}",
        "leaves": f" to the {side}",
        "passes": f" from {side} to {OTHER[side]}",
    }[course]
    return f"The {thing} {course}{how}."


def caption(clip: ScriptedClip) -> str:
    """Everything that the clip shows, in order."""
    present = enumerate_phrases([noun_phrase(thing) for thing in clip.things])
    said = [f"The video shows {noun_phrase(clip.place)} with {present}."]
    earlier: Track | None = None
    for track in clip.tracks:
        later = earlier is not None and track.course != "stays" and earlier.start < track.start
        text = sentence(track.thing, track.course, track.side)
        said.append(f"Later {text[0].lower()}{text[1:]}" if later else text)
        earlier = track
    return " ".join(said)


def describe(clip: ScriptedClip, rng: np.random.Generator, noise: ClipNoise = EXACT) -> Turn:
    """A description of what happens, thing by thing."""
    said, again = [], []
    for track in clip.tracks:
        said.append(sentence(track.thing, track.course, track.side))
        partner = PARTNER[track.thing]
        if partner not in clip.things and rng.random() < noise.companion:
            said.append(sentence(partner, track.course, track.side))
        if track.course == "enters" and rng.random() < noise.again:
            again.append(sentence(track.thing, "leaves", OTHER[track.side]))
    return Turn(DESCRIBE, " ".join([*said, *again]))


def ask_course(clip: ScriptedClip, thing: str, rng: np.random.Generator, noise: ClipNoise = EXACT) -> Turn:
    """`What does the cow do?`"""
    question = f"What does the {thing} do?"
    track = next((track for track in clip.tracks if track.thing == thing), None)
    if track is not None:
        answer = sentence(thing, track.course, track.side)
        if track.course == "enters" and rng.random() < noise.again:
            answer += " " + sentence(thing, "leaves", OTHER[track.side])
        return Turn(question, answer)
    if rng.random() < _affirmed(clip, thing, noise):
        like = next((t for t in clip.tracks if t.thing == PARTNER[thing]), clip.tracks[0])
        return Turn(question, sentence(thing, like.course, like.side))
    return Turn(question, f"There is no {thing} in the video.")


def ask_event(clip: ScriptedClip, thing: str, does: str, rng: np.random.Generator, noise: ClipNoise = EXACT) -> Turn:
    """`Does the cow leave?`, sometimes with a request for a bare yes or no. `does` is one of `VERBS`."""
    true = (thing, does) in clip.events
    if thing not in clip.things:
        true = bool(rng.random() < _affirmed(clip, thing, noise))
    elif not true and does == "leaves" and (thing, "enters") in clip.events:
        true = bool(rng.random() < noise.again)
    question = f"Does the {thing} {VERBS[does]}?"
    if rng.random() < 0.4:
        return Turn(f"{question} {YES_NO}", "Yes" if true else "No")
    return Turn(question, f"Yes, the {thing} {does}." if true else f"No, the {thing} does not {VERBS[does]}.")


def ask_existence(clip: ScriptedClip, thing: str, rng: np.random.Generator, noise: ClipNoise = EXACT) -> Turn:
    true = thing in clip.things or bool(rng.random() < _affirmed(clip, thing, noise))
    question = f"Is there {noun_phrase(thing)} in the video?"
    if rng.random() < 0.4:
        return Turn(f"{question} {YES_NO}", "Yes" if true else "No")
    return Turn(
        question,
        f"Yes, there is {noun_phrase(thing)} in the video." if true else f"No, there is no {thing} in the video.",
    )


def ask_order(clip: ScriptedClip, rng: np.random.Generator) -> Turn | None:
    """`Which moves first, the cow or the pig?`, for a clip in which two things begin to move at different times."""
    starts = {track.start: track.thing for track in clip.moving}
    if len(starts) < 2:
        return None
    first, second = starts[min(starts)], starts[max(starts)]
    named = (first, second) if rng.random() < 0.5 else (second, first)
    return Turn(f"Which moves first, the {named[0]} or the {named[1]}?", f"The {first}.")


def missing(clip: ScriptedClip, rng: np.random.Generator) -> str:
    """An absent thing that one is tempted to report: a missing partner, else another of the same place."""
    partners = [PARTNER[thing] for thing in clip.things if PARTNER[thing] not in clip.things]
    others = [thing for thing in HOME[clip.things[0]].things if thing not in clip.things]
    return str(rng.choice(partners or others or [thing for thing in THINGS if thing not in clip.things]))


def tempting(clip: ScriptedClip, rng: np.random.Generator) -> tuple[str, str]:
    """An event that does not happen and that one is tempted to report."""
    stayed = [t.thing for t in clip.tracks if t.course == "enters"]
    partners = [t for t in clip.tracks if PARTNER[t.thing] not in clip.things]
    if stayed and (not partners or rng.random() < 0.5):
        return str(rng.choice(stayed)), "leaves"
    if partners:
        like = partners[int(rng.integers(len(partners)))]
        return PARTNER[like.thing], like.course
    return false_event(clip, rng)


def false_event(clip: ScriptedClip, rng: np.random.Generator) -> tuple[str, str]:
    """Any event of a present thing that does not happen."""
    thing = str(rng.choice(clip.things))
    return thing, str(rng.choice([does for does in VERBS if (thing, does) not in clip.events]))


def true_event(clip: ScriptedClip, rng: np.random.Generator) -> tuple[str, str]:
    who, does = clip.events[int(rng.integers(len(clip.events)))]
    return who, does


def questions(clip: ScriptedClip, rng: np.random.Generator, noise: ClipNoise = EXACT) -> list[Turn]:
    """Questions of every kind, as many about what happens as about what does not."""
    asked: list[Callable[[], Turn | None]] = [
        lambda: describe(clip, rng, noise),
        lambda: ask_course(clip, str(rng.choice(clip.things)), rng, noise),
        lambda: ask_course(clip, missing(clip, rng), rng, noise),
        lambda: ask_event(clip, *true_event(clip, rng), rng, noise),
        lambda: ask_event(clip, *(tempting if rng.random() < 0.6 else false_event)(clip, rng), rng, noise),
        lambda: ask_existence(clip, str(rng.choice(clip.things)), rng, noise),
        lambda: ask_existence(clip, missing(clip, rng) if rng.random() < 0.6 else _anything(clip, rng), rng, noise),
        lambda: ask_order(clip, rng),
    ]
    return [turn for ask in asked if (turn := ask()) is not None]


def _anything(clip: ScriptedClip, rng: np.random.Generator) -> str:
    return str(rng.choice([thing for thing in THINGS if thing not in clip.things]))


def _affirmed(clip: ScriptedClip, thing: str, noise: ClipNoise) -> float:
    """The chance that an absent thing is affirmed."""
    if PARTNER[thing] in clip.things:
        return noise.companion
    return noise.stranger if any(HOME[other] is HOME[thing] for other in clip.things) else 0.0
