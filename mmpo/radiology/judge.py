"""A text model as detector and editor: every line labelled none, partial or all, with its edit; checked strictly.

What comes back is used only if it is whole and breaks no rule: as many items as lines, labels that fit their edits, no
word that the line doesn't have, no negation, number or side that it doesn't have, and nothing on which the rule
detector still fires. Else it is asked again with another seed, and then the report is quarantined.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from mmpo.errors import Quarantined
from mmpo.outside import json_of
from mmpo.radiology.claims import keeps_claims
from mmpo.radiology.detector import Cue, PriorVerdict, RuleDetector
from mmpo.radiology.editing import LineEdit

if TYPE_CHECKING:
    from mmpo.chat import ChatModel, ChatRequest
    from mmpo.chat.judging import Judgement

TEMPLATE = "radiology_priors"
LABELS = ("none", "partial", "all")
FUNCTION_WORDS = frozenset(
    re.findall(r"\w+", "a an the is are was were there and of in with no at to noted seen present")
)
MAX_GROWTH = 1.2


class JudgeAnnotator:
    """Labels and edits by a text model. `tries` is how often a report is asked about before it is given up."""

    def __init__(self, chat: ChatModel, *, template: str = TEMPLATE, tries: int = 3, max_tokens: int = 2048) -> None:
        from mmpo.chat.templates import template_version

        self.chat, self.template, self.tries, self.max_tokens = chat, template, tries, max_tokens
        self.identity = f"{chat.identity} {template_version(template)}"
        self._rules = RuleDetector()

    def annotate(self, lines: Sequence[str]) -> list[LineEdit]:
        """The edits of one report's lines. Raises Quarantined("judge", reason) where no answer could be used."""
        (result,) = self.annotate_many([lines])
        if isinstance(result, Quarantined):
            raise result
        return result

    def annotate_many(self, reports: Sequence[Sequence[str]]) -> list[list[LineEdit] | Quarantined]:
        """The edits of several reports, asked together; in order."""
        results: dict[int, list[LineEdit] | Quarantined] = {i: [] for i, lines in enumerate(reports) if not lines}
        for seed in range(self.tries):
            open_ = [i for i in range(len(reports)) if not isinstance(results.get(i), list)]
            if not open_:
                break
            replies = self.chat.replies(self._request(reports[i], seed) for i in open_)
            for i, reply in zip(open_, replies, strict=True):
                if isinstance(reply, Quarantined):
                    results[i] = reply
                    continue
                try:
                    results[i] = self._read(reply.text, reports[i])
                except Quarantined as error:
                    results[i] = error
        return [results[i] for i in range(len(reports))]

    def _request(self, lines: Sequence[str], seed: int) -> ChatRequest:
        from mmpo.chat import ChatRequest
        from mmpo.chat.templates import render

        return ChatRequest.ask(
            render(self.template, lines=list(lines)),
            max_tokens=self.max_tokens,
            temperature=0.0 if seed == 0 else 0.3,
            seed=seed,
        )

    def _read(self, text: str, lines: Sequence[str]) -> list[LineEdit]:
        items = read_items(text, len(lines))
        edits = []
        for line, item in zip(lines, items, strict=True):
            problem = self._problem(line, item)
            if problem:
                raise Quarantined("judge", problem, f"{item!r} for {line!r}")
            label = item["label"]
            edits.append(LineEdit(label, {"none": line, "all": ""}.get(label) or str(item.get("edit", "")).strip()))
        return [LineEdit("all", "") if edit.label == "all" else edit for edit in edits]

    def _problem(self, line: str, item: dict[str, Any]) -> str | None:
        label, edit = item.get("label"), " ".join(str(item.get("edit") or "").split())
        if label not in LABELS:
            return "unknown_label"
        if label == "none":
            return "none_but_edited" if edit and edit != " ".join(line.split()) else None
        if label == "all":
            return "all_but_text_left" if edit else None
        if not edit or edit == " ".join(line.split()):
            return "partial_without_edit"
        if len(edit.split()) > MAX_GROWTH * len(line.split()):
            return "edit_too_long"
        known = set(_words(line))
        if any(word not in known and word not in FUNCTION_WORDS for word in _words(edit)):
            return "word_added"
        if not keeps_claims(line, edit):
            return "content_changed"
        return "still_a_reference" if self._rules.flags(edit) else None


class JudgeDetector:
    """The text model as a detector: the same interface as the rules; partial and all count as references."""

    def __init__(self, chat: ChatModel, **options: Any) -> None:
        self.annotator = JudgeAnnotator(chat, **options)
        self.identity = self.annotator.identity

    def sentences(self, texts: Sequence[str]) -> list[PriorVerdict | None]:
        """A verdict for each sentence, asked as lines of one report; None for all where no answer could be read."""
        return self.reports([texts])[0]

    def reports(self, reports: Sequence[Sequence[str]]) -> list[list[PriorVerdict | None]]:
        """Verdicts of the lines of several reports. Only labels are read here, so an edit that fails is no matter."""
        judged = zip(reports, self.judgements(reports), strict=True)
        return [[None] * len(lines) if one.value is None else one.value for lines, one in judged]

    def judgements(self, reports: Sequence[Sequence[str]]) -> list[Judgement[list[PriorVerdict | None]]]:
        """The same with the judge's words, or why there are none."""
        from mmpo.chat.judging import Judgement

        found: list[Judgement[list[PriorVerdict | None]]] = []
        replies = self.annotator.chat.replies(self.annotator._request(lines, 0) for lines in reports)
        for lines, reply in zip(reports, replies, strict=True):
            if isinstance(reply, Quarantined):
                found.append(Judgement(None, None, reply))
                continue
            verdicts = None
            with suppress(Quarantined):
                items = read_items(reply.text, len(lines))
                verdicts = [_verdict(line, item.get("label")) for line, item in zip(lines, items, strict=True)]
            found.append(Judgement(verdicts, reply.text))
        return found


def _verdict(line: str, label: Any) -> PriorVerdict | None:
    if label not in LABELS:
        return None
    if label == "none":
        return PriorVerdict(line, 0.0)
    return (
        PriorVerdict(line, 1.0, (Cue(f"judge: {label}", 0, len(line), line, 1.0),)) if line else PriorVerdict(line, 1.0)
    )


def read_items(text: str, lines: int) -> list[dict[str, Any]]:
    """The JSON array of a reply, ordered by `i`. Raises Quarantined("judge", …) where it isn't one item a line."""
    match = re.search(r"\[\s*(?:\{.*\}\s*)?\]", text, re.DOTALL)
    try:
        items = json_of(match[0]) if match else None
    except ValueError:
        items = None
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise Quarantined("judge", "not_json", text[:120])
    if sorted(str(item.get("i")) for item in items) != sorted(str(number) for number in range(1, lines + 1)):
        raise Quarantined("judge", "lines_missing", f"{len(items)} items for {lines} lines")
    return sorted(items, key=lambda item: int(item["i"]))


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())
