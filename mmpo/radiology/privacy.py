"""Reports under a data agreement go to no server that is not on this machine."""

from __future__ import annotations

from urllib.parse import urlparse

from mmpo.chat.settings import ChatSettings
from mmpo.errors import UserError

LOOPBACK = ("localhost", "127.0.0.1", "::1")


def check_endpoint(chat: ChatSettings | None, credentialed: bool) -> None:
    """UserError where credentialed text would leave this machine for the text model `chat`."""
    if not credentialed or chat is None or chat.backend != "server":
        return
    if urlparse(chat.base_url or "").hostname not in LOOPBACK:
        raise UserError(
            f"these reports are credentialed, and the server {chat.base_url} is not on this machine",
            hint="use rules, a local model or a server on this machine; see docs/radiology.md",
        )
