"""Text models that judge, write and extract, with one protocol: a server, a local model, or your own class.

    with open_chat(settings, cache=run_dir / "judge.jsonl") as chat:
        for reply in chat.replies(requests):
            ...  # a ChatReply or a Quarantined, in the order of the requests

Nothing leaves the machine unless the settings name a server.
"""

from mmpo.chat.opening import open_chat
from mmpo.chat.protocol import ChatModel, ChatReply, ChatRequest
from mmpo.chat.settings import ChatSettings

__all__ = ["ChatModel", "ChatReply", "ChatRequest", "ChatSettings", "open_chat"]
