"""Scores of the sentences of both responses by a text model: the steps of Full-Step-DPO (arXiv:2502.14356) and the
segments of 2D-DPO (arXiv:2410.19720), in `chosen_parts` and `rejected_parts`.

A response is asked about at once: its sentences stand numbered in the prompt, and the reply has a line for each,
`NUMBER: SCORE …`, a whole number from 0 to `highest` for each aspect. What is stored is that number over `highest`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from mmpo.data.pair import PreferencePair, join_text
from mmpo.errors import Quarantined, UserError
from mmpo.files.images import read_image
from mmpo.text.claims import SplitSentence, split_sentences

if TYPE_CHECKING:
    from pathlib import Path

    from mmpo.chat import ChatModel, ChatRequest

TEMPLATE = "part_scores"
ASPECTS = ("correctness",)
_LINE = re.compile(r"^\W*(\d+)\W*[:.)\]]\W*(\d+(?:[\s,;/|]+\d+)*)\W*$")
_LEAST_TOKENS, _TOKENS_A_LINE = 64, 24


@dataclass(frozen=True)
class PartScorer:
    """Gives pairs their scored sentences. `kind` "step" has one aspect. `pictures`: the judge is shown the images of a
    pair that come as images. `tries` replies at most are asked for where one is not as it must be."""

    chat: ChatModel
    root: Path
    kind: Literal["step", "segment"] = "segment"
    aspects: Sequence[str] = ASPECTS
    highest: int = 4
    pictures: bool = True
    template: str = TEMPLATE
    tries: int = 3

    def __post_init__(self) -> None:
        if not self.aspects or any(not aspect.strip() for aspect in self.aspects):
            raise UserError("an aspect has no name", hint="for instance --aspect correctness")
        if self.kind == "step" and len(self.aspects) > 1:
            raise UserError(
                f"a step has one score, and there are {len(self.aspects)} aspects", hint="kind segment takes several"
            )
        if self.highest < 1 or self.tries < 1:
            raise UserError("the highest score and the number of tries must be at least 1")

    @property
    def recipe(self) -> dict[str, Any]:
        """How the scores are made."""
        from mmpo.chat.templates import template_version

        return {
            "builder": "part_scores", "judge": self.chat.identity, "template": template_version(self.template),
            "kind": self.kind, "aspects": list(self.aspects), "highest": self.highest, "pictures": self.pictures,
        }  # fmt: skip

    def __call__(self, pairs: Sequence[PreferencePair]) -> Iterator[PreferencePair | Quarantined]:
        """Each pair with the parts of both sides, in order; Quarantined where the judge gave none."""
        texts = [text for pair in pairs for text in (pair.chosen_text, pair.rejected_text)]
        of = [pair for pair in pairs for _ in range(2)]
        sentences = [split_sentences(text) for text in texts]
        found: list[list[list[float]] | Quarantined] = [Quarantined("judge", "not_asked")] * len(texts)
        open_: list[int] = []
        pictures: dict[int, tuple[bytes, ...]] = {}
        for number, pair in enumerate(pairs):
            sides = [2 * number, 2 * number + 1]
            try:
                pictures |= dict.fromkeys(sides, self._shown(pair))
                open_ += sides
            except Quarantined as error:
                found[sides[0]] = error
        for seed in range(self.tries):
            if not open_:
                break
            replies = self.chat.replies(self._request(of[i], pictures[i], sentences[i], seed) for i in open_)
            for i, reply in zip(open_, replies, strict=True):
                if isinstance(reply, Quarantined):
                    _require_lasting(reply)
                    found[i] = reply
                else:
                    found[i] = self._read(reply.text, len(sentences[i]))
            open_ = [i for i in open_ if isinstance(found[i], Quarantined)]
        for number, pair in enumerate(pairs):
            made: dict[str, Any] = {}
            for i, side in ((2 * number, "chosen_parts"), (2 * number + 1, "rejected_parts")):
                scores = found[i]
                if isinstance(scores, Quarantined):
                    break
                kept = [part for part in getattr(pair, side) or () if part["kind"] != self.kind]
                made[side] = kept + self._parts(sentences[i], scores)
            yield scores if isinstance(scores, Quarantined) else replace(pair, **made)

    def _parts(self, sentences: Sequence[SplitSentence], scores: Sequence[Sequence[float]]) -> list[dict[str, Any]]:
        return [
            {"start": one.start, "end": one.start + len(one.text), "kind": self.kind, "scores": list(own)}
            for one, own in zip(sentences, scores, strict=True)
        ]

    def _shown(self, pair: PreferencePair) -> tuple[bytes, ...]:
        return tuple(read_image(image, root=self.root) for image in pair.images) if self.pictures else ()

    def _request(
        self, pair: PreferencePair, pictures: tuple[bytes, ...], sentences: Sequence[SplitSentence], seed: int
    ) -> ChatRequest:
        from mmpo.chat import ChatRequest
        from mmpo.chat.templates import render

        prompt = render(
            self.template, question=join_text(pair.prompt[-1:]), sentences=[one.text for one in sentences],
            aspects=list(self.aspects), highest=self.highest, pictures=len(pictures),
        )  # fmt: skip
        limit = _LEAST_TOKENS + _TOKENS_A_LINE * len(sentences)
        return ChatRequest.ask(
            prompt, images=pictures, max_tokens=limit, temperature=0.0 if seed == 0 else 0.3, seed=seed
        )

    def _read(self, text: str, count: int) -> list[list[float]] | Quarantined:
        """The scores of each sentence, from 0 to 1; Quarantined for a reply that is not one line for each."""
        from mmpo.chat.judging import without_thinking

        rows: dict[int, list[float]] = {}
        for line in without_thinking(text).splitlines():
            if (match := _LINE.match(line.strip())) is None:
                continue
            number, scores = int(match.group(1)), [int(one) for one in re.findall(r"\d+", match.group(2))]
            if number in rows:
                return Quarantined("judge", "twice", f"sentence {number} is scored twice")
            if len(scores) != len(self.aspects) or max(scores) > self.highest:
                return Quarantined("judge", "bad_scores", f"{line.strip()[:80]!r}")
            rows[number] = [score / self.highest for score in scores]
        if sorted(rows) != list(range(1, count + 1)):
            return Quarantined("judge", "not_each_sentence", f"{len(rows)} of {count} sentences have scores")
        return [rows[number] for number in range(1, count + 1)]


def _require_lasting(failure: Quarantined) -> None:
    """Raises `UserError` for a failure that may pass: pairs must not be lost to a server that is away."""
    from mmpo.chat.judging import LASTING

    if failure.reason not in LASTING:
        raise UserError(
            f"the judge gave no reply ({failure.reason}: {failure.detail})",
            hint="run again: the replies that came are kept, only the missing ones are asked",
        )
