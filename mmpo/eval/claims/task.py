"""Claims as a benchmark: every image is described (for CHAIR too), and what is claimed is compared with the marks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mmpo.data.annotations.records import AnnotatedImage
from mmpo.eval.chair import metrics as chair
from mmpo.eval.claims import metrics as claims
from mmpo.eval.protocol import Ask, Material, Part, Reply, needed
from mmpo.eval.settings import EvalSettings


class ClaimsBenchmark:
    """Wrong claims in free descriptions of every image, overall and by kind."""

    def __init__(self, material: Material | None, settings: EvalSettings) -> None:
        self.material, self.settings = needed(material, "claims"), settings.claims
        self.prompt = self.settings.prompt or settings.chair.prompt
        self.max_new_tokens = self.settings.max_new_tokens or settings.chair.max_new_tokens
        vocabulary = self.material.vocabulary
        self.truth = claims.truths(self.material.images, self.material.truth, vocabulary)
        self.conventions = [
            f"CLAIMS: {len(self.material.images)} images, prompt {self.prompt!r}, greedy, at most "
            f"{self.max_new_tokens} tokens; vocabulary {settings.chair.vocabulary} ({len(vocabulary)} objects), "
            f"{chair.phrases(vocabulary)}; {how_read(exhaustive=self.settings.exhaustive)}"
        ]

    def asks(self) -> list[Ask]:
        return [self._ask(image) for image in self.material.images]

    def score(self, replies: Mapping[Ask, Reply]) -> list[Part]:
        given = {image.path: replies[self._ask(image)] for image in self.material.images}
        result = self._result(given)
        truncated = sum(reply.truncated for reply in given.values())
        whole = Part(None, result.overall, len(given), truncated, unparsed=result.silent, total=True)
        return [whole, *(Part(kind, tally, result.texts(kind), 0, view=True) for kind, tally in result.by_kind.items())]

    def write(self, folder: Path, replies: Mapping[str, Mapping[Ask, Reply]]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for state, given in replies.items():
            result = self._result({image.path: given[self._ask(image)] for image in self.material.images})
            claims.write_rows(folder / f"claims_{state}.jsonl", result)

    def _result(self, given: Mapping[str, Reply]) -> claims.ClaimsResult:
        captions = {image: reply.text for image, reply in given.items()}
        return claims.score(captions, self.truth, self.material.vocabulary, exhaustive=self.settings.exhaustive)

    def _ask(self, image: AnnotatedImage) -> Ask:
        return Ask(image.path, self.prompt, self.max_new_tokens)


def how_read(*, exhaustive: bool) -> str:
    """How descriptions are read, in words for the reader of a result."""
    numbers = "every number is exact" if exhaustive else "a number is exact where a sentence lists what is there"
    return f"claims are read by rules, {numbers}; `repeats`: of the objects brought in, those beyond what the image has"
