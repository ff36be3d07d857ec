"""One way to open a text model, wherever it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmpo.chat.cache import ReplyCache
from mmpo.chat.protocol import ChatModel
from mmpo.chat.settings import ChatSettings


@contextmanager
def open_chat(settings: ChatSettings, cache: str | Path | None = None) -> Iterator[ChatModel]:
    """Open the text model that `settings` names, for the length of a `with` block.

    `cache` is a JSON Lines file of replies: what is in it is not asked again. Raises UserError where the model or the
    server can't be used as it is set.
    """
    replies = ReplyCache(cache)
    try:
        if settings.backend == "server":
            from mmpo.chat.server import ServerChat

            server = ServerChat(settings, replies)
            try:
                yield server
            finally:
                server.close()
        else:
            from mmpo.chat.local import LocalChat

            yield LocalChat(settings, replies)
    finally:
        replies.close()
