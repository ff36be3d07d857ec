"""The end of a row before the model ends it: behind its first sentence, seen on the decoded text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from transformers import StoppingCriteria

from mmpo.models.families.loading import VLM
from mmpo.models.families.processing import processor_facts
from mmpo.text.claims import first_sentence_end

Stop: TypeAlias = Literal["sentence"]


class SentenceStop:
    """Stops a row as soon as its own tokens hold a whole sentence (`first_sentence_end`). It reads nothing but that
    row, so a row ends at the same token alone and in any batch. Nothing is decoded before a token with a mark came."""

    def __init__(self, vlm: VLM) -> None:
        self._tokenizer = vlm.tokenizer
        facts = processor_facts(vlm)
        if "sentence_marks" not in facts:
            pieces = vlm.tokenizer.batch_decode([[index] for index in range(len(vlm.tokenizer))])
            facts["sentence_marks"] = frozenset(i for i, piece in enumerate(pieces) if set(".!?\n") & set(piece))
        self._marks: frozenset[int] = facts["sentence_marks"]

    def ended(self, token_ids: Sequence[int]) -> bool:
        """True if the generated tokens hold a whole sentence."""
        if self._marks.isdisjoint(token_ids):
            return False
        text = self._tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return first_sentence_end(text) is not None


class StopInGenerate(StoppingCriteria):
    """The same inside `model.generate` for one prompt of `prompt` tokens."""

    def __init__(self, stop: SentenceStop, prompt: int) -> None:
        self.stop, self.prompt = stop, prompt

    def __call__(self, input_ids: Tensor, scores: Tensor, **options: Any) -> Tensor:
        own = [row[self.prompt :].tolist() for row in input_ids]
        return torch.tensor([self.stop.ended(row) for row in own], device=input_ids.device)
