"""One good and one bad next sentence behind a clean beginning (SENTINEL, Peng et al. 2025, arXiv:2507.12455).

    "" ──sample──▶ sentences ──evidence──▶ factual, hallucinated ──▶ pairs ──▶ a factual one joins the beginning ──▶ …

A sentence is hallucinated if it names an absent class; factual if it names classes and all are present. The chosen side
is a factual one, coherent (it names a class of the beginning again) where the beginning names any. The beginning never
takes a sentence with an absent or uncertain claim: where there is no other, the picture ends. Unlike the released code
this makes pairs about the first sentence too, keeps what was said as it was said, takes samples in their order, and
goes on behind a sentence that names nothing where it must.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from mmpo.data.pair import placeholder_in
from mmpo.data_builders.candidates.records import JudgedPicture
from mmpo.data_builders.from_candidates.maker import (
    Made,
    MadePair,
    MakerSettings,
    Opinions,
    PairMaker,
    PairSide,
    pair_maker,
)
from mmpo.data_builders.from_candidates.texts import claim_rows, names_in, verdict_of
from mmpo.errors import Quarantined
from mmpo.evidence.records import Presence

if TYPE_CHECKING:
    from mmpo.models.generation.answer import Answer


class SentencesSettings(MakerSettings):
    """A factual against a hallucinated next sentence, sampled behind a beginning without mistakes (SENTINEL)."""

    needs_classes: ClassVar[bool] = True

    maker: Literal["sentences"] = Field("sentences", description="How pairs are made.")
    samples: int = Field(10, ge=2, description="Next sentences sampled at each step.")
    steps: int = Field(8, ge=1, description="Most sentences that a description is followed for.")
    pairs_per_step: int = Field(2, ge=1, description="Most pairs with the same beginning.")
    temperature: float = Field(0.7, gt=0, description="Temperature of sampling.")
    top_p: float = Field(1.0, gt=0, le=1, description="Share of the probability that is sampled from.")
    max_new_tokens: int = Field(128, ge=1, description="Longest sentence in tokens; a longer one is not used.")
    shortest: float = Field(0.67, gt=0, le=1, description="Fewest words of a chosen side for each of the rejected one.")
    longest: float = Field(1.5, ge=1, description="Most words of a chosen side for each of the rejected one.")


@dataclass(frozen=True)
class NextSentence:
    """A sampled next sentence: the classes that it names with their verdicts. `ended`: the description ends with it."""

    sample: int
    text: str
    ended: bool
    verdicts: dict[str, Presence] = field(default_factory=dict)

    @property
    def hallucinated(self) -> bool:
        return "absent" in self.verdicts.values()

    @property
    def factual(self) -> bool:
        return bool(self.verdicts) and set(self.verdicts.values()) == {"present"}

    @property
    def side(self) -> PairSide:
        by = {verdict: frozenset(n for n, v in self.verdicts.items() if v == verdict) for verdict in VERDICTS}
        return PairSide(self.text, by["present"], by["absent"], by["uncertain"], sample=self.sample)


VERDICTS: tuple[Presence, ...] = ("present", "absent", "uncertain")


@dataclass
class FollowedDescription:
    """One description that is being followed. `named` are the classes of the beginning `begun`; `ended` says why it
    is over."""

    picture: JudgedPicture
    prompt_number: int
    prompt: str
    begun: str = ""
    named: frozenset[str] = frozenset()
    ended: str = ""
    seen: Counter[str] = field(default_factory=Counter)
    pairs: list[MadePair] = field(default_factory=list)


@pair_maker("sentences", settings=SentencesSettings)
class Sentences(PairMaker[SentencesSettings]):
    """Follows the descriptions of a unit's pictures together, a sentence at a time."""

    asks: ClassVar[bool] = True

    def make(self, number: int, pictures: Sequence[JudgedPicture], advance: Callable[[], None]) -> list[Made]:
        shown: dict[str, bytes] = {}
        lost: dict[str, Quarantined] = {}
        for picture in pictures:
            try:
                shown[picture.id] = self.context.picture(picture)
            except Quarantined as error:
                lost[picture.id] = error
        opinions: dict[str, Opinions] = {picture.id: dict(picture.opinions) for picture in pictures}
        followed = [one for picture in pictures if picture.id in shown for one in descriptions_of(picture)]
        for step in range(self.settings.steps):
            active = [one for one in followed if not one.ended]
            if active:
                self._step(step, active, shown, opinions)
        for _ in pictures:
            advance()
        return [
            lost.get(picture.id) or outcome([one for one in followed if one.picture is picture]) for picture in pictures
        ]

    def _step(
        self, step: int, active: Sequence[FollowedDescription], shown: dict[str, bytes], opinions: dict[str, Opinions]
    ) -> None:
        """Sample the next sentence of every description, ask about new classes, make pairs, and go on."""
        said = [
            read_samples(one, list(answers)) for one, answers in zip(active, self._sampled(active, shown), strict=True)
        ]
        names = [[names_in(text, self.context.vocabulary) for text, _ in texts] for texts in said]
        self._ask([one.picture for one in active], [frozenset[str]().union(*own) for own in names], opinions)
        for one, texts, own in zip(active, said, names, strict=True):
            known = opinions[one.picture.id]
            sentences = [
                NextSentence(sample, text, ended, {name: verdict_of(known, name) for name in sorted(found)})
                for (text, (sample, ended)), found in zip(texts, own, strict=True)
            ]
            for sentence in sentences:
                one.seen.update(hallucinated=sentence.hallucinated, factual=sentence.factual)
            one.pairs += self._pairs(one, step, sentences, known)
            if not one.ended:
                self._go_on(one, step, sentences)

    def _sampled(self, active: Sequence[FollowedDescription], shown: dict[str, bytes]) -> Iterator[list[Answer]]:
        settings = self.settings
        return self.context.engine().sample_many(
            [(shown[one.picture.id], messages_of(one.prompt, one.begun)) for one in active],
            settings.samples,
            temperature=settings.temperature,
            top_p=settings.top_p,
            seed=self.context.seed,
            max_new_tokens=settings.max_new_tokens,
            stop="sentence",
        )

    def _ask(
        self, pictures: Sequence[JudgedPicture], names: Sequence[frozenset[str]], opinions: dict[str, Opinions]
    ) -> None:
        """Ask the evidence about the classes that nobody asked about yet, each picture once."""
        new: dict[str, tuple[JudgedPicture, set[str]]] = {}
        for picture, own in zip(pictures, names, strict=True):
            if unknown := own - opinions[picture.id].keys():
                new.setdefault(picture.id, (picture, set()))[1].update(unknown)
        if not new:
            return
        found = self.context.evidence([p for p, _ in new.values()], [sorted(own) for _, own in new.values()])
        for (picture, _), judged in zip(new.values(), found, strict=True):
            opinions[picture.id] |= judged

    def _pairs(
        self, one: FollowedDescription, step: int, sentences: Sequence[NextSentence], known: Opinions
    ) -> list[MadePair]:
        coherent = [s for s in sentences if s.factual and (not one.named or s.verdicts.keys() & one.named)]
        hallucinated = [s for s in sentences if s.hallucinated]
        settings = self.settings
        pairs = []
        for chosen, rejected in matched(coherent, hallucinated, settings.shortest, settings.longest):
            names = one.named | (chosen.verdicts.keys() ^ rejected.verdicts.keys())
            pair = MadePair(
                key=f"p{one.prompt_number}c{step}s{chosen.sample}x{rejected.sample}",
                prompt=one.prompt,
                chosen=chosen.side,
                rejected=rejected.side,
                kind="sentence",
                begun=one.begun,
                unfinished=not (chosen.ended and rejected.ended),
                about={
                    "step": step,
                    "beginning_names": sorted(one.named),
                    "claims": claim_rows(known, names),
                },
            )
            pairs.append(pair)
        return pairs[: settings.pairs_per_step]

    def _go_on(self, one: FollowedDescription, step: int, sentences: Sequence[NextSentence]) -> None:
        """Put a factual sentence behind the beginning, one that names nothing of it where there is one; else one that
        names nothing at all."""
        factual = [s for s in sentences if s.factual]
        exploring = [s for s in factual if not s.verdicts.keys() & one.named]
        clean = exploring or factual or [s for s in sentences if not s.verdicts]
        if not clean:
            one.ended = "no_clean_sentence"
            return
        draw = random.Random(f"{self.context.seed}/sentences/{one.picture.id}/{one.prompt_number}/{step}")
        taken = draw.choice(clean)
        one.begun += taken.text
        one.named |= taken.verdicts.keys()
        if taken.ended:
            one.ended = "description_ended"


