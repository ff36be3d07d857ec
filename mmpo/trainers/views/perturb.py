"""The question with its visual-agnostic words changed, token for token: TARS (arXiv 2507.21584), section 2.2."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mmpo.errors import UserError
from mmpo.models.families.loading import VLM
from mmpo.trainers.collate import EncodedPair
from mmpo.trainers.views.relevance import RelevanceTable, visual_agnostic


class Perturber:
    """The question with its visual-agnostic words changed, token for token: TARS (arXiv 2507.21584), section 2.2.

    `mask` puts the tokenizer's mask token (else its unknown token, else an underscore) in their place, `replace`
    random tokens of the vocabulary, `synonyms` a synonym that takes as many tokens (a random one; words without stay).
    `relevant=False` takes as many random words instead, the paper's control. `unit: token` looks at every token of a
    word by itself.

    Candidate 0 changes all selected words, further ones a random part of them: other points of the set that the paper
    maximizes over. Where a single word is selected there is no part, and they take another of the less relevant half.
    """

    def __init__(
        self,
        vlm: VLM,
        table: RelevanceTable,
        *,
        mode: str = "mask",
        omega: float = 1e-3,
        cap: float = 1.0,
        relevant: bool = True,
        unit: Literal["word", "token"] = "word",
        synonyms: Callable[[str], Sequence[str]] | None = None,
    ) -> None:
        self.table, self.mode, self.omega, self.cap, self.relevant = table, mode, omega, cap, relevant
        self.unit = unit
        self._tokenizer = vlm.tokenizer
        self._mask = neutral_id(vlm)
        self._vocabulary = np.array(ordinary_ids(vlm))
        self._synonyms = synonyms
        if mode == "synonyms" and synonyms is None:
            raise UserError("perturbation by synonyms needs a list of synonyms", hint="set perturbation.lexicon")

    def __call__(self, row: EncodedPair, rng: np.random.Generator, candidate: int = 0) -> Tensor:
        words = self.words(row)
        chosen = self.select(row, rng)
        if candidate and len(chosen) > 1:
            kept = rng.integers(1, len(chosen))  # a proper part, never empty
            chosen = sorted(rng.choice(chosen, size=kept, replace=False).tolist())
        elif candidate and words:
            ranked = self._ranked(row)
            chosen = [int(rng.choice(ranked[: -(-len(ranked) // 2)]))]
        ids = row.prompt.long().clone()
        for number in chosen:
            word, places = words[number]
            new = self._instead(word, len(places), rng, ids[list(places)])
            ids[list(places)] = new
        return ids

    def words(self, row: EncodedPair) -> list[tuple[str, tuple[int, ...]]]:
        """The question's words, or the tokens of its words, with their places in the prompt."""
        if self.unit == "word":
            return list(row.words or ())
        ids = row.prompt.tolist()
        tokens = [(self._tokenizer.decode([ids[k]]).strip(), (k,)) for _, places in row.words or () for k in places]
        return [(text, places) for text, places in tokens if text]

    def _ranked(self, row: EncodedPair) -> list[int]:
        """Indices of the words, least relevant first."""
        cosines = self.table.relevance(row.images, [word for word, _ in self.words(row)])
        return sorted(range(len(cosines)), key=lambda i: (cosines[i], i))

    def select(self, row: EncodedPair, rng: np.random.Generator) -> list[int]:
        """Indices of the words of the pair's question that are changed."""
        words = [word for word, _ in self.words(row)]
        if not words:
            return []
        cosines = self.table.relevance(row.images, words)
        chosen = visual_agnostic(cosines, omega=self.omega, cap=self.cap)
        return chosen if self.relevant else rng.choice(len(words), size=len(chosen), replace=False).tolist()

    def _instead(self, word: str, count: int, rng: np.random.Generator, old: Tensor) -> Tensor:
        if self.mode == "mask":
            return torch.full((count,), self._mask)
        if self.mode == "replace":
            return torch.from_numpy(rng.choice(self._vocabulary, size=count))
        assert self._synonyms is not None
        fitting = [
            ids
            for synonym in self._synonyms(word)
            if len(ids := self._tokenizer(f" {synonym}", add_special_tokens=False).input_ids) == count
        ]
        return torch.tensor(fitting[int(rng.integers(len(fitting)))]) if fitting else old


def neutral_id(vlm: VLM) -> int:
    """Mask, unknown (unless it is the padding), else an underscore: never padding, which is not attended to."""
    tokenizer = vlm.tokenizer
    for found in (tokenizer.mask_token_id, tokenizer.unk_token_id):
        if found is not None and found != tokenizer.pad_token_id:
            return int(found)
    return int(tokenizer("_", add_special_tokens=False).input_ids[-1])


def ordinary_ids(vlm: VLM) -> list[int]:
    """The vocabulary without special and added tokens, and so without image placeholders."""
    special = set(vlm.tokenizer.all_special_ids) | set(vlm.tokenizer.added_tokens_decoder)
    return [i for i in range(len(vlm.tokenizer)) if i not in special]
