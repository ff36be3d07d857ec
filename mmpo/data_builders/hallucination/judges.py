"""Text models where HA-DPO has GPT-4: one checks and corrects, one rewrites both sides, one makes questions.

They read annotations, never pictures. Each asks many at once through `mmpo.chat`, and each reply ends as a result or as
`Quarantined` with a reason. The prompts are templates that a user can replace.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from mmpo.chat.protocol import ChatModel, ChatReply, ChatRequest
from mmpo.chat.templates import render
from mmpo.data.annotations.records import AnnotatedImage
from mmpo.data_builders.hallucination.detect import ClaimVerdict, Decided, SentenceVerdict, Truth, split_sentences
from mmpo.errors import Quarantined

MAX_REPLY = 1024
_VERDICT = re.compile(
    r"^[^\w\n]*(\d+)\s*[.):][^\w\n]*(hallucination|correct|cannot[ _]judge)\b[^\w\n]*(.*)$", re.I | re.M
)
_CORRECTED = re.compile(r"^[^\w\n]*corrected(?:\s+(?:description|text))?[^\w\n:]*:[^\w\n]*", re.I | re.M)
_ITEM = re.compile(r"^\s*(?:\*\*)?(\d+)\s*[.):](?:\*\*)?\s+", re.M)
_FIELD = re.compile(r"^[^\w\n]*(question|answer|object)[^\w\n:]*:[^\w\n]*(.+?)[\s*]*$", re.I | re.M)


@dataclass(frozen=True)
class DescriptionJudgement:
    """A judge's result for a description: a verdict for each sentence, and the corrected text; of rules, also the
    claims that they read."""

    verdicts: list[SentenceVerdict]
    corrected: str
    decided: Sequence[Decided] = ()


@dataclass(frozen=True)
class ModelQuestion:
    """A yes/no question that a text model made of a pair."""

    question: str
    yes: bool
    object: str


class Judge:
    """Checks descriptions against annotations, sentence by sentence."""

    def __init__(self, chat: ChatModel, template: str) -> None:
        self.chat, self.template = chat, template

    def judge(self, items: Sequence[tuple[str, Truth]]) -> list[DescriptionJudgement | Quarantined]:
        requests = [ChatRequest.ask(self._prompt(text, truth), max_tokens=MAX_REPLY) for text, truth in items]
        replies = self.chat.replies(requests, label="judging descriptions")
        return [_read(reply, "judge", read_judgement, text) for reply, (text, _) in zip(replies, items, strict=True)]

    def _prompt(self, text: str, truth: Truth) -> str:
        image = truth.image
        counts = Counter(item.name for item in image.objects)
        return render(
            self.template,
            sentences=[piece.text for piece in split_sentences(text)],
            regions=region_lines(image),
            objects=[name if count == 1 else f"{name} ({count})" for name, count in counts.items()],
            captions=list(image.captions),
        )


class Rewriter:
    """Rewords texts; sees one text at a time, so it can't know which side it writes."""

    def __init__(self, chat: ChatModel, template: str) -> None:
        self.chat, self.template = chat, template

    def rewrite(self, texts: Sequence[str], variants: int) -> list[list[str] | Quarantined]:
        """Up to `variants` wordings of each text."""
        prompts = [render(self.template, text=text, variants=variants) for text in texts]
        requests = [ChatRequest.ask(prompt, max_tokens=MAX_REPLY * variants) for prompt in prompts]
        replies = self.chat.replies(requests, label="rewriting both sides")
        return [_read(reply, "rewrite", read_list, variants) for reply in replies]


class QuestionMaker:
    """Turns a right and a wrong description into up to `count` yes/no questions."""

    def __init__(self, chat: ChatModel, template: str, count: int = 1) -> None:
        self.chat, self.template, self.count = chat, template, count

    def make(self, pairs: Sequence[tuple[str, str]]) -> list[list[ModelQuestion | Quarantined] | Quarantined]:
        """For each pair its questions, in the order of the reply, or why there are none."""
        prompts = [
            render(self.template, chosen=chosen, rejected=rejected, count=self.count) for chosen, rejected in pairs
        ]
        requests = (ChatRequest.ask(prompt, max_tokens=256 * self.count) for prompt in prompts)
        replies = self.chat.replies(requests, label="making questions")
        return [_read(reply, "questions", read_questions, self.count) for reply in replies]


