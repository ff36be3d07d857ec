"""The score `similarity` of Sem-DPO (arXiv:2507.20133): the cosine of the embeddings of a pair's question and chosen
response."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mmpo.data.pair import PreferencePair, join_text

if TYPE_CHECKING:
    from mmpo.models.embedding import TextEmbedder

SCORE = "similarity"


@dataclass(frozen=True)
class SimilarityScorer:
    """Gives pairs the score. The question is the text of the prompt's messages, images left out."""

    embedder: TextEmbedder
    score: str = SCORE

    @property
    def recipe(self) -> dict[str, Any]:
        """How the score is made."""
        return {"builder": "similarities", "embedder": self.embedder.identity, "score": self.score}

    def __call__(self, pairs: Sequence[PreferencePair]) -> Iterator[PreferencePair]:
        """Each pair with its score, in order."""
        asked = self.embedder.embed([join_text(pair.prompt) for pair in pairs])
        told = self.embedder.embed([pair.chosen_text for pair in pairs])
        for pair, cosine in zip(pairs, (asked * told).sum(-1).tolist(), strict=True):
            yield replace(pair, scores={**(pair.scores or {}), self.score: cosine})
