"""`transformers serve`, a real server with a real (tiny) model, gives the replies of the local backend."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmpo.chat import ChatReply, ChatRequest, ChatSettings, open_chat
from tests.chat.served import serving, settings_for
from tests.chat.text_model import save_text_model

pytestmark = pytest.mark.slow


def test_server_and_local_model_agree(tmp_path: Path) -> None:
    model = save_text_model(tmp_path / "model")
    requests = [ChatRequest.ask(f"Is there a cat, number {number}?", max_tokens=8) for number in range(6)]
    with open_chat(ChatSettings(backend="local", model=str(model), dtype="float32")) as chat:
        expected = [reply.text if isinstance(reply, ChatReply) else reply for reply in chat.replies(requests)]
    with serving(model, tmp_path / "serve.log") as url, open_chat(settings_for(model, url)) as chat:
        served = list(chat.replies(requests))
    assert [reply.text.strip() if isinstance(reply, ChatReply) else reply for reply in served] == expected
    assert len(set(expected)) > 1