def region_lines(image: AnnotatedImage) -> list[str]:
    """`[x1, y1, x2, y2]: phrase`, coordinates as shares of the picture with two decimals: HA-DPO's form for judges that
    read text only.
    """
    lines = []
    for region in image.regions:
        if region.bbox_xywh is None or not image.width or not image.height:
            lines.append(region.phrase)
            continue
        x, y, width, height = region.bbox_xywh
        corners = (x / image.width, y / image.height, (x + width) / image.width, (y + height) / image.height)
        lines.append(f"[{', '.join(f'{corner:.2f}' for corner in corners)}]: {region.phrase}")
    return lines


def read_judgement(reply: str, text: str) -> DescriptionJudgement:
    """A judge's reply about `text`. Lines are taken by their number, so what a judge says around them does no harm
    (the published reader gives a whole reply up where the number of lines differs). Quarantined where a sentence has no
    verdict, or there is no corrected text.
    """
    head, found, corrected = reply, _CORRECTED.search(reply), ""
    if found:
        head, corrected = reply[: found.start()], reply[found.end() :].strip().strip('"“”').strip()
    given = {int(match[1]): (match[2].lower(), match[3].strip()) for match in _VERDICT.finditer(head)}
    pieces = split_sentences(text)
    missing = [number for number in range(1, len(pieces) + 1) if number not in given]
    if missing:
        raise Quarantined(
            "judge", "no_verdict", f"nothing about sentence {missing[0]} of {len(pieces)}: {reply[:200]!r}"
        )
    verdicts = []
    for number, piece in enumerate(pieces, start=1):
        word, reason = given[number]
        verdict: ClaimVerdict = "unchecked" if word.startswith("cannot") else word  # type: ignore[assignment]
        verdicts.append(SentenceVerdict(piece.text, piece.start, verdict, reason, ()))
    wrong = any(verdict.verdict == "hallucination" for verdict in verdicts)
    if wrong and not corrected:
        raise Quarantined("judge", "no_correction", reply[:200])
    return DescriptionJudgement(verdicts, corrected if wrong else text)


def read_list(reply: str, variants: int) -> list[str]:
    """The items of a numbered list; a reply without numbers is one item where one was asked for."""
    starts = list(_ITEM.finditer(reply))
    ends = [*(match.start() for match in starts[1:]), len(reply)]
    items = [" ".join(reply[match.end() : end].split()) for match, end in zip(starts, ends, strict=False)]
    if not starts and variants == 1:
        items = [" ".join(reply.split())]
    items = [item for item in items if item][:variants]
    if not items:
        raise Quarantined("rewrite", "no_list", reply[:200])
    return items


def read_questions(reply: str, count: int) -> list[ModelQuestion | Quarantined]:
    """The first `count` questions of a reply, each with its answer and object; Quarantined for one that is not whole.
    Raises Quarantined for a reply without any question."""
    starts = [match.start() for match in _FIELD.finditer(reply) if match[1].lower() == "question"]
    if not starts:
        raise Quarantined("questions", "no_question", reply[:200])
    found: list[ModelQuestion | Quarantined] = []
    for start, end in zip(starts[:count], [*starts[1:], len(reply)], strict=False):
        try:
            found.append(read_question(reply[start:end]))
        except Quarantined as error:
            found.append(error)
    return found


def read_question(reply: str) -> ModelQuestion:
    fields = {match[1].lower(): match[2] for match in _FIELD.finditer(reply)}
    answer = re.match(r"\W*(yes|no)\b", fields.get("answer", ""), re.I)
    if answer is None or not fields.get("question", "").endswith("?") or not fields.get("object"):
        raise Quarantined("questions", "no_question", reply[:200])
    return ModelQuestion(fields["question"], answer[1].lower() == "yes", fields["object"].strip(" .").lower())


def _read(reply: ChatReply | Quarantined, stage: str, reader, *arguments):  # type: ignore[no-untyped-def]
    """The result of `reader` for a reply, or the reason why there is none."""
    if isinstance(reply, Quarantined):
        return Quarantined(stage, reply.reason, reply.detail)
    if reply.truncated:
        return Quarantined(stage, "reply_cut_off", reply.text[-200:])
    try:
        return reader(reply.text, *arguments)
    except Quarantined as error:
        return error
