"""The source `self`: a model's own answers to yes/no questions about a picture, in several wordings.

All questions about a picture share its prefill; of each only the first step is computed. A wording's number is the log
odds of yes against no, turned round for wordings that ask for absence. A model knows more than the cut at 0 shows: the
cuts come from controls or from the numbers themselves (`mmpo.evidence.cuts`).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from mmpo.errors import Quarantined, UserError
from mmpo.evidence.cuts import AFFIRMED, VerdictCuts
from mmpo.evidence.records import EvidencePicture, SourceFinding
from mmpo.evidence.settings import SelfSource, asked_about
from mmpo.evidence.source import EvidenceContext, EvidenceSource
from mmpo.files.fingerprints import folder_fingerprint, model_folder

if TYPE_CHECKING:
    from mmpo.models.generation.answer import Answer
    from mmpo.models.generation.answerer import Answerer


class OwnAnswers(EvidenceSource[SelfSource]):
    """z is the mean log odds over the wordings; without controls over those to which yes means present, since a model
    that does not read the negation can't be told. `detail.wordings` has each wording's log odds of yes."""

    def __init__(self, settings: SelfSource, context: EvidenceContext) -> None:
        super().__init__(settings, context)
        if settings.model is None and context.engine is None:
            raise UserError("evidence `self` needs a model to ask", hint="set `model` of the source `self`")

    @property
    def identity(self) -> str:
        own = self.settings.model
        files = self.context.model if own is None else f"{folder_fingerprint(model_folder(own))} {self.settings.dtype}"
        return f"self {files} {json.dumps([self._asking, self._negated])}"

    @property
    def _asking(self) -> list[str]:
        """The wordings to which yes means present."""
        return self.settings.claim_questions if self.context.questions else self.settings.questions

    @property
    def _negated(self) -> list[str]:
        return [] if self.context.questions else self.settings.negated

    @cached_property
    def _engine(self) -> Answerer:
        if self.settings.model is None:
            assert self.context.engine is not None
            engine = self.context.engine()
            if not engine.log_probs:
                raise UserError(
                    "the server gives no log-probs, and evidence `self` is P(yes)",
                    hint="take a server that gives top_logprobs (vLLM, SGLang), or set `model` of the source `self`: "
                    "that one answers in this process",
                )
            return engine
        from mmpo.models.families.loading import load_vlm
        from mmpo.models.generation.answer import AnswerEngine

        return AnswerEngine(load_vlm(self.settings.model, dtype=self.settings.dtype), max_new_tokens=1)

    def find(
        self, pictures: Sequence[EvidencePicture], names: Sequence[Collection[str]]
    ) -> list[Mapping[str, SourceFinding]]:
        from mmpo.models.generation.answer import Question

        wordings = [*self._asking, *self._negated]
        ids = [
            [
                (f"{number}/{name}/{place}", asked_about(text, name))
                for name in asked
                for place, text in enumerate(wordings)
            ]
            for number, asked in enumerate(names)
        ]
        groups = [
            (picture.data, [Question(id, None, text) for id, text in own])
            for picture, own in zip(pictures, ids, strict=True)
            if own
        ]
        failed: dict[str, Quarantined] = {}
        answers = self._engine.answer(groups, max_new_tokens=1, on_quarantine=failed.__setitem__)
        answered = {answer.id: answer for answer in answers}
        return [
            {
                name: self._finding(
                    [answered.get(f"{number}/{name}/{place}") for place in range(len(wordings))],
                    failed.get(f"{number}/{name}/0"),
                )
                for name in asked
            }
            for number, asked in enumerate(names)
        ]

    def _finding(self, answers: Sequence[Answer | None], failure: Quarantined | None) -> SourceFinding:
        if failure is not None:
            return SourceFinding(None, f"decode/{failure.reason}")
        odds = []
        for answer in answers:
            if answer is None or answer.yes_logit is None or answer.no_logit is None:
                return SourceFinding(None, "no_yes_no_tokens")
            odds.append(answer.yes_logit - answer.no_logit)
        wordings = dict(zip([*self._asking, *self._negated], odds, strict=True))
        asking = odds[: len(self._asking)]
        return SourceFinding(sum(asking) / len(asking), "", {"wordings": wordings})

    def assumed_cuts(self, z: Sequence[float]) -> VerdictCuts:
        return AFFIRMED if self.context.questions else super().assumed_cuts(z)

    def parts(self, found: SourceFinding) -> Mapping[str, float]:
        negated = set(self._negated)
        return {text: -value if text in negated else value for text, value in found.detail.get("wordings", {}).items()}
