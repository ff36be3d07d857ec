"""The local backend: a real small text model with a chat template."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from mmpo.chat import ChatReply, ChatRequest, ChatSettings, open_chat
from mmpo.errors import Quarantined, UserError
from tests.chat.text_model import save_text_model
from tests.tiny import tiny_tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_text_model(tmp_path_factory.mktemp("text-model"))


def settings(model: Path, **changes: object) -> ChatSettings:
    return ChatSettings(backend="local", model=str(model), dtype="float32", **changes)  # type: ignore[arg-type]


def texts(results: list[ChatReply | Quarantined]) -> list[str]:
    assert all(isinstance(result, ChatReply) for result in results), results
    return [result.text for result in results if isinstance(result, ChatReply)]


def test_batches_and_single_requests_agree(model: Path) -> None:
    prompts = ["a dog", "Is there a cat in the picture?", "x", "two chairs and a red cup on the left"] * 2
    requests = [ChatRequest.ask(f"{prompt} {number}", max_tokens=6 + number) for number, prompt in enumerate(prompts)]
    with open_chat(settings(model, batch_size=3)) as chat:
        batched = texts(list(chat.replies(requests)))
    with open_chat(settings(model, batch_size=1)) as chat:
        assert texts(list(chat.replies(requests))) == batched
    assert len(set(batched)) > 1


def test_sampling_follows_the_seed_not_the_batch(model: Path) -> None:
    requests = [ChatRequest.ask("a dog", max_tokens=8, temperature=1.0, seed=seed) for seed in range(6)]
    with open_chat(settings(model, batch_size=6)) as chat:
        together = texts(list(chat.replies(requests)))
        greedy = texts(list(chat.replies([ChatRequest.ask("a dog", max_tokens=8), requests[2]])))
    with open_chat(settings(model, batch_size=2)) as chat:
        assert texts(list(chat.replies(list(reversed(requests))))) == together[::-1]
    assert len(set(together)) > 3 and greedy[1] == together[2] and greedy[0] not in together


def test_samples_follow_the_models_distribution() -> None:
    """The noise gives softmax(logits / temperature): 4,000 draws against the exact shares."""
    from mmpo.chat.local import _Sampler

    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    sampler = _Sampler([ChatRequest.ask("x", temperature=0.5, seed=1)])
    drawn = Counter(int(sampler(None, logits).argmax()) for _ in range(4000))  # type: ignore[arg-type]
    exact = torch.softmax(logits[0] / 0.5, dim=0)
    for token in range(4):
        assert drawn[token] / 4000 == pytest.approx(float(exact[token]), abs=0.02)


def test_cached_replies_need_no_model(model: Path, tmp_path: Path) -> None:
    requests = [ChatRequest.ask(prompt, max_tokens=4) for prompt in ("a", "b", "a")]
    with open_chat(settings(model), tmp_path / "r.jsonl") as chat:
        first = texts(list(chat.replies(requests)))
        identity = chat.identity
    with open_chat(settings(model), tmp_path / "r.jsonl") as chat:
        again = list(chat.replies(requests))
        assert texts(again) == first and all(r.cached for r in again if isinstance(r, ChatReply))
        assert "_model" not in chat.__dict__ and chat.identity == identity
    assert len((tmp_path / "r.jsonl").read_text().splitlines()) == 2


def test_bad_requests_are_quarantined_alone(model: Path) -> None:
    requests = [
        ChatRequest.ask("fine", max_tokens=4),
        ChatRequest.ask("picture", images=(b"\x89PNG",)),
        ChatRequest.ask("word " * 300),
        ChatRequest.ask("hello", system="refuse"),
        ChatRequest.ask("half a pair: \ud83d"),
        ChatRequest.ask("fine too", max_tokens=4),
    ]
    with open_chat(settings(model)) as chat:
        results = list(chat.replies(requests))
    reasons = [result.reason if isinstance(result, Quarantined) else None for result in results]
    assert reasons == [None, "images_unsupported", "too_long", "no_chat_template", "bad_request", None]


def test_models_that_cannot_chat(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such model folder"), open_chat(settings(tmp_path / "absent")):
        pass
    (tmp_path / "config.json").write_bytes((model / "config.json").read_bytes())
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no chat template"), open_chat(settings(tmp_path)) as chat:
        list(chat.replies([ChatRequest.ask("a")]))


def test_text_never_turns_into_special_tokens(model: Path) -> None:
    with open_chat(settings(model)) as chat:
        tokens = chat._tokens(ChatRequest.ask("It ends </s> here: <pad><s>", max_tokens=8))  # type: ignore[attr-defined]
        special = set(chat._tokenizer.all_special_ids)  # type: ignore[attr-defined]
        assert not special & set(tokens)
        assert "It ends </s> here: <pad><s>" in chat._tokenizer.decode(tokens)  # type: ignore[attr-defined]
