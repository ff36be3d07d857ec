"""Claims as a benchmark: every image is described (for CHAIR too), and what is claimed is compared with the marks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mmpo.data.annotations.records import AnnotatedImage
from mmpo.eval.chair import metrics as chair
from mmpo.eval.chair.settings import ChairSettings
from mmpo.eval.claims import metrics as claims
from mmpo.eval.claims.settings import ClaimsSettings
from mmpo.eval.protocol import Part, Request, Response, cut_off, require_annotations
from mmpo.eval.task import Context, QuestionTask, benchmark


@benchmark("claims", settings=ClaimsSettings, needs="annotated images")
class Claims(QuestionTask[ClaimsSettings, AnnotatedImage]):
    """Wrong claims in free descriptions of every image, overall and by kind."""

    def __init__(self, settings: ClaimsSettings, context: Context) -> None:
        super().__init__(settings, context)
        self.annotated, described = require_annotations(context.annotated, "claims"), context.section(ChairSettings)
        self.prompt = self.settings.prompt or described.prompt
        self.max_new_tokens = self.settings.max_new_tokens or described.max_new_tokens
        self.questions, vocabulary = self.annotated.images, self.annotated.vocabulary
        self.truth = claims.truths(self.annotated.images, self.annotated.truth, vocabulary)
        self.conventions = [
            f"CLAIMS: {len(self.annotated.images)} images, prompt {self.prompt!r}, greedy, at most "
            f"{self.max_new_tokens} tokens; vocabulary {described.vocabulary} ({len(vocabulary)} objects), "
            f"{chair.phrases(vocabulary)}; {how_read(exhaustive=self.settings.exhaustive)}"
        ]

    def parts(self, given: Sequence[tuple[AnnotatedImage, Response]]) -> list[Part]:
        result = self.result(given)
        whole = Part(None, result.overall, len(given), cut_off(given), unparsed=result.silent, total=True)
        return [whole, *(Part(kind, tally, result.texts(kind), 0, view=True) for kind, tally in result.by_kind.items())]

    def write(self, folder: Path, responses: Mapping[str, Mapping[Request, Response]]) -> None:
        for state, given in responses.items():
            claims.write_rows(folder / f"claims_{state}.jsonl", self.result(self.answered(given)))

    def result(self, given: Sequence[tuple[AnnotatedImage, Response]]) -> claims.ClaimsResult:
        """The descriptions, judged one by one."""
        captions = {image.path: response.text for image, response in given}
        return claims.score(captions, self.truth, self.annotated.vocabulary, exhaustive=self.settings.exhaustive)

    def request(self, image: AnnotatedImage) -> Request:
        return Request(image.path, self.prompt, self.max_new_tokens)


def how_read(*, exhaustive: bool) -> str:
    """The rules by which descriptions are read, in words for the reader of a result."""
    numbers = "every number is exact" if exhaustive else "a number is exact where a sentence lists what is there"
    return f"claims are read by rules, {numbers}; `repeats`: of the objects brought in, those beyond what the image has"
