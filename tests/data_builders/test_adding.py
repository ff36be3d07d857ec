"""Pairs written again with scored sentences from a judge, and with similarities from an embedder."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel

from mmpo.data.reader import read_pairs
from mmpo.data.shards import PairWriter
from mmpo.errors import UserError
from mmpo.models.embedding import TextEmbedder
from mmpo.trainers.train import train
from tests.chat.server import ChatServer
from tests.cli.conftest import Invoke, here, mmpo
from tests.tiny import tiny_tokenizer
from tests.trainers.material import make_pairs, settings_for

__all__ = ["here", "mmpo"]

CHOSEN, REJECTED = "There is a dog.  It sleeps on\na mat.", "There are two dogs. No cat. A mat."


def write(folder: Path, n: int = 3, **changes: Any) -> Path:
    with PairWriter(folder, recipe={"test": 1}) as writer:
        for pair in make_pairs(n):
            chosen = [{"role": "assistant", "content": [{"type": "text", "text": CHOSEN}]}]
            rejected = [{"role": "assistant", "content": [{"type": "text", "text": f"{REJECTED} {pair.id}."}]}]
            writer.add(replace(pair, chosen=chosen, rejected=rejected, **changes))
    return folder


def lines(prompt: str, scores: str = "3 1") -> str:
    """A judge that gives sentence k the scores `scores`, the second one 0 0."""
    count = len(re.findall(r"(?m)^\d+: ", prompt.split("Reply with")[0]))
    told = "\n".join(f"{k}: {scores if k != 2 else ' '.join('0' for _ in scores.split())}" for k in range(1, count + 1))
    return f"<think>2: 4</think>\n{told}"


def judged(mmpo: Invoke, server: ChatServer, pairs: Path, out: Path, *words: str) -> Any:
    judge = ["backend=server", "model=scripted-1", f"base_url={server.url}", "first_wait=0", "retries=2"]
    return mmpo("build", "parts", pairs, "--out", out, *(w for one in judge for w in ("--judge", one)), *words)


def test_a_judge_scores_the_sentences_of_both_sides(mmpo: Invoke, tmp_path: Path) -> None:
    pairs, out = write(tmp_path / "pairs", scores={"judge": 2.0}), tmp_path / "out"
    with ChatServer(lines) as server:
        result = judged(mmpo, server, pairs, out, "--aspect", "truth", "--aspect", "detail")
        assert result.exit_code == 0, result.output
        asked = len(server.requests)
        assert asked == 6, "both sides of three pairs"
        content = server.requests[0]["messages"][-1]["content"]
        assert [part["type"] for part in content].count("image_url") == 1
        told = next(part["text"] for part in content if part["type"] == "text")
        assert "2: It sleeps on a mat." in told and "truth, detail, in this order" in told
        again = judged(mmpo, server, pairs, tmp_path / "step", "--kind", "step", "--aspect", "a", "--aspect", "b")
        assert again.exit_code == 2 and "a step has one score, and there are 2 aspects" in again.output
        assert len(server.requests) == asked
    assert "3 pairs in" in result.output and "dpo_2d" in result.output
    for pair in read_pairs(out):
        assert pair.scores == {"judge": 2.0} and pair.chosen_parts is not None and pair.rejected_parts is not None
        assert [CHOSEN[part["start"] : part["end"]] for part in pair.chosen_parts] == [
            "There is a dog.", "It sleeps on\na mat."
        ]  # fmt: skip
        assert [part["scores"] for part in pair.chosen_parts] == [[0.75, 0.25], [0.0, 0.0]]
        assert len(pair.rejected_parts) == 4 and {part["kind"] for part in pair.rejected_parts} == {"segment"}


def test_replies_that_are_none_are_asked_again_and_then_left_out(mmpo: Invoke, tmp_path: Path) -> None:
    pairs, out = write(tmp_path / "pairs"), tmp_path / "out"
    bad = {"pair-0": "1: 9\n2: 1\n3: 1\n4: 1", "pair-1": "1: 2", "pair-2": "1: 1\n1: 2\n2: 1"}
    asked: list[str] = []

    def answer(prompt: str) -> str:
        name = next((name for name in bad if name in prompt), "")
        asked.append(name)
        return lines(prompt, "4") if not name or (name == "pair-1" and asked.count(name) == 2) else bad[name]

    with ChatServer(answer) as server:
        result = judged(mmpo, server, pairs, out, "--json", "--no-pictures")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {
        "pairs": 1, "rejected": 2, "reasons": {"judge/bad_scores": 1, "judge/twice": 1}, "out": str(out),
    }  # fmt: skip
    assert (asked.count("pair-0"), asked.count("pair-1")) == (3, 2)
    assert [pair.id for pair in read_pairs(out)] == ["pair-1"]


def test_a_server_that_is_away_loses_no_pair(mmpo: Invoke, tmp_path: Path) -> None:
    pairs, out = write(tmp_path / "pairs"), tmp_path / "out"

    def away(prompt: str, attempt: int) -> str | None:
        return "500" if "pair-2" in prompt else None

    with ChatServer(lambda prompt: lines(prompt, "4"), away) as server:
        first = judged(mmpo, server, pairs, out, "--kind", "step", "--judge", "retries=0")
        assert first.exit_code == 2 and "the judge gave no reply" in first.output and "run again" in first.output
        server.fault = lambda prompt, attempt: None
        asked = sum(server.answered.values())
        second = judged(mmpo, server, pairs, out, "--kind", "step", "--judge", "retries=0")
        assert second.exit_code == 0, second.output
        assert sum(server.answered.values()) == asked + 1, "only what was missing is asked"
    assert len(list(read_pairs(out))) == 3
    assert judged(mmpo, server, pairs, pairs, "--kind", "step").exit_code == 2


def test_a_kill_and_other_settings(mmpo: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmpo.data_builders.rewriting.AT_ONCE", 1)
    pairs = write(tmp_path / "pairs")
    with ChatServer(lambda prompt: lines(prompt, "4")) as server:
        assert judged(mmpo, server, pairs, tmp_path / "whole").exit_code == 0
        assert judged(mmpo, server, pairs, tmp_path / "out").exit_code == 0
        for gone in (*(tmp_path / "out/data").glob("*-0000[12].parquet"), tmp_path / "out/card.json"):
            gone.unlink()
        assert judged(mmpo, server, pairs, tmp_path / "out").exit_code == 0
        other = judged(mmpo, server, pairs, tmp_path / "out", "--highest", "5")
        assert other.exit_code == 2 and "built by another recipe" in other.output
    for file in sorted((tmp_path / "whole/data").iterdir()):
        assert file.read_bytes() == (tmp_path / "out/data" / file.name).read_bytes()


def test_training_on_them(mmpo: Invoke, tmp_path: Path, tiny_llava_folder: Path) -> None:
    pairs, out = write(tmp_path / "pairs"), tmp_path / "out"
    with ChatServer(lines) as server:
        assert judged(mmpo, server, pairs, out, "--aspect", "a", "--aspect", "b").exit_code == 0
    objective = {"dpo_2d": {"aspects": [1.0, 0.5]}}
    settings = settings_for(tiny_llava_folder, out, objective=objective, max_steps=1, logging_steps=1, eval_fraction=0)
    assert train(settings, tmp_path / "run").last_train["loss"] > 0


# ---- similarities


def save_encoder(folder: Path, pooling: str | None = None, longest: int | None = None) -> Path:
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(folder)
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    if pooling is not None:
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling/config.json").write_text(json.dumps({pooling: True, "word_embedding_dimension": 16}))
    if longest is not None:
        (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": longest}))
    return folder


@pytest.mark.parametrize("pooling", [None, "pooling_mode_mean_tokens", "pooling_mode_cls_token"])
def test_an_embedding_is_that_of_the_text_alone(tmp_path: Path, pooling: str | None) -> None:
    embedder = TextEmbedder(save_encoder(tmp_path / "model", pooling), device="cpu")
    texts = ["A dog.", "There are two dogs and a cat on the mat.", "x"]
    found = embedder.embed(texts)
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(3))
    model = BertModel.from_pretrained(tmp_path / "model").eval()
    for text, own in zip(texts, found, strict=True):
        ids = torch.tensor([tiny_tokenizer()(text)["input_ids"]])
        with torch.no_grad():
            states = model(ids).last_hidden_state[0]
        expected = states[0] if pooling == "pooling_mode_cls_token" else states.mean(0)
        torch.testing.assert_close(own, expected / expected.norm(), rtol=1e-4, atol=1e-5)


def test_long_texts_are_cut_and_other_folders_refused(tmp_path: Path, tiny_llava_folder: Path) -> None:
    embedder = TextEmbedder(save_encoder(tmp_path / "model", longest=8), device="cpu")
    assert embedder.longest == 8 and TextEmbedder(save_encoder(tmp_path / "plain"), device="cpu").longest == 64
    one, other = embedder.embed(["a dog " * 500, "a dog " * 400])
    torch.testing.assert_close(one, other)
    for folder, message in (
        (tmp_path / "nothing", "not a model folder"),
        (save_encoder(tmp_path / "max", "pooling_mode_max_tokens"), "pooling by pooling_mode_max_tokens"),
        (tiny_llava_folder, "not an encoder of texts"),
    ):
        with pytest.raises(UserError, match=message):
            TextEmbedder(folder, device="cpu")


def test_similarities_reach_sem_dpo(mmpo: Invoke, tmp_path: Path, tiny_llava_folder: Path) -> None:
    pairs, out = write(tmp_path / "pairs", scores={"judge": 2.0}), tmp_path / "out"
    model = save_encoder(tmp_path / "model")
    result = mmpo("build", "similarity", pairs, "--out", out, "--embedder", model)
    assert result.exit_code == 0, result.output
    found = list(read_pairs(out))
    embedder = TextEmbedder(model, device="cpu")
    for pair in found:
        question = "".join(part.get("text", "") for part in pair.prompt[0]["content"])
        asked, told = embedder.embed([question, pair.chosen_text])
        assert pair.scores == {"judge": 2.0, "similarity": pytest.approx(float(asked @ told), abs=1e-5)}
    settings = settings_for(
        tiny_llava_folder, out, objective={"sem_dpo": {"alpha": 1.0}}, max_steps=1, logging_steps=1, eval_fraction=0
    )
    assert train(settings, tmp_path / "run").last_train["loss"] < 0.6931
    again = mmpo("build", "similarity", pairs, "--out", out, "--embedder", save_encoder(tmp_path / "m2", longest=4))
    assert again.exit_code == 2 and "another recipe" in again.output
