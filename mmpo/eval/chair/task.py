"""CHAIR as a benchmark: every image is described, and the descriptions are checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mmpo.data.annotations.records import AnnotatedImage
from mmpo.eval.chair import metrics as chair
from mmpo.eval.protocol import Ask, Material, Part, Reply, needed
from mmpo.eval.settings import EvalSettings
from mmpo.text.object_words import object_reader


class ChairBenchmark:
    """CHAIR on free descriptions of every image."""

    def __init__(self, material: Material | None, settings: EvalSettings) -> None:
        self.material, self.settings = needed(material, "chair"), settings.chair
        vocabulary = self.material.vocabulary
        self.conventions = [
            f"CHAIR: {len(self.material.images)} images, prompt {self.settings.prompt!r}, greedy, "
            f"at most {self.settings.max_new_tokens} tokens; "
            f"vocabulary {self.settings.vocabulary} ({len(vocabulary)} objects), {chair.phrases(vocabulary)}; "
            f"word forms {object_reader(self.settings.words, vocabulary).identity}",
            *self.material.notes,
        ]

    def asks(self) -> list[Ask]:
        return [self._ask(image) for image in self.material.images]

    def score(self, replies: Mapping[Ask, Reply]) -> list[Part]:
        given = {image.path: replies[self._ask(image)] for image in self.material.images}
        result = self._result(given)
        return [Part(None, result.tally, len(given), sum(reply.truncated for reply in given.values()))]

    def write(self, folder: Path, replies: Mapping[str, Mapping[Ask, Reply]]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for state, given in replies.items():
            result = self._result({image.path: given[self._ask(image)] for image in self.material.images})
            chair.write_rows(folder / f"sentences_{state}.jsonl", result)

    def _result(self, given: Mapping[str, Reply]) -> chair.ChairResult:
        captions = {image: reply.text for image, reply in given.items()}
        return chair.score(captions, self.material.truth, self.material.vocabulary, words=self.settings.words)

    def _ask(self, image: AnnotatedImage) -> Ask:
        return Ask(image.path, self.settings.prompt, self.settings.max_new_tokens)
