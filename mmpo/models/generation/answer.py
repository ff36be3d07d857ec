"""The answering engine: questions about images in, answers out, with everything that questions share computed once.

    engine = AnswerEngine(vlm, max_new_tokens=16)
    for answer in engine.answer([("kitchen.jpg", ["Is there a dog in the image?", "Is there a cup in the image?"])]):
        print(answer.text, answer.p_yes)

Before and after tuning in one model load: `engine.before_after(groups)`, or `with engine.adapter_off(): …` around a
call. Answers are those of `model.generate(do_sample=False)` on one question at a time. The first batch proves it: a few
questions are asked again with nothing shared, and on a difference that is no near-tie the engine warns and works one
by one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import tee
from pathlib import Path

import torch
from peft import PeftModel

from mmpo.errors import Quarantined, UserError
from mmpo.models.families.interleaved import interleaved
from mmpo.models.families.loading import VLM
from mmpo.models.families.prompts import begun_tokens
from mmpo.models.generation.asking import (
    Asked,
    ImageCache,
    Images,
    ImageSource,
    Prompt,
    Question,
    ShownImages,
    begun_of,
    flat,
    group_by_image,
    text_key,
)
from mmpo.models.generation.choosing import Chooser, Greedy, TokenSampler, stream_seed
from mmpo.models.generation.continuing import Bounds, Continuer, PromptRow, Sharing
from mmpo.models.generation.generate import Continuation
from mmpo.models.generation.probe import ProbeSpec
from mmpo.models.generation.self_check import SelfCheck
from mmpo.models.generation.stopping import SentenceStop, Stop
from mmpo.text.claims import first_sentence_end

__all__ = [
    "Answer",
    "AnswerEngine",
    "AnswerWithAttention",
    "Asked",
    "ImageSource",
    "Images",
    "Prompt",
    "Question",
    "group_by_image",
]


@dataclass(frozen=True)
class Answer:
    """The model's answer to one question. `token_ids` are the new tokens, with the end token unless `truncated`
    (stopped by the limit) or `stopped` (behind the first sentence, where that was asked for; the tokens go to the one
    that showed its end, `text` to its mark). Where the prompt ends with an answer begun, `text` is what follows that,
    with the space before it.

    `p_yes` is the first step's probability of yes against no over all single-token spellings, `yes_logit` and
    `no_logit` the log-sum-exps in it; None where the vocabulary has no such tokens. `margin` is the smallest lead
    of a chosen token over the runner-up: answers with a tiny one are near-ties that another precision or batch may
    turn. `failed`: why there is none, where a server should have given it; the text is empty then.
    """

    id: str
    text: str
    token_ids: tuple[int, ...]
    truncated: bool
    margin: float
    p_yes: float | None = None
    yes_logit: float | None = None
    no_logit: float | None = None
    stopped: bool = False
    failed: str = ""


@dataclass(frozen=True)
class AnswerWithAttention:
    """An answer, and where the model looked: `attention` [layers, image tokens of all images], the mean over the
    answer's rows (None where no row is watched); `top`, the largest log-prob of each step; `shown`, the processed
    images."""

    answer: Answer
    attention: torch.Tensor | None
    top: tuple[float, ...]
    shown: ShownImages


class AnswerEngine:
    """Answers, samples and descriptions from one model, sharing image and prompt work.

    `token_budget` bounds the tokens that are in memory together (image, question and answer tokens of one batch).
    `sharing`: "auto" checks itself and falls back loudly, "on" insists (no check, an error where the model can't),
    "off" runs the model's own `generate` one by one. `image_root` confines image paths to a folder. `check` is the
    number of questions that the self-check asks twice; `checks` holds what it found, `unshared_reason` why sharing is
    off (empty while it is on); `repeats` says that questions then continue copies of their image's cache, rather than
    being asked one by one. Nothing of the model is changed for good: training mode and attention come back.
    """

    def __init__(
        self,
        vlm: VLM,
        *,
        max_new_tokens: int = 16,
        token_budget: int = 8192,
        sharing: Sharing = "auto",
        image_root: str | Path | None = None,
        check: int = 3,
    ) -> None:
        if max_new_tokens < 1:
            raise UserError(f"max_new_tokens must be at least 1, not {max_new_tokens}")
        self.vlm = vlm
        self.max_new_tokens = max_new_tokens
        self.token_budget = token_budget
        self._off = False
        self._gallery = ImageCache(vlm, image_root)
        self._continuer = Continuer(vlm, sharing, check)

    @property
    def checks(self) -> list[SelfCheck]:
        return self._continuer.checks

    @property
    def unshared_reason(self) -> str:
        return self._continuer.unshared_reason

    @property
    def log_probs(self) -> bool:
        return True

    def prompt_of(self, text: str) -> Prompt:
        """A text with tags `<image>` as a prompt that shows the images there."""
        return interleaved(self.vlm, text)

    @property
    def repeats(self) -> bool:
        return self._continuer.repeats

    def answer(
        self,
        asked: Asked,
        *,
        max_new_tokens: int | None = None,
        on_quarantine: Callable[[str, Quarantined], None] | None = None,
        known: Callable[[str], bool] | None = None,
        stop: Stop | None = None,
    ) -> Iterator[Answer]:
        """Greedy answers, in the order of the questions. `stop="sentence"` ends each behind its first sentence.

        `asked` holds `Question`s, or `(image, questions)` groups whose questions may be plain texts (their ids are "0",
        "1", … in order). Bring the questions about one image together (`group_by_image`): they are then answered
        together. A question that was asked about the same image before is not asked again. An image that can't be used
        raises `Quarantined`; with `on_quarantine(question_id, reason)` its questions are reported there and skipped.

        `known(question_id)` says that an answer is there already: it is not given again. A batch is formed of all
        questions and only left out where every answer is known, so that the others are computed in the same batch,
        and are the same to the last digit, as if all were asked.
        """
        bounds = self._bounds(max_new_tokens, stop=stop)
        return self._answers(asked, bounds, on_quarantine, self._off, known)

    def before_after(
        self,
        asked: Asked,
        *,
        max_new_tokens: int | None = None,
        on_quarantine: Callable[[str, Quarantined], None] | None = None,
    ) -> Iterator[tuple[Answer, Answer]]:
        """Each question's answer with the adapter off and with it on."""
        first, second = tee(asked)
        with self.adapter_off():
            before = self.answer(first, max_new_tokens=max_new_tokens, on_quarantine=on_quarantine)
        silent = None if on_quarantine is None else (lambda _id, _reason: None)  # reported once, by the first
        after = self.answer(second, max_new_tokens=max_new_tokens, on_quarantine=silent)
        return zip(before, after, strict=True)

    def describe(
        self,
        images: Iterable[Images],
        prompt: Prompt,
        *,
        batch_size: int | None = None,
        max_new_tokens: int | None = None,
    ) -> Iterator[str]:
        """Greedy descriptions of many images, batched (`batch_size` images at a time, else by the token budget).

        For the `truncated` flag or for quarantine use `answer` with one question an image; the texts are the same.
        """
        rows = (self._row(prompt, shown, None) for shown in map(self._gallery.show, images))
        stream = self._continuer.stream(rows, _greedy, self._bounds(max_new_tokens, batch_size), self._off)
        return (self._text(c, row.begun) for row, c in stream)

    def samples(
        self,
        image: Images,
        prompt: Prompt,
        k: int,
        *,
        temperature: float = 1.0,
        top_p: float = 1.0,
        seed: int = 0,
        max_new_tokens: int | None = None,
        stop: Stop | None = None,
    ) -> list[str]:
        """`k` sampled responses from one prefill. See `sample_many`."""
        many = self.sample_many(
            [(image, prompt)],
            k,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            max_new_tokens=max_new_tokens,
            stop=stop,
        )
        return [answer.text for answer in next(many)]

    def sample_many(
        self,
        prompts: Iterable[tuple[Images, Prompt]],
        k: int,
        *,
        temperature: float = 1.0,
        top_p: float = 1.0,
        seed: int = 0,
        max_new_tokens: int | None = None,
        greedy_first: bool = False,
        stop: Stop | None = None,
    ) -> Iterator[list[Answer]]:
        """`k` sampled responses for each (image, prompt), batched over prompts. `stop="sentence"` ends each behind its
        first sentence.

        Sample j is a function of (seed, pixels, prompt, j): it stays the same whatever `k`, the batch and the other
        prompts are. The model's full vocabulary is sampled from, cut by nothing but `top_p`. With `greedy_first` the
        greedy response comes before the samples, from the same prefill; `k` may then be 0.
        """
        if k < (0 if greedy_first else 1):
            raise UserError(f"k must be at least 1, not {k}")
        TokenSampler([], temperature=temperature, top_p=top_p)  # complain about settings now, not at the first batch
        bounds = self._bounds(max_new_tokens, stop=stop)
        return self._samples(prompts, k, temperature, top_p, seed, bounds, self._off, greedy_first)

    def watched(
        self, prompts: Iterable[tuple[Images, Prompt]], probe: ProbeSpec, *, max_new_tokens: int | None = None
    ) -> Iterator[AnswerWithAttention]:
        """Greedy answers with the attention of their rows onto the image tokens, from the same pass. One for each
        (images, prompt), in order; an image that can't be used raises `Quarantined`."""
        probe = probe.resolved(self.vlm)
        rows = (
            self._row(prompt, shown, str(number))
            for number, (images, prompt) in enumerate(prompts)
            for shown in [self._gallery.show(images)]
        )
        for row, c in self._continuer.stream(rows, _greedy, self._bounds(max_new_tokens), self._off, probe):
            yield AnswerWithAttention(self._answer(str(row.tag), c, row.begun), c.attention, tuple(c.top), row.shown)

    @contextmanager
    def adapter_off(self) -> Iterator[None]:
        """Calls made in this block answer with the model as it was before tuning, even if they are read later."""
        if not isinstance(self.vlm.model, PeftModel):
            raise UserError(f"{self.vlm.source}: there is no adapter to switch off", hint="load it with `adapter=`")
        before, self._off = self._off, True
        try:
            yield
        finally:
            self._off = before

    def _answers(
        self,
        asked: Asked,
        bounds: Bounds,
        on_quarantine: Callable[[str, Quarantined], None] | None,
        off: bool,
        known: Callable[[str], bool] | None = None,
    ) -> Iterator[Answer]:
        made: dict[Hashable, tuple[Continuation, str]] = {}
        queued: set[Hashable] = set()
        wanted: set[Hashable] = set()  # tags of which an answer is not known
        left_out: set[Hashable] = set()
        waiting: deque[tuple[str, Hashable]] = deque()

        def rows() -> Iterator[PromptRow]:
            for question, pictures in flat(asked):
                try:
                    shown = self._gallery.show(pictures)
                except Quarantined as reason:
                    if on_quarantine is None:
                        raise
                    on_quarantine(question.id, reason)
                    continue
                tag = (shown.digest, text_key(question.text))
                if known is None or not known(question.id):
                    waiting.append((question.id, tag))
                    wanted.add(tag)
                    if tag in left_out:  # equal pixels in another file, lost between the two
                        left_out.discard(tag)
                        queued.discard(tag)
                if tag not in queued:
                    queued.add(tag)
                    yield self._row(question.text, shown, tag)

        def left(batch: Sequence[PromptRow]) -> bool:
            if any(row.tag in wanted for row in batch):
                return False
            left_out.update(row.tag for row in batch)
            return True

        for row, continuation in self._continuer.stream(rows(), _greedy, bounds, off, None, left if known else None):
            made[row.tag] = continuation, row.begun
            while waiting and waiting[0][1] in made:
                id, tag = waiting.popleft()
                yield self._answer(id, *made[tag])
        for id, tag in waiting:
            yield self._answer(id, *made[tag])

    def _samples(
        self,
        prompts: Iterable[tuple[Images, Prompt]],
        k: int,
        temperature: float,
        top_p: float,
        seed: int,
        bounds: Bounds,
        off: bool,
        greedy_first: bool,
    ) -> Iterator[list[Answer]]:
        def rows() -> Iterator[PromptRow]:
            for images, prompt in prompts:
                shown = self._gallery.show(images)
                row = self._row(prompt, shown, "greedy")
                if greedy_first:
                    yield row
                for j in range(k):
                    yield replace(row, tag=j, seed=stream_seed(seed, shown.digest, row.prompt, j))

        def chooser(batch: Sequence[PromptRow]) -> Chooser:
            return TokenSampler([row.seed for row in batch], temperature=temperature, top_p=top_p)

        done: list[Answer] = []
        for row, continuation in self._continuer.stream(rows(), chooser, bounds, off):
            done.append(self._answer(str(row.tag), continuation, row.begun))
            if len(done) == k + greedy_first:
                yield done
                done = []

    def _row(self, prompt: Prompt, shown: ShownImages, tag: Hashable) -> PromptRow:
        return PromptRow(shown, self._gallery.encode(prompt, shown), tag, None, begun_of(prompt))

    def _bounds(self, limit: int | None, rows: int | None = None, stop: Stop | None = None) -> Bounds:
        if stop not in (None, "sentence"):
            raise UserError(f"stop={stop!r}", hint='"sentence", or nothing')
        return Bounds(limit or self.max_new_tokens, self.token_budget, rows, SentenceStop(self.vlm) if stop else None)

    def _text(self, continuation: Continuation, begun: str = "") -> str:
        """The text of the new tokens; behind an answer begun, what to append to that for the whole answer."""
        new = continuation.token_ids
        decode = partial(self.vlm.tokenizer.decode, skip_special_tokens=True)
        text: str = decode(new)
        if begun:
            own = begun_tokens(self.vlm, begun)
            head, whole = (decode(ids, clean_up_tokenization_spaces=False) for ids in (own, [*own, *new]))
            text = whole[len(head) :] if whole.startswith(head) else text
            text = text.lstrip(" \t") if begun[-1] in " \t" else text
        if continuation.stopped:
            text = text[: first_sentence_end(text)]
        return text.rstrip() if begun else text.strip()

    def _answer(self, id: str, continuation: Continuation, begun: str = "") -> Answer:
        c = continuation
        yes, no = c.first if c.first is not None else (None, None)
        p_yes = None if yes is None or no is None else float(torch.sigmoid(torch.tensor(yes - no, dtype=torch.float64)))
        ids, text = tuple(c.token_ids), self._text(c, begun)
        return Answer(id, text, ids, c.truncated, c.margin, p_yes, yes, no, c.stopped)


def _greedy(batch: Sequence[PromptRow]) -> Chooser:
    return Greedy()
