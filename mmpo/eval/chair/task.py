"""CHAIR as a benchmark: every image is described, and the descriptions are checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mmpo.data.annotations.records import AnnotatedImage
from mmpo.eval.chair import metrics as chair
from mmpo.eval.chair.settings import ChairSettings
from mmpo.eval.protocol import Part, Request, Response, cut_off, require_annotations
from mmpo.eval.task import Context, QuestionTask, benchmark
from mmpo.text.object_words import object_reader


@benchmark("chair", settings=ChairSettings, needs="annotated images")
class Chair(QuestionTask[ChairSettings, AnnotatedImage]):
    """CHAIR on free descriptions of every image."""

    def __init__(self, settings: ChairSettings, context: Context) -> None:
        super().__init__(settings, context)
        self.annotated = require_annotations(context.annotated, "chair")
        self.questions, vocabulary = self.annotated.images, self.annotated.vocabulary
        self.conventions = [
            f"CHAIR: {len(self.annotated.images)} images, prompt {self.settings.prompt!r}, greedy, "
            f"at most {self.settings.max_new_tokens} tokens; "
            f"vocabulary {self.settings.vocabulary} ({len(vocabulary)} objects), {chair.phrases(vocabulary)}; "
            f"word forms {object_reader(self.settings.words, vocabulary).identity}",
            *self.annotated.notes,
        ]

    def parts(self, given: Sequence[tuple[AnnotatedImage, Response]]) -> list[Part]:
        return [Part(None, self.result(given).tally, len(given), cut_off(given))]

    def write(self, folder: Path, responses: Mapping[str, Mapping[Request, Response]]) -> None:
        for state, given in responses.items():
            chair.write_rows(folder / f"sentences_{state}.jsonl", self.result(self.answered(given)))

    def result(self, given: Sequence[tuple[AnnotatedImage, Response]]) -> chair.ChairResult:
        """The descriptions, scored one by one."""
        captions = {image.path: response.text for image, response in given}
        return chair.score(captions, self.annotated.truth, self.annotated.vocabulary, words=self.settings.words)

    def request(self, image: AnnotatedImage) -> Request:
        return Request(image.path, self.settings.prompt, self.settings.max_new_tokens)
