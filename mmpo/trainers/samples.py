"""Sample answers of the policy, each with the answer of the model before training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmpo.models.families.loading import VLM
from mmpo.models.generation.generate import PromptGroup, answering, generate_alone, generate_shared
from mmpo.models.generation.shared_cache import SharingUnsupported
from mmpo.models.sharded import is_sharded
from mmpo.trainers.collate import EncodedPair
from mmpo.trainers.images import ImageStore
from mmpo.trainers.media import pixel_tensors, prompt_ids
from mmpo.trainers.settings import SampleSettings


@dataclass(frozen=True)
class _Question:
    id: str
    prompt: str
    ids: list[int]
    images: tuple[str, ...]


class SampleQuestions:
    """Answers a few fixed questions greedily. The base model's answers never change, so they are made once."""

    def __init__(self, vlm: VLM, store: ImageStore, pairs: Sequence[EncodedPair], settings: SampleSettings) -> None:
        self._vlm, self._store = vlm, store
        self._max_new_tokens = settings.max_new_tokens
        one_per_image = list({pair.images: pair for pair in reversed(pairs)}.values())[::-1]
        self._questions = [
            question
            for pair in one_per_image[: settings.n]
            for question in _questions(vlm, store, pair, settings.prompts)
        ]
        self._base: list[str] | None = None

    def __len__(self) -> int:
        return len(self._questions)

    @property
    def sharded(self) -> bool:
        """True if answering would take all processes."""
        return is_sharded(self._vlm.model)

    def __call__(self) -> list[dict[str, str]]:
        """Rows `{"id", "prompt", "policy", "base"}`."""
        if self._base is None:
            with self._vlm.adapter_off():
                self._base = self._answers()
        return [
            {"id": question.id, "prompt": question.prompt, "policy": policy, "base": base}
            for question, policy, base in zip(self._questions, self._answers(), self._base, strict=True)
        ]

    def _answers(self) -> list[str]:
        groups = [
            PromptGroup([q.ids], pixel_tensors(self._store, self._store.shown(q.images)), len(q.images))
            for q in self._questions
        ]
        limit = self._max_new_tokens
        with answering(self._vlm.model):
            try:
                rows = [answers[0] for answers in generate_shared(self._vlm, groups, max_new_tokens=limit)]
            except SharingUnsupported:
                rows = [generate_alone(self._vlm, group, 0, max_new_tokens=limit)[0] for group in groups]
        texts: list[str] = [self._vlm.tokenizer.decode(row.token_ids, skip_special_tokens=True) for row in rows]
        return [text.strip() for text in texts]


def _questions(vlm: VLM, store: ImageStore, pair: EncodedPair, prompts: Sequence[str] | None) -> list[_Question]:
    if prompts is None:
        words = [token for token in pair.prompt.tolist() if token not in vlm.visual_token_ids]
        text = " ".join(vlm.tokenizer.decode(words, skip_special_tokens=True).split())
        return [_Question(pair.id, text, pair.prompt.tolist(), pair.images)]
    questions = []
    for prompt in prompts:
        content = [*({"type": store.kind(key)} for key in pair.images), {"type": "text", "text": prompt}]
        ids = prompt_ids(vlm, store, [{"role": "user", "content": content}], pair.images)
        questions.append(_Question(pair.id, prompt, ids, pair.images))
    return questions
