"""SHR's judges of which sentences are hallucinations: a text model that reads the notes about the image, or rules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmpo.chat import ChatModel
from mmpo.chat.judging import Judgement, Mode, judge
from mmpo.chat.templates import render, template_path
from mmpo.data.annotations.records import AnnotatedImage
from mmpo.eval.shr.files import SavedJudgement, ShrImage, ShrRegion
from mmpo.eval.shr.metrics import CLASSES, Class, ShrRow, read_judgement, sentences
from mmpo.eval.shr.settings import ShrSettings
from mmpo.files.atomic import write_json
from mmpo.text.claims import claimed
from mmpo.text.vocabulary import ObjectVocabulary

TEMPLATE = "shr_judge"
LEAST_TOKENS, TOKENS_A_SENTENCE = 800, 60
"""A judge's reply may have 800 tokens, as published, and more where there are many sentences."""


def from_annotated(image: AnnotatedImage) -> ShrImage:
    """An image of any annotated set as SHR sees it: its objects with their boxes are the regions, its captions the
    facts.
    """
    regions = tuple(ShrRegion(item.name, item.bbox_xywh) for item in image.objects)
    size = (image.width, image.height) if image.width and image.height else None
    return ShrImage(image.path, regions, image.object_names, image.captions, size)


def region_lines(image: ShrImage) -> list[str]:
    """A line for each region as the published prompt has it: its left, top, right and bottom edge as fractions of the
    image with two decimals at most, neither clipped nor de-duplicated, `[0.1, 0.0, 0.6, 1.0]: a dog`; the phrase alone
    where size or box is not known. Regions without a phrase are left out.
    """
    lines = []
    for region in image.regions:
        if not region.phrase:
            continue
        place = ""
        if region.box is not None and image.size is not None:
            (x, y, width, height), (across, down) = region.box, image.size
            edges = (x / across, y / down, (x + width) / across, (y + height) / down)
            place = f"{[float(f'{edge:.2f}') for edge in edges]}: "
        lines.append(place + region.phrase)
    return lines


def model_rows(
    chat: ChatModel, described: Sequence[tuple[ShrImage, str]], own: ShrSettings, seed: int = 0
) -> tuple[list[ShrRow], list[Judgement[str]]]:
    """Let a text model judge (image, response) pairs, one request each; a response without sentences is not sent.

    Returns a row for each pair, and the judge's replies for those that were sent. Where it gave none, all sentences of
    the row are unparsed.
    """
    template_path(own.template)  # a wrong name should fail before anything is asked
    cut = [sentences(response) for _, response in described]
    sent = [number for number, pieces in enumerate(cut) if pieces]
    prompts = [
        render(own.template, regions=region_lines(image), facts=image.facts, sentences=cut[number])
        for number in sent
        for image in [described[number][0]]
    ]
    limits = [max(LEAST_TOKENS, TOKENS_A_SENTENCE * len(cut[number])) for number in sent]
    replies = judge(
        chat, prompts, str, label="judging sentences", max_tokens=limits, temperature=own.temperature, seed=seed
    )
    raw = {number: reply.text for number, reply in zip(sent, replies, strict=True)}
    rows = [
        judged_row(image.id, response, raw.get(number), own.parser)
        for number, (image, response) in enumerate(described)
    ]
    return rows, replies


def judged_row(image: str, response: str, reply: str | None, mode: Mode) -> ShrRow:
    """A response with a judge's reply about it; without a reply every sentence is unparsed."""
    pieces = tuple(sentences(response))
    classes = read_judgement(reply, len(pieces), mode) if reply is not None else [None] * len(pieces)
    return ShrRow(image, response, pieces, tuple(classes), reply)


def saved_row(image: str, saved: SavedJudgement, mode: Mode | None) -> ShrRow:
    """A judgement made elsewhere, with its classes as they are saved; with a `mode`, and where none are saved, they are
    read from the judge's reply.
    """
    if saved.sentences is None or (mode is not None and saved.raw is not None):
        return judged_row(image, saved.response, saved.raw, mode or "tolerant")
    pieces = tuple(sentence.removesuffix(".").strip() for sentence, _ in saved.sentences)
    names = [str(name).strip().lower() for _, name in saved.sentences]
    classes = tuple(next((known for known in CLASSES if known == name), None) for name in names)
    return ShrRow(image, saved.response, pieces, classes, saved.raw)


class ShrRuleJudge:
    """Calls a sentence a hallucination when it claims an object of the vocabulary that neither the image's objects nor
    its regions and facts name, correct when all it claims are there, and leaves it when it claims none.

    It needs no model and is the same for everyone, but it looks at objects only: colours, numbers, places and actions
    pass. Its numbers don't compare with a model's.
    """

    def __init__(self, vocabulary: ObjectVocabulary) -> None:
        self.vocabulary = vocabulary

    def present(self, image: ShrImage) -> frozenset[str]:
        """The classes that are in the image, after everything that is noted about it."""
        names = {name for item in image.objects if (name := self.vocabulary.name_of(item))}
        for text in (*(region.phrase for region in image.regions), *image.facts):
            names.update(mention.name for mention in claimed(text, self.vocabulary))
        return frozenset(names)

    def row(self, image: ShrImage, response: str) -> ShrRow:
        """The judged response."""
        present = self.present(image)
        pieces = tuple(sentences(response))
        judged = [self._sentence(piece, present) for piece in pieces]
        classes, reasons = [name for name, _ in judged], [reason for _, reason in judged]
        return ShrRow(image.id, response, pieces, tuple(classes), None, tuple(reasons))

    def _sentence(self, sentence: str, present: frozenset[str]) -> tuple[Class, str]:
        names = list(dict.fromkeys(mention.name for mention in claimed(sentence, self.vocabulary)))
        if not names:
            return "cannot judge", "names no known object"
        wrong = [name for name in names if name not in present]
        if wrong:
            return "hallucination", f"not in this picture: {', '.join(wrong)}"
        return "correct", f"in this picture: {', '.join(names)}"


def write_judgements(path: str | Path, runs: Mapping[str, Iterable[ShrRow]]) -> None:
    """Write the published `judgement.json`: run -> image -> raw judgement, response and its sentences with classes."""
    write_json(path, {name: {row.image: _entry(row) for row in rows} for name, rows in runs.items()})


def _entry(row: ShrRow) -> dict[str, Any]:
    reasons = row.reasons or (None,) * len(row.sentences)
    return {
        "raw_judgement": row.judgement,
        "model_response": row.response,
        "judgement": [
            {"model_response": sentence, "judgement": reason, "classification": name}
            for sentence, reason, name in zip(row.sentences, reasons, row.classes, strict=True)
        ],
    }
