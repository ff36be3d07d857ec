"""Answers from a server: those of the model in this process, through every fault that passes, and without the key."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mmpo.chat.served_models import check_served, served_identity
from mmpo.chat.settings import SamplerSettings
from mmpo.errors import UserError
from mmpo.models.families.loading import load_vlm
from mmpo.models.generation.answer import AnswerEngine, Question
from mmpo.models.generation.served import ServedAnswerer, open_served
from mmpo.video.clip import Clip
from tests.chat.model_server import serving_model
from tests.chat.server import ChatServer
from tests.tiny import add_lora, tiny_image, tiny_llava

DEMO = Path(__file__).parents[3] / "mmpo" / "demo" / "model"
QUESTIONS = [
    "Is there a dog in the image?",
    "Is there a red cup in the image?",
    "Please describe this image in detail.",
]
KEY = "sk-q7/Zr+2Lw=9vXbTn4YcKm1PdHs8"


def sampler(server: ChatServer, **changes: Any) -> SamplerSettings:
    values = {"url": server.url, "model": "base", "first_wait": 0.01, "longest_wait": 0.5, "timeout": 60.0}
    return SamplerSettings(**{**values, **changes})


def refuse() -> Any:
    raise AssertionError("the model is not needed here")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `model` and `adapter`."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny_llava().model.save_pretrained(folder / "model")
    tiny_llava().processor.save_pretrained(folder / "model")
    add_lora(tiny_llava(), seed=1, spread=0.3).model.save_pretrained(folder / "adapter")
    return folder


@pytest.fixture(scope="module")
def server(tiny: Path) -> Iterator[ChatServer]:
    with serving_model(tiny / "model", {"base": None, "tuned": tiny / "adapter"}) as running:
        yield running


def test_the_demo_model_answers_the_same_on_a_server_and_here(tmp_path: Path) -> None:
    groups = [(tiny_image(number), QUESTIONS) for number in range(2)]
    engine = AnswerEngine(load_vlm(DEMO, dtype="float32"), max_new_tokens=24)
    here = list(engine.answer(groups))
    with (
        serving_model(DEMO, {"base": None}) as running,
        open_served(sampler(running), tmp_path, load=refuse, max_new_tokens=24) as served,
    ):
        there = list(served.answer(groups))
    assert [(one.id, one.text, one.truncated) for one in there] == [(one.id, one.text, one.truncated) for one in here]
    for mine, other in zip(here, there, strict=True):
        assert other.margin == pytest.approx(mine.margin, abs=1e-3)
        if mine.p_yes is not None and mine.text.lower().startswith(("yes", "no")):
            assert other.p_yes == pytest.approx(mine.p_yes, abs=1e-3)
    assert len({one.text for one in here}) > 1


def test_before_and_after_are_two_names(tiny: Path, server: ChatServer, tmp_path: Path) -> None:
    asked = [(tiny_image(1), ["What is this?", "Is it red?"])]
    engine = AnswerEngine(load_vlm(tiny / "model", adapter=tiny / "adapter", dtype="float32"), max_new_tokens=6)
    here = [(a.text, b.text) for a, b in engine.before_after(asked)]
    with open_served(sampler(server, adapter="tuned"), tmp_path, load=refuse, max_new_tokens=6) as served:
        with served.adapter_off():
            before = served.answer(asked)
        after = served.answer(asked)
        assert [(a.text, b.text) for a, b in zip(before, after, strict=True)] == here
    assert any(a != b for a, b in here)


def test_pieces_keep_their_order_and_a_clip_is_its_frames(tiny: Path, server: ChatServer, tmp_path: Path) -> None:
    clip = Clip(tuple(_png(number) for number in (3, 4)), (0.0, 1.0))
    parts = [{"type": "text", "text": "First"}, {"type": "image"}, {"type": "text", "text": "then"}, {"type": "video"},
             {"type": "text", "text": "What changes?"}]  # fmt: skip
    prompt = [{"role": "user", "content": parts}]
    question = Question("q", [tiny_image(2), clip], prompt)
    here = [one.text for one in AnswerEngine(load_vlm(tiny / "model", dtype="float32")).answer([question])]
    with open_served(sampler(server), tmp_path, load=refuse) as served:
        assert [one.text for one in served.answer([question])] == here
    kinds = [part["type"] for part in server.requests[-1]["messages"][0]["content"]]
    assert kinds == ["text", "image_url", "text", "image_url", "image_url", "text"]


def _png(number: int) -> bytes:
    from mmpo.files.images import encode_image

    return encode_image(tiny_image(number))


@pytest.mark.parametrize("several", [True, False])
def test_samples_of_one_request_or_of_many(tiny: Path, tmp_path: Path, several: bool) -> None:
    prompts = [(tiny_image(number), "What is this?") for number in range(2)]
    with serving_model(tiny / "model", {"base": None}, several=several) as running:
        with open_served(sampler(running), tmp_path, load=refuse, max_new_tokens=5) as served:
            asked = len(running.requests)
            drawn = list(served.sample_many(prompts, 3, temperature=1.0, greedy_first=True))
            greedy = [one.text for one in served.answer([(picture, [text]) for picture, text in prompts])]
        made = running.requests[asked:]
        again = len(running.requests)
        with open_served(sampler(running), tmp_path, load=refuse, max_new_tokens=5) as served:
            more = list(served.sample_many(prompts, 3, temperature=1.0, greedy_first=True)) if several else drawn
            assert len(running.requests) <= again + 1, "replies are kept; only the server's abilities are asked again"
    assert [len(own) for own in drawn] == [4, 4] and more == drawn
    assert [own[0].text for own in drawn] == greedy
    assert all(len({one.text for one in own[1:]}) > 1 for own in drawn)
    if several:
        assert sum(body.get("n", 1) == 3 for body in made) == 2 and len(made) == 4
    seeds = [body["seed"] for body in made if body["temperature"] > 0 and body.get("n", 1) == 1]
    assert len(set(seeds)) == len(seeds)


def test_every_fault_that_passes_loses_no_row(tmp_path: Path, caplog: pytest.LogCaptureFixture,
                                               monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setenv("SAMPLER_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    faults = ["429", "reset", "drip", "truncated_json", "cut_body", "disconnect", "500", "nonsense"]
    questions = [f"Question {number}?" for number in range(24)]

    def fault(prompt: str, attempt: int) -> str | None:
        if not prompt.startswith("Question"):
            return None
        number = int(prompt.split()[1].rstrip("?"))
        return faults[number % len(faults)] if attempt <= 1 + number % 2 else None

    with ChatServer(lambda prompt: f"{prompt} Yes.", fault, model="base") as running:
        patient = sampler(running, timeout=3.0, api_key_env="SAMPLER_KEY", retries=4)
        with open_served(patient, tmp_path, load=refuse, max_new_tokens=4) as served:
            answers = list(served.answer([(tiny_image(0), questions)]))
        assert running.most_at_once <= 64
        assert max(running.attempts.values()) <= 3
    assert [one.id for one in answers] == [str(number) for number in range(24)]
    assert [one.text for one in answers] == [f"{question} Yes." for question in questions]
    assert not any(one.failed for one in answers) and not (tmp_path / "errors.jsonl").exists()
    assert {header["authorization"] for header in running.headers} == {f"Bearer {KEY}"}
    left = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file()) + caplog.text
    assert KEY not in left and KEY[:12] not in left


def test_what_stays_without_reply_is_kept_apart_and_capped(tiny: Path, tmp_path: Path) -> None:
    broken = {"Question 3?"}
    fault = lambda prompt, attempt: "500" if prompt in broken else None  # noqa: E731
    questions = [f"Question {number}?" for number in range(10)]
    with serving_model(tiny / "model", {"base": None}, fault=fault) as running:
        few = sampler(running, retries=1, max_failed=0.1)
        with open_served(few, tmp_path, load=refuse, max_new_tokens=3) as served:
            answers = list(served.answer([(tiny_image(0), questions)]))
        assert [one.id for one in answers if one.failed] == ["3"] and answers[3].text == ""
        (row,) = map(json.loads, (tmp_path / "errors.jsonl").read_text().splitlines())
        assert row["question"] == "<image>Question 3?" and row["reason"] == "server_error"
        assert running.attempts["Question 3?"] == 4, "two tries, and two more at the end"
        broken.update(questions[4:8])
        with open_served(few, tmp_path / "more", load=refuse, max_new_tokens=3) as served:
            with pytest.raises(UserError, match="questions got no reply") as error:
                list(served.answer([(tiny_image(0), questions)]))
            assert "errors.jsonl" in error.value.message and "run again" in (error.value.hint or "")
        broken.clear()
        with open_served(few, tmp_path, load=refuse, max_new_tokens=3) as served:
            assert not any(one.failed for one in served.answer([(tiny_image(0), questions)]))
        assert (tmp_path / "errors.jsonl").read_text() == ""


def test_a_server_without_log_probs_is_found_out(tiny: Path, tmp_path: Path) -> None:
    with serving_model(tiny / "model", {"base": None}, log_probs=False) as running:
        assert check_served(sampler(running)) is False
        with open_served(sampler(running), tmp_path, load=refuse, max_new_tokens=2) as served:
            assert not served.log_probs
            assert [one.p_yes for one in served.answer([(tiny_image(0), ["Is it red?"])])] == [None]


def test_a_wrong_name_or_address_is_told_before_work(server: ChatServer) -> None:
    assert check_served(sampler(server)) is True
    with pytest.raises(UserError, match="gives no answer for this name") as error:
        check_served(sampler(server, adapter="tunde", retries=0))
    assert "tunde" in error.value.message
    with pytest.raises(UserError, match="unreachable"):
        check_served(sampler(server, url="http://127.0.0.1:9/v1", retries=0))
    with pytest.raises(UserError, match="user name or password"):
        check_served(sampler(server, url="http://me:secret@127.0.0.1:9/v1"))


def test_identity_is_of_what_the_server_says(tiny: Path) -> None:
    rows = [{"id": "base", "root": "/models/a", "created": 1}]
    with ChatServer(models=lambda: rows) as running:
        settings = sampler(running)
        first = served_identity(settings, "base")
        rows[0] = {"id": "base", "root": "/models/a", "created": 2}
        assert served_identity(settings, "base") == first
        rows[0] = {"id": "base", "root": "/models/b", "created": 2}
        assert served_identity(settings, "base") != first
        moved = settings.model_copy(update={"cache_name": "lab"})
        assert "127.0.0.1" not in served_identity(moved, "base")


def test_nothing_to_switch_off(server: ChatServer, tmp_path: Path) -> None:
    with open_served(sampler(server), tmp_path, load=refuse) as served:
        assert isinstance(served, ServedAnswerer)
        with pytest.raises(UserError, match="no adapter"), served.adapter_off():
            pass
