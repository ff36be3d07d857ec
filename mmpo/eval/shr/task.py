"""SHR as a benchmark: every image is described, and the sentences are judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

from mmpo.chat.judging import opened, require_all
from mmpo.chat.templates import template_version
from mmpo.errors import UserError
from mmpo.eval.chair import metrics as chair
from mmpo.eval.protocol import Part, Request, Response, cut_off, require_annotations
from mmpo.eval.shr import metrics as shr
from mmpo.eval.shr.files import ShrImage, read_images
from mmpo.eval.shr.judge import ShrRuleJudge, from_annotated, model_rows, write_judgements
from mmpo.eval.shr.settings import ShrSettings
from mmpo.eval.task import Context, JudgedTask, benchmark
from mmpo.text.vocabulary import ObjectVocabulary


@benchmark("shr", settings=ShrSettings, needs="annotated images, or its annotations")
class Shr(JudgedTask[ShrSettings, tuple[str, ShrImage], list[shr.ShrRow]]):
    """SHR on the published images or on the evaluation's own annotated ones."""

    partial = True

    def __init__(self, settings: ShrSettings, context: Context) -> None:
        super().__init__(settings, context)
        self._root = self.settings.images
        if self.settings.annotations is not None:
            if self._root is None:
                raise UserError("eval.shr.annotations needs eval.shr.images", hint="the folder of IMAGE_ID.jpg files")
            published = islice(read_images(self.settings.annotations).values(), context.limit)
            self.questions = [(f"{image.id}.jpg", image) for image in published]
            vocabulary = chair.vocabulary_for((), self.settings.vocabulary)
        else:
            own = require_annotations(context.annotated, "shr", "name SHR's annotations in eval.shr.annotations")
            self.questions = [(image.path, from_annotated(image)) for image in own.images]
            vocabulary = own.vocabulary
        self.by_model = self.wants_model("eval.shr.judged_by", self.settings.judged_by)
        self.rules = ShrRuleJudge(vocabulary)
        self.conventions = self._conventions(vocabulary)

    def parts(
        self, given: Sequence[tuple[tuple[str, ShrImage], Response]], rows: list[shr.ShrRow] | None = None
    ) -> list[Part]:
        """Score by judgements made elsewhere, or by those of `judge`."""
        rows = self.judged(given) if rows is None else rows
        classes = [name for row in rows for name in row.classes]
        unparsed = classes.count(None) if self.by_model else None
        return [Part(None, shr.tally(rows), len(rows), cut_off(given), unparsed, readable_of=len(classes))]

    def write(self, folder: Path, responses: Mapping[str, Mapping[Request, Response]]) -> None:
        for state, given in responses.items():
            write_judgements(folder / f"judgement_{state}.json", {"0": self.judged(self.answered(given))})

    def judge(self, given: Sequence[tuple[tuple[str, ShrImage], Response]]) -> list[shr.ShrRow]:
        described = [(image, response.text) for (_, image), response in given]
        if not self.by_model:
            return [self.rules.row(image, response) for image, response in described]
        with opened(self.context.judge, self.context.cache, "shr") as chat:
            rows, judgements = model_rows(chat, described, self.settings)
        require_all(judgements, "shr")
        return rows

    def _conventions(self, vocabulary: ObjectVocabulary) -> list[str]:
        asked = f"SHR: {len(self.questions)} images, prompt {self.settings.prompt!r}, greedy"
        if self.context.judge is not None and self.by_model:
            judged = (
                f"judged by {self.context.judge.model} at temperature {self.settings.temperature:g} with "
                f"{template_version(self.settings.template)}, replies read by the {self.settings.parser} rule; "
                "unparsed counts sentences"
            )
        else:
            judged = f"judged by rules over the annotations ({len(vocabulary)} object classes), objects only"
        return [
            f"{asked}, at most {self.settings.max_new_tokens} tokens; {judged}",
            "SHR compares only within one judge and prompt; the published values are GPT-4's with another prompt",
        ]

    def request(self, question: tuple[str, ShrImage]) -> Request:
        root = None if self.settings.annotations is None else self._root
        return Request(question[0], self.settings.prompt, self.settings.max_new_tokens, root)
