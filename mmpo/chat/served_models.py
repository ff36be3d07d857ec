"""The models of a server that answers in place of one in this process: opened, identified, and asked for a word."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from mmpo.chat.opening import open_chat
from mmpo.chat.protocol import ChatReply, ChatRequest
from mmpo.chat.server import ServerChat
from mmpo.chat.settings import SamplerSettings
from mmpo.errors import UserError

TOP = 20
"""Likeliest tokens that are asked for: the most that OpenAI's protocol has, and vLLM by default."""
_PROBE = "Is the sky blue? Please answer yes or no."


def open_models(sampler: SamplerSettings, stack: ExitStack, replies: Path | None = None) -> dict[str, ServerChat]:
    """A chat with each model that the settings name, by the server's name, pinned to what the server says of it now;
    closed with the stack. Raises `UserError` where the server does not answer."""
    chats: dict[str, ServerChat] = {}
    for name in sampler.names:
        chat = stack.enter_context(open_chat(sampler.chat(name), replies))
        assert isinstance(chat, ServerChat)
        chat.pin()
        chats[name] = chat
    return chats


def served_identity(sampler: SamplerSettings, name: str) -> str:
    """What decides an answer of the model that the server calls so: address and name, and what the server says of it.
    Raises `UserError` where it does not answer."""
    with ExitStack() as stack:
        return open_models(sampler.model_copy(update={"model": name, "adapter": None}), stack)[name].identity


def check_served(sampler: SamplerSettings) -> bool:
    """Ask the server for a word from each model that the settings name; True if log-probs come with it. Raises
    `UserError` where it does not answer, or does not know one of them."""
    with ExitStack() as stack:
        return all([gives_log_probs(chat) for chat in open_models(sampler, stack).values()])


def gives_log_probs(chat: ServerChat) -> bool:
    """Ask for a word; True if log-probs come with it. Raises `UserError` where none comes."""
    for top in (TOP, 0):
        reply = next(chat.replies([ChatRequest.ask(_PROBE, max_tokens=4, top_logprobs=top)]))
        if isinstance(reply, ChatReply):
            return bool(reply.tokens and reply.tokens[0].top)
        if reply.reason == "empty_reply":
            return False
        refused = reply
        if reply.reason not in ("bad_request", "not_found"):
            break
    known = ", ".join(sorted(row["id"] for row in chat.listed())[:8])
    raise UserError(
        f"{chat.identity}: the server gives no answer for this name ({refused.reason}: {refused.detail})",
        hint=f"it lists {known}" if known else "check the url (it usually ends in /v1) and the names",
    )
