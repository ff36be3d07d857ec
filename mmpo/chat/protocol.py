"""The interface of every text model: requests in, replies out, in order."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from mmpo.chat.settings import ChatSettings
from mmpo.errors import Quarantined

ROLES = ("system", "user", "assistant")
Content: TypeAlias = str | tuple[str | bytes, ...]
"""A message's text; or its pieces in order, pictures among them as encoded files."""


@dataclass(frozen=True)
class ChatRequest:
    """One conversation to continue.

    `messages` are (role, content), where an assistant's at the end is an answer begun; `images` are encoded picture
    files, shown before the content of the last user message. The same request has the same reply, also in a later run
    with the same cache: to draw several samples, give each its `seed`, or ask for `n` at once. Temperature 0 is greedy.
    With `top_logprobs` each token comes with its log-prob and those of so many likeliest ones.
    """

    messages: tuple[tuple[str, Content], ...]
    images: tuple[bytes, ...] = ()
    max_tokens: int = 512
    temperature: float = 0.0
    seed: int | None = 0
    top_p: float = 1.0
    n: int = 1
    top_logprobs: int = 0

    def __post_init__(self) -> None:
        if not any(role == "user" for role, _ in self.messages):
            raise ValueError("a chat request needs a user message")
        unknown = next((role for role, _ in self.messages if role not in ROLES), None)
        if unknown is not None:
            raise ValueError(f"unknown role {unknown!r}; one of {', '.join(ROLES)}")
        if self.max_tokens < 1 or self.temperature < 0:
            raise ValueError("max_tokens must be at least 1 and temperature at least 0")

    @classmethod
    def ask(cls, text: str, system: str | None = None, **options: Any) -> ChatRequest:
        """One user message, with an optional system message; `options` are the other fields."""
        first = () if system is None else (("system", system),)
        return cls((*first, ("user", text)), **options)


@dataclass(frozen=True)
class ReplyToken:
    """A token of a reply, its log-prob in nats, and the likeliest tokens at its place with theirs."""

    text: str
    logp: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class ChatReply:
    """`truncated`: cut off at `max_tokens`. `model` is the name that answered; `cached`: read from disk, not asked.
    `tokens`: None where no log-probs came. `more`: the other samples of the request."""

    text: str
    truncated: bool
    model: str
    cached: bool
    tokens: tuple[ReplyToken, ...] | None = None
    more: tuple[ChatReply, ...] = ()


class ChatModel(Protocol):
    """A text model. `identity` names it exactly, for results and for the keys of cached replies."""

    settings: ChatSettings

    @property
    def identity(self) -> str: ...

    def replies(self, requests: Iterable[ChatRequest], label: str | None = None) -> Iterator[ChatReply | Quarantined]:
        """One result a request, in order; requests are drawn as needed. A request that fails becomes a `Quarantined`
        (yielded, not raised) and the others continue. With a `label` progress is reported under it.
        """


def request_key(identity: str, request: ChatRequest) -> str:
    """The key of a reply: a hash of everything that decides it."""
    parts: list[Any] = [
        identity,
        [[role, text if isinstance(text, str) else [*map(_named, text)]] for role, text in request.messages],
        [*map(_digest, request.images)],
        request.max_tokens,
        float(request.temperature),
        request.seed,
    ]
    more = {"top_p": request.top_p, "n": request.n, "top_logprobs": request.top_logprobs}
    usual = {"top_p": 1.0, "n": 1, "top_logprobs": 0}
    if more != usual:
        parts.append(more)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _named(part: str | bytes) -> Any:
    return part if isinstance(part, str) else {"sha256": _digest(part)}


def _digest(picture: bytes) -> str:
    return hashlib.sha256(picture).hexdigest()
