"""A right description against the same with made-up objects put in (APASI, Lu et al. 2025, arXiv:2509.11287): a
baseline for methods that look for the model's own mistakes.

A fifth of the sentences, never the first, later ones more likely, gives way to a sentence that begins with a class that
often goes with the others, and that the model ends without seeing the picture. Unlike the released code the class must
be absent by the evidence, not only from the text, and both sides are reworded by the same rules.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import sqrt
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from mmpo.data.pair import placeholder_in
from mmpo.data_builders.candidates.records import Candidate, JudgedPicture
from mmpo.data_builders.from_candidates.maker import (
    Made,
    MadePair,
    MakerSettings,
    Opinions,
    PairMaker,
    pair_maker,
)
from mmpo.data_builders.from_candidates.texts import claim_rows, names_in, recall_in, side_of
from mmpo.data_builders.hallucination.questions import CoOccurrence
from mmpo.errors import Quarantined, UserError
from mmpo.text.claims import split_sentences
from mmpo.text.words import with_article

if TYPE_CHECKING:
    from mmpo.models.generation.answerer import Answerer

LEAD_INS = (
    "In the background, {} can be seen", "Further back, one notices {}", "Not far away there is {}",
    "On one side, {} is visible", "Close by, {} completes the view", "There is also {}", "Nearby, {} can be made out",
    "To the left, there is {}", "To the right, there is {}", "At the edge of the picture, {} is visible",
    "Behind them, {} can be spotted", "In front, {} catches the eye", "A little apart, there is {}",
    "Next to it, one can see {}", "In the foreground, {} is placed", "Around the middle, {} appears",
    "Beside these, {} is present", "Somewhat hidden, {} can be found", "In one corner, there is {}",
    "The scene also has {}",
)  # fmt: skip


class InjectedSettings(MakerSettings):
    """A right description against the same with made-up objects put in (APASI, a baseline)."""

    needs_classes: ClassVar[bool] = True

    maker: Literal["injected"] = Field("injected", description="How pairs are made.")
    share: float = Field(0.2, gt=0, le=1, description="Share of the sentences that give way; at least one does.")
    least_sentences: int = Field(3, ge=2, description="Fewest sentences of a description.")
    partners: int = Field(10, ge=1, description="Classes to choose from: those that go most often with the named ones.")
    max_new_tokens: int = Field(64, ge=1, description="Longest end of a made-up sentence in tokens.")
    repetition_penalty: float = Field(1.1, gt=0, description="Penalty on words said before, for these ends.")


@dataclass
class Injection:
    """One description to be spoiled: its sentences, the numbers of those that give way, and for each the class and the
    beginning of the sentence that comes in."""

    picture: JudgedPicture
    candidate: Candidate
    parts: list[str]
    opinions: Opinions
    partners: list[str]
    places: list[int]
    classes: list[str]
    leads: list[str]

    def begun(self, number: int) -> str:
        """The answer up to the made-up part of one new sentence."""
        return "".join(self.parts[: self.places[number]]) + " " + self.leads[number]


@pair_maker("injected", settings=InjectedSettings)
class Injected(PairMaker[InjectedSettings]):
    """Which classes go together is counted over the candidates of a unit's pictures."""

    asks: ClassVar[bool] = True

    def make(self, number: int, pictures: Sequence[JudgedPicture], advance: Callable[[], None]) -> list[Made]:
        together = CoOccurrence(candidate.claims for picture in pictures for candidate in picture.candidates)
        work = [one for picture in pictures for one in self._fitting(picture, together)]
        self._ask(work)
        for one in work:
            self._draw(one)
        ready = [one for one in work if one.classes]
        ends = iter(self._ends(ready))
        made: dict[str, list[MadePair]] = {picture.id: [] for picture in pictures}
        for one in ready:
            pair = self._pair(one, [next(ends) for _ in one.classes])
            made[one.picture.id] += [pair] if pair is not None else []
        for _ in pictures:
            advance()
        fitted = {one.picture.id for one in work}
        drawn = {one.picture.id for one in ready}

        def outcome(picture: JudgedPicture) -> Made:
            reason = (
                "no_clean_description"
                if picture.id not in fitted
                else "no_absent_partner"
                if picture.id not in drawn
                else "reworded_otherwise"
            )
            return made[picture.id] or Quarantined("filter", reason, "")

        return [outcome(picture) for picture in pictures]

    def _fitting(self, picture: JudgedPicture, together: CoOccurrence) -> Iterator[Injection]:
        """For each prompt its first candidate without absent or uncertain claims and with enough sentences."""
        for group in picture.prompts.values():
            for candidate in group:
                parts = [part.before + part.text for part in split_sentences(candidate.text)]
                clean = candidate.present and not candidate.absent and not candidate.uncertain
                if not clean or candidate.truncated or len(parts) < self.settings.least_sentences:
                    continue
                scores = together.plausible(candidate.present)
                likely = sorted((name for name in scores if scores[name] > 0), key=lambda name: (-scores[name], name))
                partners = likely[: self.settings.partners]
                yield Injection(picture, candidate, parts, dict(picture.opinions), partners, [], [], [])
                break

    def _ask(self, work: Sequence[Injection]) -> None:
        """Ask the evidence about the partners that nobody asked about yet."""
        asked = [(one, [name for name in one.partners if name not in one.opinions]) for one in work]
        asked = [(one, names) for one, names in asked if names]
        if asked:
            found = self.context.evidence([one.picture for one, _ in asked], [names for _, names in asked])
            for (one, _), opinions in zip(asked, found, strict=True):
                one.opinions |= opinions

    def _draw(self, one: Injection) -> None:
        """Draw places and absent partners; no class where none is absent."""
        draw = random.Random(f"{self.context.seed}/injected/{one.picture.id}/{one.candidate.prompt_number}")
        absent = [name for name in one.partners if name in one.opinions and one.opinions[name].verdict == "absent"]
        one.places = drawn_places(len(one.parts), self.settings.share, draw)[: len(absent)]
        one.classes = draw.sample(absent, len(one.places))
        one.leads = [draw.choice(LEAD_INS).format(with_article(name)) for name in one.classes]

    def _ends(self, ready: Sequence[Injection]) -> list[str]:
        """How the model ends each new sentence without seeing the picture; empty where it does not end it."""
        prompts = [
            [
                {"role": "user", "content": [{"type": "text", "text": one.candidate.prompt}]},
                {"role": "assistant", "content": [{"type": "text", "text": one.begun(number)}]},
            ]
            for one in ready
            for number in range(len(one.classes))
        ]
        if not prompts:
            return []
        engine = self.context.engine()
        with repetition_penalty_of(engine, self.settings.repetition_penalty):
            answers = engine.answer([([], prompts)], max_new_tokens=self.settings.max_new_tokens, stop="sentence")
            return ["" if answer.truncated else answer.text for answer in answers]

    def _pair(self, one: Injection, ends: Sequence[str]) -> MadePair | None:
        """The pair, reworded on both sides; None where the words then say something else."""
        from mmpo.data_builders.hallucination.grammar.writer import Writer

        vocabulary = self.context.vocabulary
        parts = list(one.parts)
        for place, name, lead, end in zip(one.places, one.classes, one.leads, ends, strict=True):
            said = lead + end if end.rstrip().endswith((".", "!", "?")) and not placeholder_in(end) else f"{lead}."
            others = names_in(said, vocabulary) - {name}
            if not all(one.opinions[other].verdict == "present" for other in others & one.opinions.keys()) or (
                others - one.opinions.keys()
            ):
                said = f"{lead}."  # the model went on to things that nobody knows about
            parts[place] = f" {said}"
        writer = Writer(vocabulary)
        key = f"{self.context.seed}/{one.picture.id}/{one.candidate.prompt_number}"
        sides = [
            side_of(writer.reword(text, 0, key), vocabulary, one.opinions, one.candidate.sample)
            for text in (one.candidate.text, "".join(parts))
        ]
        chosen, rejected = (replace(side, recall=recall_in(one.picture, side)) for side in sides)
        if chosen.absent or chosen.uncertain or rejected.uncertain or not set(one.classes) <= rejected.absent:
            return None
        return MadePair(
            key=f"p{one.candidate.prompt_number}s{one.candidate.sample}",
            prompt=one.candidate.prompt,
            chosen=chosen,
            rejected=rejected,
            about={
                "injected": list(one.classes),
                "sentences": list(one.places),
                "reworded": True,
                "claims": claim_rows(one.opinions, chosen.names ^ rejected.names),
            },
        )


def drawn_places(sentences: int, share: float, draw: random.Random) -> list[int]:
    """The numbers of the sentences that give way, ascending: a `share` of all, at least one, never the first; weights
    rise from 1 to 2 with the root of the number."""
    count = min(max(1, round(share * sentences)), sentences - 1)
    keys = {
        place: draw.random() ** (1 / (1 + sqrt(place / (sentences - 1)))) for place in range(1, sentences)
    }  # weighted draw without replacement
    return sorted(sorted(keys, key=lambda place: -keys[place])[:count])


@contextmanager
def repetition_penalty_of(engine: Answerer, penalty: float) -> Iterator[None]:
    """Within the block the engine's model has this repetition penalty. Raises `UserError` where a server answers."""
    from mmpo.models.generation.served import ServedAnswerer

    if isinstance(engine, ServedAnswerer):
        raise UserError(
            "the maker `injected` changes how the model generates, which a server does not let it",
            hint="leave `sampler` out of the section that makes the pairs",
        )
    config = engine.vlm.base.generation_config
    before = getattr(config, "repetition_penalty", None)
    config.repetition_penalty = penalty
    try:
        yield
    finally:
        config.repetition_penalty = before