def descriptions_of(picture: JudgedPicture) -> list[FollowedDescription]:
    """A description for each prompt that a candidate answers, none begun."""
    prompts = {candidate.prompt_number: candidate.prompt for candidate in picture.candidates}
    return [FollowedDescription(picture, number, prompts[number]) for number in sorted(prompts)]


def messages_of(prompt: str, begun: str) -> list[dict[str, Any]]:
    """The conversation about one picture in which an answer, `begun` or not yet, is to be continued."""
    user = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}
    return [user, {"role": "assistant", "content": [{"type": "text", "text": begun}]}] if begun else [user]


def read_samples(one: FollowedDescription, answers: Sequence[Answer]) -> list[tuple[str, tuple[int, bool]]]:
    """The texts that can be sides, each once, with the number of its first sample and whether it ended the description.
    More empty samples than others end the description: the model has said all. The others are counted in `seen`."""
    found: dict[str, tuple[int, bool]] = {}
    empty = 0
    for sample, answer in enumerate(answers, start=1):
        text = answer.text
        if not text.strip():
            empty += 1
        elif answer.truncated:
            one.seen["unfinished"] += 1
        elif placeholder_in(text):
            one.seen["image_tag"] += 1
        elif one.begun and not text[0].isspace():
            one.seen["no_new_word"] += 1
        elif text in found:
            one.seen["repeated"] += 1
        else:
            found[text] = (sample, not answer.stopped)
    one.seen.update({"in": len(answers), "empty": empty, "used": len(found)})
    if 2 * empty > len(answers):
        one.ended = "description_ended"
    return list(found.items())


def matched(
    chosen: Sequence[NextSentence], rejected: Sequence[NextSentence], shortest: float, longest: float
) -> Iterator[tuple[NextSentence, NextSentence]]:
    """Each chosen sentence with the first rejected one of fitting length that none before it took, in order."""
    left = list(rejected)
    for good in chosen:
        words = len(good.text.split())
        for bad in left:
            if shortest <= words / len(bad.text.split()) <= longest:
                left.remove(bad)
                yield good, bad
                break


def outcome(descriptions: Sequence[FollowedDescription]) -> Made:
    """The pairs of a picture's descriptions, else why there are none."""
    pairs = [pair for one in descriptions for pair in one.pairs]
    if pairs:
        return pairs
    seen: Counter[str] = sum((one.seen for one in descriptions), Counter())
    detail = ", ".join(f"{name} {seen[name]}" for name in sorted(seen))
    if not seen["used"]:
        return Quarantined("filter", "no_sentence", detail)
    for reason, kind in (("nothing_factual", "factual"), ("nothing_absent", "hallucinated")):
        if not seen[kind]:
            return Quarantined("filter", reason, detail)
    return Quarantined("filter", "no_pair_sentence", detail)
