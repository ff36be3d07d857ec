"""Chat completions as OpenAI-compatible servers write them: the body of a request, and what a reply says."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from typing import Any

from mmpo.chat.protocol import ChatReply, ChatRequest, Content, ReplyToken
from mmpo.chat.redact import Redactor
from mmpo.errors import Quarantined
from mmpo.outside import json_of

STAGE = "chat"
UNOFFICIAL = ("continue_final_message", "add_generation_prompt")
"""Fields of vLLM and SGLang that the OpenAI client does not know: they go on with an answer begun."""

_SIGNATURES = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif", b"RIFF": "webp"}


class Passing(Exception):
    """A fault that may be gone at the next try. `overloaded`: the server has too much to do."""

    def __init__(self, reason: str, detail: str, wait: float | None = None, *, overloaded: bool = False) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail, self.wait, self.overloaded = reason, detail, wait, overloaded


def body_of(request: ChatRequest, model: str) -> dict[str, Any]:
    """The fields of a request. Raises `Quarantined` for a picture that is none."""
    contents: list[tuple[str, Content]] = list(request.messages)
    if request.images:
        last = max(number for number, (role, _) in enumerate(contents) if role == "user")
        role, content = contents[last]
        contents[last] = role, (*request.images, *((content,) if isinstance(content, str) else content))
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": role, "content": _written(content)} for role, content in contents],
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
    }
    if contents[-1][0] == "assistant":
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    if request.top_p < 1:
        body["top_p"] = request.top_p
    if request.n > 1:
        body["n"] = request.n
    if request.top_logprobs:
        body |= {"logprobs": True, "top_logprobs": request.top_logprobs}
    return body if request.seed is None else {**body, "seed": request.seed}


def _written(content: Content) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return content
    return [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image_url", "image_url": {"url": _data_url(part)}}
        for part in content
    ]


def _data_url(image: bytes) -> str:
    kind = next((kind for start, kind in _SIGNATURES.items() if image.startswith(start)), None)
    if kind is None:
        raise Quarantined(STAGE, "not_an_image", "attach PNG, JPEG, WebP or GIF files")
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


class ReplyReader:
    """Reads what a server sends for `model`, whose name or one of `others` the reply must carry."""

    def __init__(self, model: str, others: Sequence[str], redact: Redactor) -> None:
        self._model, self._names, self._redact = model, {model, *others}, redact

    def line(self, value: object) -> str:
        """The first line of a message from a server or library, without the key and not too long."""
        lines = str(value)[:100_000].strip().splitlines()
        return self._redact.message(lines[0][:2000])[:200] if lines else type(value).__name__

    def read(self, text: str, n: int = 1) -> tuple[ChatReply, dict[str, int]]:
        """The reply with its `n` samples (or fewer, where the server gives no more), and the numbers of tokens. Raises
        `Quarantined`, or `Passing` for what is no chat completion."""
        try:
            data = json_of(text, halves=True)
            choices = list(data["choices"])
            model, counts = data.get("model"), data.get("usage")
            found = [(one["message"].get("content"), one["message"].get("refusal"), one) for one in choices[:n]]
            first = found[0][2].get("finish_reason")
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
            data = None
        if data is None:  # raised out here: the parser's error holds the whole text
            raise Passing("bad_reply", f"not a chat completion: {self.line(text)!r}")
        if not isinstance(model, str) or model not in self._names:
            raise Quarantined(
                STAGE,
                "wrong_model",
                f"asked for {self._model!r}, answered by {self.line(repr(model))}; name it in accept_models if it is "
                "meant",
            )
        for _, refusal, choice in found:
            if refusal or choice.get("finish_reason") == "content_filter":
                raise Quarantined(STAGE, "refused", self.line(refusal or "content filter"))
        replies = [self._choice(content, choice, model) for content, _, choice in found]
        if n == 1 and not replies[0].text.strip() and replies[0].tokens is None:
            raise Quarantined(STAGE, "empty_reply", f"finish_reason {self.line(repr(first))}")
        names = ("prompt_tokens", "completion_tokens")
        usage = {name: counts[name] for name in names if isinstance(counts, dict) and isinstance(counts.get(name), int)}
        head = replies[0]
        return ChatReply(head.text, head.truncated, model, False, head.tokens, tuple(replies[1:])), usage

    def _choice(self, content: Any, choice: Any, model: str) -> ChatReply:
        text = self._redact.data(content) if isinstance(content, str) else ""
        return ChatReply(text, choice.get("finish_reason") == "length", model, False, self._tokens(choice))

    def _tokens(self, choice: Any) -> tuple[ReplyToken, ...] | None:
        """None where there are no log-probs, or none that can be read."""
        try:
            rows = choice["logprobs"]["content"]
            return tuple(
                ReplyToken(*self._pair(row), tuple(self._pair(one) for one in row.get("top_logprobs") or ()))
                for row in rows
            )
        except (TypeError, KeyError, ValueError, AttributeError):
            return None

    def _pair(self, row: Any) -> tuple[str, float]:
        token, logp = row["token"], float(row["logprob"])
        if not isinstance(token, str) or math.isnan(logp):
            raise ValueError
        return self._redact.data(token), logp
