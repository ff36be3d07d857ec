"""What a model thinks of fixed texts, and how far it is from itself without its adapter, over the full vocabulary.

Texts and answers are plain rows, so nothing of the model is changed.

Shapes: n tokens of an answer, h hidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import takewhile

import torch
from PIL import Image
from torch import Tensor

from mmpo.errors import UserError
from mmpo.eval.drift.likelihood import k3
from mmpo.models.families.loading import VLM
from mmpo.models.families.prompts import encode_response
from mmpo.models.families.vision import encode_images
from mmpo.models.generation.answer import Answer, AnswerEngine, ImageSource
from mmpo.models.generation.asking import ImageCache, ShownImages
from mmpo.models.generation.generate import answering
from mmpo.models.scoring.divergence import token_kl
from mmpo.models.scoring.segment_logps import SegmentLogps, plain_rows, segment_logps
from mmpo.models.tree.layout import response_tree

GREY = Image.new("RGB", (224, 224), (128, 128, 128))
"""Shown where a family takes no prompt without a picture."""
TOGETHER = 10
"""Texts after one prompt that are a batch."""


@dataclass(frozen=True)
class TextLogp:
    """The summed log-prob of a text under one model, over so many tokens (the end token is none of them)."""

    logp: float
    tokens: int


@dataclass(frozen=True)
class AnswerDivergence:
    """An answer, and the tuned model against its base on it: the sums over so many `tokens` (the end token is one) of
    the divergence in nats over the full vocabulary, and of its k3 estimate from the answer's own tokens (None where
    that is no sample of the tuned model).
    """

    text: str
    kl: float
    k3: float | None
    tokens: int


@dataclass(frozen=True)
class ShownPrompt:
    """A prompt with the pictures that it shows, none or several."""

    prompt: str
    images: tuple[ImageSource, ...] = ()


class DriftScorer:
    """Scores texts and answers by `vlm`, a model with an adapter. Where the family takes no prompt without a picture
    `grey` is True, and such prompts are shown with a grey one. UserError where a log-prob is no finite number."""

    def __init__(self, vlm: VLM, *, token_budget: int) -> None:
        self.vlm = vlm
        self._engine = AnswerEngine(vlm, token_budget=token_budget)
        self._gallery = ImageCache(vlm, None)
        self.grey = not self._takes_plain_prompts()

    def texts(self, ask: ShownPrompt, texts: Sequence[str], *, base: bool) -> list[TextLogp]:
        """Of each text as the answer to the prompt, with the adapter off (`base`) or on."""
        found: list[TextLogp] = []
        ids = [encode_response(self.vlm, text, eos=False) for text in texts]
        with self._as(base):
            for start in range(0, len(ids), TOGETHER):
                batch = ids[start : start + TOGETHER]
                logps = _finite(self._run(self._shown(ask), ask.prompt, batch).logps)
                parts = logps.split([len(own) for own in batch])
                found += [TextLogp(float(part.sum()), len(part)) for part in parts]
        return found

    def forward_kl(self, asks: Sequence[ShownPrompt], *, max_new_tokens: int) -> list[AnswerDivergence]:
        """KL(base || tuned) on the base's greedy answers."""
        with self._engine.adapter_off():
            answers = self._engine.answer(
                [(self._images(ask), [ask.prompt]) for ask in asks], max_new_tokens=max_new_tokens
            )
            given = list(answers)
        return [self._divergence(ask, answer, forward=True) for ask, answer in zip(asks, given, strict=True)]

    def reverse_kl(self, asks: Sequence[ShownPrompt], *, max_new_tokens: int, seed: int) -> list[AnswerDivergence]:
        """KL(tuned || base) on a sample of the tuned model for each prompt (temperature 1, nothing cut)."""
        drawn = self._engine.sample_many(
            [(self._images(ask), ask.prompt) for ask in asks], 1, seed=seed, max_new_tokens=max_new_tokens
        )
        given = [answers[0] for answers in drawn]
        return [self._divergence(ask, answer, forward=False) for ask, answer in zip(asks, given, strict=True)]

    def _divergence(self, ask: ShownPrompt, answer: Answer, *, forward: bool) -> AnswerDivergence:
        # a placeholder that the model wrote itself would want an image: what follows it can't be scored
        ids = list(takewhile(lambda token: token not in self.vlm.visual_token_ids, answer.token_ids))
        if not ids:
            return AnswerDivergence(answer.text, 0.0, None if forward else 0.0, 0)
        shown = self._shown(ask)
        with self._as(True):
            base = self._run(shown, ask.prompt, [ids], states=True)
        with self._as(False):
            tuned = self._run(shown, ask.prompt, [ids], states=True)
        before, after = base.states, tuned.states
        assert before is not None and after is not None
        ours, theirs = (after, before) if forward else (before, after)  # KL(theirs || ours)
        with torch.no_grad():
            kl = token_kl(ours, theirs, self.vlm.head, softcap=self.vlm.softcap)
        logps = zip(_finite(base.logps).tolist(), _finite(tuned.logps).tolist(), strict=True)
        estimate = None if forward else sum(k3(b, t) for b, t in logps)
        return AnswerDivergence(answer.text, float(_finite(kl).sum()), estimate, len(ids))

    def _run(
        self, shown: ShownImages, prompt: str, answers: Sequence[list[int]], *, states: bool = False
    ) -> SegmentLogps:
        tensors = shown.processed.tensors
        tree = response_tree(self._gallery.encode(prompt, shown), answers, range(len(shown.kinds)))
        with torch.no_grad():
            features = encode_images(self.vlm, tensors, frozen=True)
            layout = plain_rows(self.vlm, [tree], tensors).to(self.vlm.device)
            return segment_logps(self.vlm, layout, features, states=states)

    @contextmanager
    def _as(self, base: bool) -> Iterator[None]:
        with answering(self.vlm.model), self.vlm.adapter_off() if base else nullcontext():
            yield

    def _images(self, ask: ShownPrompt) -> list[ImageSource]:
        return list(ask.images) or ([GREY] if self.grey else [])

    def _shown(self, ask: ShownPrompt) -> ShownImages:
        return self._gallery.show(self._images(ask))

    def _takes_plain_prompts(self) -> bool:
        self.grey = False
        try:
            with self._as(True):
                self._run(self._shown(ShownPrompt("Hello!")), "Hello!", [encode_response(self.vlm, "Hi.", eos=False)])
        except (UserError, ValueError, TypeError, AttributeError, RuntimeError):  # however a family's code says no
            return False
        return True


def _finite(numbers: Tensor) -> Tensor:
    if not bool(numbers.isfinite().all()):
        raise UserError("the model's log-probs are not finite", hint="are there NaN weights in the adapter?")
    return numbers.double()
