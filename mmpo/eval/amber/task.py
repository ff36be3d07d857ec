"""AMBER as a benchmark: the published queries are asked, and the replies scored."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from mmpo.errors import UserError
from mmpo.eval.amber import files
from mmpo.eval.amber import metrics as amber
from mmpo.eval.amber.files import Asked, Described, Query
from mmpo.eval.amber.score import answer_all, describe_all, rules
from mmpo.eval.amber.settings import AmberSettings
from mmpo.eval.protocol import Ask, Part, Reply, near_ties
from mmpo.eval.task import Context, Task, benchmark
from mmpo.files.atomic import write_text

_Item = TypeVar("_Item", Described, Asked)


@benchmark("amber", settings=AmberSettings, needs="its data and images")
class Amber(Task[AmberSettings]):
    """Descriptions and yes/no questions of AMBER's images."""

    partial = True

    def __init__(self, settings: AmberSettings, context: Context) -> None:
        super().__init__(settings, context)
        self.root = self.settings.image_folder or context.images
        if self.settings.data is None or self.root is None:
            missing = "data" if self.settings.data is None else "image_folder"
            raise UserError(f"amber needs eval.amber.{missing}", hint="a folder of the published data, or its images")
        data = Path(self.settings.data)
        self.annotations = files.read_annotations(data)
        paths = [Path(file) for file in self.settings.queries] or [data / "query" / "query_all.json"]
        self.queries = self._wanted([query for path in paths for query in files.read_queries(path)], context.limit)
        self.rules = rules(
            self.annotations,
            words=self.settings.words,
            similarity=self.settings.similarity,
            order=self.settings.order,
            cog_denominator=self.settings.cog_denominator,
            parser=self.settings.parser,
        )
        suffix = self.settings.prompt_suffix
        self.conventions = [
            f"AMBER: {len(self.queries)} queries of {', '.join(path.name for path in paths)}; greedy, at most "
            f"{self.settings.max_new_tokens} tokens for a description and {self.settings.yes_no_tokens} for an answer; "
            + (f"questions followed by {suffix!r}" if suffix else "questions alone"),
            *self.rules.conventions,
            "AMBER: numbers are plain sums over images; `mmpo eval score amber` prints them rounded as the script does",
        ]

    def _wanted(self, queries: list[Query], limit: int | None) -> dict[int, Query]:
        """The queries of the chosen halves, about the first `limit` images, by id."""
        found: dict[int, Query] = {}
        for query in queries:
            if query.id not in self.annotations.items:
                raise UserError(f"{query.where}: id {query.id} is in no annotation")
            if query.id in found:
                raise UserError(f"{query.where}: id {query.id} is at {found[query.id].where} already")
            half = "generative" if isinstance(self.annotations.items[query.id], Described) else "discriminative"
            if half in self.settings.parts:
                found[query.id] = query
        first = list(dict.fromkeys(query.image for query in found.values()))[:limit]
        kept = {number: query for number, query in found.items() if query.image in set(first)}
        if not kept:
            raise UserError(f"the queries hold none of {', '.join(self.settings.parts)}")
        return kept

    def asks(self) -> list[Ask]:
        return list(dict.fromkeys(self._ask(query) for query in self.queries.values()))

    def score(self, replies: Mapping[Ask, Reply]) -> list[Part]:
        images = {number: query.image for number, query in self.queries.items()}
        described, descriptions = self._answered(Described, replies)
        asked, answers = self._answered(Asked, replies)
        parts: list[Part] = []
        if described:
            rows = describe_all(described, [reply.text for reply in descriptions], self.annotations, self.rules)
            tally = amber.generative_tally(rows, images, self.settings.cog_denominator)
            parts.append(Part("generative", tally, len(rows), sum(reply.truncated for reply in descriptions)))
        if asked:
            read = answer_all(asked, [reply.text for reply in answers], self.rules)
            given = {item.id: reply for item, reply in zip(asked, answers, strict=True)}
            for line, members in amber.groups(asked).items():
                parts.append(
                    Part(
                        line,
                        amber.discriminative_tally(members, read, images),
                        len(members),
                        truncated=sum(given[item.id].truncated for item in members),
                        unparsed=sum(read[item.id] is None for item in members),
                        total=line in ("all", "attribute"),
                        near_ties=near_ties({self._ask(self.queries[i.id]): given[i.id] for i in members}),
                    )
                )
        if described and asked:
            both = amber.combined_tally(parts[0].tally, parts[1].tally)
            count, cut = parts[0].questions + parts[1].questions, parts[0].truncated + parts[1].truncated
            parts.append(Part("both halves", both, count, cut, parts[1].unparsed, total=True))
        return parts

    def write(self, folder: Path, replies: Mapping[str, Mapping[Ask, Reply]]) -> None:
        """Response files for the published script; an answer that was read is written as the Yes or No it expects."""
        folder.mkdir(parents=True, exist_ok=True)
        for state, given in replies.items():
            records = []
            for number, query in self.queries.items():
                if (reply := given.get(self._ask(query))) is None:
                    continue
                response = reply.text
                if isinstance(self.annotations.items[number], Asked):
                    answer = amber.read_answer(response, self.settings.parser)
                    response = response if answer is None else answer.capitalize()
                records.append({"id": number, "response": response})
            write_text(folder / f"responses_{state}.json", json.dumps(records, ensure_ascii=False, indent=1) + "\n")

    def _answered(self, kind: type[_Item], replies: Mapping[Ask, Reply]) -> tuple[list[_Item], Sequence[Reply]]:
        """The items of one half that have a reply (all, unless an image can't be used), and the replies."""
        items: list[_Item] = []
        given: list[Reply] = []
        for number, query in self.queries.items():
            item, reply = self.annotations.items[number], replies.get(self._ask(query))
            if isinstance(item, kind) and reply is not None:
                items.append(item)
                given.append(reply)
        return items, given

    def _ask(self, query: Query) -> Ask:
        if isinstance(self.annotations.items[query.id], Described):
            return Ask(query.image, query.text, self.settings.max_new_tokens, self.root)
        return Ask(query.image, query.text + self.settings.prompt_suffix, self.settings.yes_no_tokens, self.root)
