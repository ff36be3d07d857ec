"""A text model in this process: transformers, its chat template, batches. No network, no remote code, no pickles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Sized
from contextlib import nullcontext
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LogitsProcessor, LogitsProcessorList

from mmpo.chat.cache import ReplyCache
from mmpo.chat.protocol import ChatReply, ChatRequest, request_key
from mmpo.chat.settings import ChatSettings
from mmpo.data.plain_text import PlainText
from mmpo.errors import Quarantined, UserError
from mmpo.files.fingerprints import folder_fingerprint, model_folder
from mmpo.progress import task

STAGE = "chat"
BATCHES_AHEAD = 8
"""Requests drawn ahead, in batches, so that prompts of similar length are computed together."""


class LocalChat:
    """A `ChatModel` in this process. Reasons of its `Quarantined`s: images_unsupported, no_chat_template (the template
    refuses the messages), bad_request, too_long, empty_reply.

    The model is loaded when the first reply is not in the cache.
    """

    def __init__(self, settings: ChatSettings, cache: ReplyCache) -> None:
        self.settings = settings
        self._cache = cache
        self._folder = model_folder(settings.model)

    @cached_property
    def identity(self) -> str:
        """Name and content fingerprint, with the number format."""
        return f"{Path(self.settings.model).name}:{folder_fingerprint(self._folder)[:16]}:{self.settings.dtype}"

    def replies(self, requests: Iterable[ChatRequest], label: str | None = None) -> Iterator[ChatReply | Quarantined]:
        """See `ChatModel.replies`. Equal requests of one batch window are computed once."""
        source = iter(requests)
        total = len(requests) if isinstance(requests, Sized) else None
        with task(label, total) if label else nullcontext() as running:
            while window := list(islice(source, self.settings.batch_size * BATCHES_AHEAD)):
                for result in self._window(window):
                    if running is not None:
                        running.advance()
                    yield result

    def _window(self, requests: Sequence[ChatRequest]) -> Iterator[ChatReply | Quarantined]:
        keys = [request_key(self.identity, request) for request in requests]
        results: dict[str, ChatReply | Quarantined] = {}
        prompts: dict[str, tuple[ChatRequest, list[int]]] = {}
        for key, request in zip(keys, requests, strict=True):
            if key in results or key in prompts:
                continue
            if (known := self._cache.get(key)) is not None:
                results[key] = known
                continue
            try:
                prompts[key] = (request, self._tokens(request))
            except Quarantined as failure:
                results[key] = failure
        by_length = sorted(prompts, key=lambda key: len(prompts[key][1]))
        for first in range(0, len(by_length), self.settings.batch_size):
            batch = by_length[first : first + self.settings.batch_size]
            for key, result in zip(batch, self._generate([prompts[key] for key in batch]), strict=True):
                results[key] = result
                if isinstance(result, ChatReply):
                    self._cache.put(key, self.identity, result)
        return (results[key] for key in keys)

    def _tokens(self, request: ChatRequest) -> list[int]:
        if request.images or not all(isinstance(content, str) for _, content in request.messages):
            raise Quarantined(STAGE, "images_unsupported", "a local text model sees no images; use a server")
        if request.n > 1 or request.top_p < 1 or request.top_logprobs:
            raise Quarantined(STAGE, "bad_request", "a local text model gives one sample, no top_p and no log-probs")
        from mmpo.chat.chat_template import render

        plain = self._plain_text
        messages = [{"role": role, "content": plain.hide(str(text))} for role, text in request.messages]
        tokenizer = self._tokenizer
        try:
            text = render(tokenizer, messages, source=self.settings.model, add_generation_prompt=True)
        except UserError:
            raise
        except Exception as error:  # templates raise what they like, e.g. where there may be no system message
            raise Quarantined(STAGE, "no_chat_template", str(error)[:200]) from None
        try:
            if not plain.has_marks(text):
                tokens = list(tokenizer(text, add_special_tokens=False)["input_ids"])
            elif tokenizer.is_fast:
                tokens = plain.encode(text).ids
            else:
                raise ValueError("the text holds a special token of this model, which has no fast tokenizer")
        except (UnicodeError, TypeError, ValueError) as error:  # half a surrogate pair, which UTF-8 can't hold
            raise Quarantined(STAGE, "bad_request", str(error)[:200]) from None
        limit = getattr(self._model.config, "max_position_embeddings", None)
        if limit is not None and len(tokens) + request.max_tokens > limit:
            raise Quarantined(STAGE, "too_long", f"{len(tokens)} + {request.max_tokens} tokens, the model has {limit}")
        return tokens

    @torch.inference_mode()
    def _generate(self, batch: Sequence[tuple[ChatRequest, list[int]]]) -> list[ChatReply | Quarantined]:
        width = max(len(tokens) for _, tokens in batch)
        pad = self._pad
        ids = torch.tensor([[pad] * (width - len(tokens)) + tokens for _, tokens in batch])
        mask = torch.tensor([[0] * (width - len(tokens)) + [1] * len(tokens) for _, tokens in batch])
        requests = [request for request, _ in batch]
        sampled = any(request.temperature > 0 for request in requests)
        out = self._model.generate(
            input_ids=ids.to(self._model.device),
            attention_mask=mask.to(self._model.device),
            max_new_tokens=max(request.max_tokens for request in requests),
            do_sample=False,
            num_beams=1,
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=pad,
            logits_processor=LogitsProcessorList([_Sampler(requests)] if sampled else []),
        )
        return [self._reply(row, request) for row, request in zip(out[:, width:].tolist(), requests, strict=True)]

    def _reply(self, tokens: list[int], request: ChatRequest) -> ChatReply | Quarantined:
        end = next((place for place, token in enumerate(tokens) if token in self._ends), len(tokens))
        truncated = end > request.max_tokens or (end == len(tokens) and len(tokens) >= request.max_tokens)
        kept = tokens[: min(end, request.max_tokens)]
        text = self._tokenizer.decode(kept, skip_special_tokens=True).strip()
        if not text:
            return Quarantined(STAGE, "empty_reply", f"{len(kept)} tokens, none of them text")
        return ChatReply(text, truncated, Path(self.settings.model).name, cached=False)

    @cached_property
    def _tokenizer(self) -> Any:
        try:
            tokenizer = AutoTokenizer.from_pretrained(self._folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise UserError(f"{self.settings.model}: no tokenizer can be loaded: {_first_line(error)}") from None
        if tokenizer.chat_template is None:
            raise UserError(
                f"{self.settings.model}: the tokenizer has no chat template", hint="use an instruction-tuned model"
            )
        return tokenizer

    @cached_property
    def _plain_text(self) -> PlainText:
        return PlainText(self._tokenizer)

    @cached_property
    def _model(self) -> Any:
        dtype = self.settings.dtype if self.settings.dtype == "auto" else getattr(torch, self.settings.dtype)
        try:
            model: Any = AutoModelForCausalLM.from_pretrained(
                self._folder, dtype=dtype, use_safetensors=True, local_files_only=True
            )
        except (OSError, ValueError) as error:
            raise UserError(
                f"{self.settings.model}: can't be loaded as a text model: {_first_line(error)}",
                hint="it needs a causal language model with safetensors weights",
            ) from None
        model.to("cuda" if torch.cuda.is_available() else "cpu")
        return model.eval()

    @cached_property
    def _ends(self) -> frozenset[int]:
        """Every token that ends a reply: chat models often have a second one besides the tokenizer's."""
        listed = self._model.generation_config.eos_token_id
        several = listed if isinstance(listed, list) else [listed]
        return frozenset(int(token) for token in [*several, self._tokenizer.eos_token_id] if token is not None)

    @property
    def _pad(self) -> int:
        pad = self._tokenizer.pad_token_id
        return int(pad) if pad is not None else min(self._ends, default=0)


class _Sampler(LogitsProcessor):
    """Sampling as an argmax: the largest of logits / temperature + Gumbel noise is a draw from the softmax (Gumbel
    1954). Each row has noise from its own seed, so a reply doesn't depend on who shares its batch.
    """

    def __init__(self, requests: Sequence[ChatRequest]) -> None:
        self._temperatures = [request.temperature for request in requests]
        self._sources = []
        for request in requests:
            source = torch.Generator()
            source.manual_seed(0 if request.seed is None else request.seed)
            self._sources.append(source)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        drawn = scores.float().clone()
        for row, (temperature, source) in enumerate(zip(self._temperatures, self._sources, strict=True)):
            if temperature > 0:
                noise = -torch.empty(scores.shape[-1]).exponential_(generator=source).log()
                drawn[row] = drawn[row] / temperature + noise.to(drawn.device)
        return drawn  # type: ignore[return-value]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
