"""An answer against its correction by another model, which sees the picture or is told what the evidence found. Both
sides pass the same rewriter, each by itself, so that style does not tell them apart.

A correction that the model would never write itself can hardly be learnt by DPO (OPA-DPO, Yang et al. 2025,
arXiv:2501.09695). So every pair has log π_ref(chosen) − log π_ref(rejected) among its scores; where the mean of a unit
of work is under −20 nats, a warning advises training on the chosen sides first.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from mmpo.chat import ChatRequest, ChatSettings
from mmpo.chat.judging import final_replies, without_thinking
from mmpo.chat.templates import render
from mmpo.data.pair import placeholder_in
from mmpo.data_builders.candidates.records import Candidate, JudgedPicture
from mmpo.data_builders.from_candidates.maker import Made, MadePair, MakerSettings, Opinions, PairMaker, pair_maker
from mmpo.data_builders.from_candidates.texts import answer_logps, claim_rows, names_in, recall_in, side_of
from mmpo.data_builders.hallucination.judges import Rewriter
from mmpo.data_builders.video.choose import normalized
from mmpo.errors import Quarantined
from mmpo.settings import TEMPLATE

logger = logging.getLogger(__name__)
FAR_NATS = -20.0
"""Mean log-prob gap under which corrections are too far from what the model would write."""
UNCHANGED = "unchanged"


class CritiqueSettings(MakerSettings):
    """An answer against its correction by another model."""

    needs_classes: ClassVar[bool] = True

    maker: Literal["critique"] = Field("critique", description="How pairs are made.")
    chat: ChatSettings = Field(description="The model that corrects.")
    see: bool = Field(True, description="Send the picture too; the model must be able to see.")
    template: Annotated[str, TEMPLATE] = Field("critique_correct", description="Its prompt.")
    max_tokens: int = Field(512, ge=1, description="Longest correction in tokens.")
    rewrite: Literal["rules", "chat", "none"] = Field(
        "rules", description="Who words both sides anew: rules of grammar, the same model, or nobody."
    )
    rewrite_template: Annotated[str, TEMPLATE] = Field("ha_dpo_rewrite", description="The prompt for `rewrite: chat`.")


@dataclass
class Correcting:
    """One answer on its way to a pair; `failure` says why it gives none."""

    picture: JudgedPicture
    candidate: Candidate
    data: bytes
    sides: list[str] = field(default_factory=list)
    failure: Quarantined | None = None
    pair: MadePair | None = None

    def fail(self, reason: str, detail: str = "", stage: str = "filter") -> None:
        self.failure = Quarantined(stage, reason, detail)


@pair_maker("critique", settings=CritiqueSettings)
class Critique(PairMaker[CritiqueSettings]):
    """Corrects the first whole answer to each prompt, the greedy one where it is kept."""

    asks: ClassVar[bool] = True
    scores: ClassVar[tuple[str, ...]] = ("logp_chosen", "logp_rejected")

    def make(self, number: int, pictures: Sequence[JudgedPicture], advance: Callable[[], None]) -> list[Made]:
        work, lost = self._work(pictures)
        self._correct(work)
        self._reword([one for one in work if one.failure is None])
        opinions = self._opinions([one for one in work if one.failure is None])
        for one in work:
            if one.failure is None:
                self._check(one, opinions[one.picture.id])
        self._score([one for one in work if one.pair is not None])
        made: list[Made] = []
        for picture in pictures:
            own = [one for one in work if one.picture is picture]
            pairs = [one.pair for one in own if one.pair is not None]
            failures = [one.failure for one in own if one.failure is not None]
            nothing = Quarantined("filter", "unfinished", "no answer was given to its end")
            made.append(pairs or lost.get(picture.id) or next(iter(failures), nothing))
            advance()
        return made

    def _work(self, pictures: Sequence[JudgedPicture]) -> tuple[list[Correcting], dict[str, Quarantined]]:
        work, lost = [], {}
        for picture in pictures:
            try:
                data = self.context.picture(picture)
            except Quarantined as error:
                lost[picture.id] = error
                continue
            for group in picture.prompts.values():
                whole = next((candidate for candidate in group if not candidate.truncated), None)
                work += [Correcting(picture, whole, data)] if whole is not None else []
        return work, lost

    def _correct(self, work: Sequence[Correcting]) -> None:
        """Fill in the answer and its correction."""
        if not work:
            return
        chat = self.context.chat(self.settings.chat)
        replies = final_replies(list(chat.replies(self._requests(work), "correcting answers")), "model that corrects")
        for one, reply in zip(work, replies, strict=True):
            if isinstance(reply, Quarantined):
                one.fail(reply.reason, reply.detail, "critique")
                continue
            text = without_thinking(reply.text)
            if reply.truncated:
                one.fail("reply_cut_off", text[-200:], "critique")
            elif normalized(text) in (UNCHANGED, normalized(one.candidate.text)):
                one.fail("nothing_corrected")
            elif not normalized(text) or placeholder_in(text):
                one.fail("no_text", text[:200], "critique")
            else:
                one.sides = [text, one.candidate.text]

    def _requests(self, work: Sequence[Correcting]) -> Iterator[ChatRequest]:
        for one in work:
            prompt = render(
                self.settings.template,
                prompt=one.candidate.prompt,
                text=one.candidate.text,
                picture=self.settings.see,
                present=sorted(one.picture.names("present")),
                absent=sorted(one.picture.names("absent")),
            )
            images = (one.data,) if self.settings.see else ()
            yield ChatRequest.ask(prompt, images=images, max_tokens=self.settings.max_tokens, seed=self.context.seed)

    def _reword(self, work: Sequence[Correcting]) -> None:
        """Word both sides anew, each by itself."""
        if self.settings.rewrite == "none" or not work:
            return
        if self.settings.rewrite == "rules":
            from mmpo.data_builders.hallucination.grammar.writer import Writer

            writer = Writer(self.context.vocabulary)
            for one in work:
                key = f"{self.context.seed}/{one.picture.id}/{one.candidate.prompt_number}"
                one.sides = [writer.reword(text, 0, key) for text in one.sides]
            return
        rewriter = Rewriter(self.context.chat(self.settings.chat), self.settings.rewrite_template)
        worded = iter(rewriter.rewrite([text for one in work for text in one.sides], 1))
        for one in work:
            found = [next(worded) for _ in one.sides]
            texts = [own[0] for own in found if not isinstance(own, Quarantined)]
            if len(texts) < len(found):
                one.failure = next(own for own in found if isinstance(own, Quarantined))
            one.sides = texts

    def _opinions(self, work: Sequence[Correcting]) -> dict[str, Opinions]:
        """The verdicts about the pictures' classes, after asking about those that only the new texts name."""
        known: dict[str, Opinions] = {one.picture.id: dict(one.picture.opinions) for one in work}
        new: dict[str, tuple[JudgedPicture, set[str]]] = {}
        for one in work:
            names = frozenset[str]().union(*(names_in(text, self.context.vocabulary) for text in one.sides))
            if unknown := names - known[one.picture.id].keys():
                new.setdefault(one.picture.id, (one.picture, set()))[1].update(unknown)
        if new:
            found = self.context.evidence([p for p, _ in new.values()], [sorted(names) for _, names in new.values()])
            for (picture, _), opinions in zip(new.values(), found, strict=True):
                known[picture.id] |= opinions
        return known

    def _check(self, one: Correcting, known: Opinions) -> None:
        """Make the pair, if the correction is one by the evidence."""
        vocabulary, sample = self.context.vocabulary, one.candidate.sample
        chosen, rejected = (
            replace(side, recall=recall_in(one.picture, side))
            for side in (side_of(text, vocabulary, known, sample) for text in one.sides)
        )
        if normalized(chosen.text) == normalized(rejected.text):
            one.fail("nothing_corrected")
        elif chosen.absent:
            one.fail("chosen_still_wrong", ", ".join(sorted(chosen.absent)))
        elif chosen.uncertain - rejected.uncertain or rejected.uncertain - chosen.names:
            one.fail("uncertain_changed", ", ".join(sorted(chosen.uncertain ^ rejected.uncertain)))
        else:
            one.pair = MadePair(
                key=f"p{one.candidate.prompt_number}s{sample}",
                prompt=one.candidate.prompt,
                chosen=chosen,
                rejected=rejected,
                about={
                    "corrected_by": self.context.chat(self.settings.chat).identity,
                    "reworded": self.settings.rewrite,
                    "claims": claim_rows(known, chosen.names ^ rejected.names),
                },
            )

    def _score(self, work: Sequence[Correcting]) -> None:
        """Add to each pair how much likelier the model finds its chosen side."""
        gaps = []
        for one in work:
            assert one.pair is not None
            texts = [one.pair.chosen.text, one.pair.rejected.text]
            logps = answer_logps(self.context.engine().vlm, one.data, one.candidate.prompt, texts)
            gaps.append(logps[0] - logps[1])
            one.pair = replace(one.pair, scores={"logp_chosen": logps[0], "logp_rejected": logps[1]})
        if not gaps:
            return
        logger.info(
            "log π_ref(chosen) − log π_ref(rejected): %.1f nats in the mean of %d pairs", fmean(gaps), len(gaps)
        )
        if fmean(gaps) < FAR_NATS:
            logger.warning(
                "The model finds the corrections %.0f nats less likely than its own answers, in the mean of %d pairs: "
                "DPO can hardly teach what a model would never write. Train on the chosen sides first "
                "(objective `sft`), then on the pairs.",
                -fmean(gaps),
                len(gaps),
            )
