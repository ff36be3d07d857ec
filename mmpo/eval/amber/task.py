"""AMBER as a benchmark: the published queries are asked, and the responses scored."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from mmpo.errors import UserError
from mmpo.eval.amber import files
from mmpo.eval.amber import metrics as amber
from mmpo.eval.amber.files import AmberLabel, AmberObjects, Query
from mmpo.eval.amber.settings import AmberSettings
from mmpo.eval.amber.words import NounReader, Similarity, open_similarity
from mmpo.eval.protocol import Grade, Part, Request, Response, cut_off
from mmpo.eval.task import Context, QuestionTask, benchmark
from mmpo.files.atomic import write_text


@benchmark("amber", settings=AmberSettings, needs="its data and images")
class Amber(QuestionTask[AmberSettings, Query]):
    """Descriptions and yes/no questions of AMBER's images."""

    partial = True
    annotations: files.Annotations

    def __init__(self, settings: AmberSettings, context: Context) -> None:
        super().__init__(settings, context)
        self.root = self.settings.image_folder or context.images
        if self.settings.data is None or self.root is None:
            missing = "data" if self.settings.data is None else "image_folder"
            raise UserError(f"amber needs eval.amber.{missing}", hint="a folder of the published data, or its images")
        data = Path(self.settings.data)
        self.annotations = files.read_annotations(data)
        paths = [Path(file) for file in self.settings.queries] or [data / "query" / "query_all.json"]
        self.questions = self._wanted([query for path in paths for query in files.read_queries(path)], context.limit)
        suffix = self.settings.prompt_suffix
        self.conventions = [
            f"AMBER: {len(self.questions)} queries of {', '.join(path.name for path in paths)}; greedy, at most "
            f"{self.settings.max_new_tokens} tokens for a description and {self.settings.yes_no_tokens} for an answer; "
            + (f"questions followed by {suffix!r}" if suffix else "questions alone"),
            *self.rules,
            "AMBER: numbers are plain sums over images; `mmpo eval score amber` prints them rounded as the script does",
        ]

    def _wanted(self, queries: list[Query], limit: int | None) -> list[Query]:
        """The queries of the chosen halves, about the first `limit` images."""
        found: dict[int, Query] = {}
        for query in queries:
            if query.id not in self.annotations.items:
                raise UserError(f"{query.where}: id {query.id} is in no annotation")
            if query.id in found:
                raise UserError(f"{query.where}: id {query.id} is at {found[query.id].where} already")
            half = "generative" if isinstance(self.annotations.items[query.id], AmberObjects) else "discriminative"
            if half in self.settings.parts:
                found[query.id] = query
        first = list(dict.fromkeys(query.image for query in found.values()))[:limit]
        kept = [query for query in found.values() if query.image in set(first)]
        if not kept:
            raise UserError(f"the queries hold none of {', '.join(self.settings.parts)}")
        return kept

    @cached_property
    def nouns(self) -> NounReader:
        """The reader that finds nouns."""
        return NounReader(self.settings.words, self.annotations.words)

    @cached_property
    def similarity(self) -> Similarity:
        """The measure of which words mean the same."""
        return open_similarity(self.settings.similarity)

    @property
    def rules(self) -> list[str]:
        """The rules behind the numbers, for their reader."""
        own = self.settings
        cog = "the expected words, as the script" if own.cog_denominator == "targets" else "the nouns, as the paper"
        return [
            f"AMBER nouns: {self.nouns.identity}",
            f"AMBER similar words: {self.similarity.identity}",
            f"AMBER search order: {own.order}; Cog as a share of {cog}",
            f"AMBER yes/no answers: parser {own.parser}; the positive class is no",
        ]

    def parts(self, given: Sequence[tuple[Query, Response]]) -> list[Part]:
        images = {query.id: query.image for query, _ in given}
        by_id = {query.id: (query, response) for query, response in given}
        items = [self.annotations.items[number] for number in by_id]
        described = [item for item in items if isinstance(item, AmberObjects)]
        asked = [item for item in items if isinstance(item, AmberLabel)]
        parts: list[Part] = []
        if described:
            own = [by_id[item.id] for item in described]
            nouns = self.nouns.read(response.text for _, response in own)
            rows = [
                amber.describe(item, found, self.annotations, self.similarity, self.settings.order)
                for item, found in zip(described, nouns, strict=True)
            ]
            tally = amber.generative_tally(rows, images, self.settings.cog_denominator)
            parts.append(Part("generative", tally, len(rows), cut_off(own)))
        if asked:
            read = {item.id: amber.read_answer(by_id[item.id][1].text, self.settings.parser) for item in asked}
            for line, members in amber.groups(asked).items():
                own = [by_id[item.id] for item in members]
                parts.append(
                    Part(
                        line,
                        amber.discriminative_tally(members, read, images),
                        len(members),
                        cut_off(own),
                        unparsed=sum(read[item.id] is None for item in members),
                        total=line in ("all", "attribute"),
                        near_ties=self.near_ties(own),
                    )
                )
        if described and asked:
            both = amber.combined_tally(parts[0].tally, parts[1].tally)
            count, cut = parts[0].questions + parts[1].questions, parts[0].truncated + parts[1].truncated
            parts.append(Part("both halves", both, count, cut, parts[1].unparsed, total=True))
        return parts

    def grade(self, question: Query, response: Response) -> Grade | None:
        item = self.annotations.items[question.id]
        if not isinstance(item, AmberLabel):
            return None  # a description: its words are counted, none is the right one
        read = amber.read_answer(response.text, self.settings.parser)
        return Grade(item.label, read, read == item.label, item.dimension)

    def write(self, folder: Path, responses: Mapping[str, Mapping[Request, Response]]) -> None:
        """Response files for the published script; an answer that was read is written as the Yes or No it expects."""
        for state, given in responses.items():
            records = []
            for query, response in self.answered(given):
                text = response.text
                if isinstance(self.annotations.items[query.id], AmberLabel):
                    answer = amber.read_answer(text, self.settings.parser)
                    text = text if answer is None else answer.capitalize()
                records.append({"id": query.id, "response": text})
            write_text(folder / f"responses_{state}.json", json.dumps(records, ensure_ascii=False, indent=1) + "\n")

    def request(self, question: Query) -> Request:
        if isinstance(self.annotations.items[question.id], AmberObjects):
            return Request(question.image, question.text, self.settings.max_new_tokens, self.root)
        return Request(
            question.image, question.text + self.settings.prompt_suffix, self.settings.yes_no_tokens, self.root
        )
