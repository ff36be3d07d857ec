"""A reward by rules over annotations: what the embedded default uses in place of a language model.

It needs no model and is the same for everyone, but sees only what is annotated: object names, and events as who does
what. It is written for short factual answers; its rewards don't compare with a language model's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mmpo.chat.video_replies import Reward
from mmpo.text.claims import claimed, split_sentences
from mmpo.text.function_words import word_set
from mmpo.text.vocabulary import ObjectVocabulary

IDENTITY = "rules over annotations"

Event = tuple[str, str]
"""Actor and action, as in `("red ball", "enters")`."""

_STOP = word_set(
    "a an the is are was were be been being it its this that these those there of in on at to from by with and or as "
    "video clip image frame picture scene can see seen shown shows show does do did has have had which what who"
)
_SUFFIXES = ("ing", "ed", "es", "s", "e")


@dataclass(frozen=True)
class VideoRuleJudge:
    """Rewards answers about one world: the names of its things, and the verbs that its events use."""

    vocabulary: ObjectVocabulary
    verbs: frozenset[str]

    @classmethod
    def over(cls, objects: Iterable[str], events: Iterable[Event]) -> VideoRuleJudge:
        """For all objects and events that occur anywhere in the data."""
        return cls(ObjectVocabulary.from_names(sorted(set(objects))), frozenset(stem(does) for _, does in events))

    def reward(
        self, candidate: str, *, reference: str, caption: str, objects: Sequence[str], events: Sequence[Event]
    ) -> Reward:
        """From 1 to 5. Agreement with the reference answer in content words (F1) gives 1 to 5; the opposite of its yes
        or no gives 1; a thing or an event that is not in the video leaves at most 2.
        """
        if polarity(candidate) and polarity(reference) and polarity(candidate) != polarity(reference):
            return Reward(1.0, f"says {polarity(candidate)} where the answer is {polarity(reference)}")
        absent = self.absent_objects(candidate, objects, f"{caption} {reference}")
        false = self.false_events(candidate, events)
        score = float(round(1 + 4 * overlap(candidate, reference)))
        said = f"shares {overlap(candidate, reference):.0%} of its content words with the answer"
        faults = [f"{name} is not in the video" for name in absent] + [f"{who} never {does}" for who, does in false]
        if faults:
            return Reward(min(score, 2.0), "; ".join([*faults, said]))
        return Reward(score, said)

    def absent_objects(self, text: str, objects: Sequence[str], known: str = "") -> list[str]:
        """Things that `text` names, in order, and that neither `objects` nor the text `known` do."""
        present = {name for item in objects if (name := self.vocabulary.name_of(item))}
        present.update(mention.name for mention in claimed(known, self.vocabulary))
        said = dict.fromkeys(mention.name for mention in claimed(text, self.vocabulary))
        return [name for name in said if name not in present]

    def false_events(self, text: str, events: Sequence[Event]) -> list[Event]:
        """Events that a sentence claims of its first thing and that are not among `events`."""
        true = {(self.vocabulary.name_of(who) or who, stem(does)) for who, does in events}
        false = []
        for sentence in split_sentences(text):
            mentions = claimed(sentence.text, self.vocabulary)
            if not mentions or re.search(r"\b(?:no|not|never|n't)\b|n['’]t\b", sentence.text.lower()):
                continue
            for word in re.findall(r"[a-z]+", sentence.text.lower()):
                if stem(word) in self.verbs and (mentions[0].name, stem(word)) not in true:
                    false.append((mentions[0].name, word))
        return list(dict.fromkeys(false))


def polarity(text: str) -> str:
    """`yes`, `no`, or nothing, by the text's first word."""
    first = re.match(r"\W*(yes|no)\b", text.lower())
    return first.group(1) if first else ""


def overlap(candidate: str, reference: str) -> float:
    """F1 of the content words of two texts, as sets of stems; 1 for two texts without any that are the same."""
    left, right = _content(candidate), _content(reference)
    if not left or not right:
        return float(candidate.strip().lower() == reference.strip().lower())
    return 2 * len(left & right) / (len(left) + len(right))


def stem(word: str) -> str:
    """The word without its ending: `enters`, `entered` and `entering` are one."""
    word = word.lower()
    for suffix in _SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            return word[: -len(suffix)]
    return word


def _content(text: str) -> set[str]:
    return {stem(word) for word in re.findall(r"[a-z0-9]+", text.lower()) if word not in _STOP}
