"""Sample answers: what the policy says now, beside what the model said before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmpo.models.loading import VLM
from mmpo.trainers.collate import EncodedPair, pixel_tensors, prompt_ids
from mmpo.trainers.images import ImageStore
from mmpo.trainers.settings import SampleSettings


@dataclass(frozen=True)
class _Question:
    id: str
    prompt: str
    ids: Tensor
    images: tuple[str, ...]


class Sampler:
    """Answers a few fixed questions greedily. The base model's answers never change, so they are made once."""

    def __init__(self, vlm: VLM, store: ImageStore, pairs: Sequence[EncodedPair], settings: SampleSettings) -> None:
        self._vlm, self._store = vlm, store
        self._max_new_tokens = settings.max_new_tokens
        self._questions = [
            question for pair in pairs[: settings.n] for question in _questions(vlm, store, pair, settings.prompts)
        ]
        self._base: list[str] | None = None

    def __len__(self) -> int:
        return len(self._questions)

    def __call__(self) -> list[dict[str, str]]:
        """Rows `{"id", "prompt", "policy", "base"}`."""
        if self._base is None:
            with self._vlm.model.disable_adapter():
                self._base = [self._answer(question) for question in self._questions]
        return [
            {"id": question.id, "prompt": question.prompt, "policy": self._answer(question), "base": base}
            for question, base in zip(self._questions, self._base, strict=True)
        ]

    def _answer(self, question: _Question) -> str:
        model, tokenizer = self._vlm.model, self._vlm.tokenizer
        device = self._vlm.device
        pixels = {name: tensor.to(device) for name, tensor in pixel_tensors(self._store, question.images).items()}
        was_training = model.training
        model.eval()
        try:
            with torch.no_grad():
                ids = question.ids[None].to(device)
                out = model.generate(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    **pixels,
                    max_new_tokens=self._max_new_tokens,
                    do_sample=False,
                    eos_token_id=self._vlm.eos_id,
                    pad_token_id=self._vlm.pad_id,
                )
        finally:
            model.train(was_training)
        return tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip()


def _questions(vlm: VLM, store: ImageStore, pair: EncodedPair, prompts: Sequence[str] | None) -> list[_Question]:
    if prompts is None:
        words = [token for token in pair.prompt.tolist() if token != vlm.image_token_id]
        text = " ".join(vlm.tokenizer.decode(words, skip_special_tokens=True).split())
        return [_Question(pair.id, text, pair.prompt.long(), pair.images)]
    questions = []
    for prompt in prompts:
        content = [*({"type": "image"} for _ in pair.images), {"type": "text", "text": prompt}]
        ids = prompt_ids(vlm, store, [{"role": "user", "content": content}], pair.images)
        questions.append(_Question(pair.id, prompt, torch.tensor(ids), pair.images))
    return questions
