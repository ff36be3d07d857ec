"""Makers that have a text made: injected objects, and corrections by another model."""

from __future__ import annotations

import json
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from mmpo.chat import ChatModel, ChatSettings, open_chat
from mmpo.data_builders.candidates.records import JudgedPicture
from mmpo.data_builders.from_candidates.maker import Made, MakerContext, Opinions
from mmpo.data_builders.from_candidates.makers import critique as critique_module
from mmpo.data_builders.from_candidates.makers.critique import Critique, CritiqueSettings
from mmpo.data_builders.from_candidates.makers.injected import LEAD_INS, Injected, InjectedSettings, drawn_places
from mmpo.errors import Quarantined, UserError
from mmpo.evidence.records import CombinedOpinion, Opinion, Presence
from mmpo.models.generation.answer import Answer, AnswerEngine
from tests.chat.server import ChatServer
from tests.data_builders.from_candidates.pictures import context, judged
from tests.tiny import tiny_image, tiny_llava

WORLD: dict[str, Presence] = {
    "cat": "present", "cup": "present", "chair": "present", "table": "present", "dog": "absent", "horse": "absent",
    "bird": "uncertain",
}  # fmt: skip
STORY = "There is a cat on the left. There is a cup on the right. There is a chair in the middle."


def asked_world(pictures: Sequence[JudgedPicture], names: Sequence[Sequence[str]]) -> list[Opinions]:
    return [
        {name: CombinedOpinion(name, WORLD[name], 0.9, {"hand": Opinion(WORLD[name], 1.0)}) for name in own}
        for own in names
    ]


def unit(texts: Sequence[str], partners: Sequence[str], known: dict[str, Presence] = WORLD) -> list[JudgedPicture]:
    """The picture with these candidates, and others whose captions have a cat with the partners."""
    others = [judged(f"{name}.png", [f"A cat and a {name}."], WORLD) for name in partners]
    return [judged("a.png", texts, known), *others]


class Ends:
    """An engine without pictures that ends every sentence in the same way."""

    def __init__(self, end: str) -> None:
        self.end = end
        self.vlm = tiny_llava()
        self.asked: list[Any] = []
        self.penalty: float | None = None

    def answer(self, groups: Any, **options: Any) -> Iterator[Answer]:
        self.penalty = self.vlm.base.generation_config.repetition_penalty
        for images, prompts in groups:
            assert images == [] and options["stop"] == "sentence"
            self.asked += prompts
            for number, _ in enumerate(prompts):
                yield Answer(str(number), self.end, (1,), not self.end, 1.0, stopped=bool(self.end))


def injected(tmp_path: Path, pictures: list[JudgedPicture], engine: Any, **settings: Any) -> list[Made]:
    given = context(tmp_path, engine=lambda: engine, evidence=asked_world)
    return Injected(InjectedSettings(**settings), given).make(0, pictures, lambda: None)


def test_an_absent_partner_comes_in_behind_the_first_sentence(tmp_path: Path) -> None:
    engine = Ends(" near the table.")
    made = injected(tmp_path, unit([STORY], ["dog"]), engine)[0]
    assert isinstance(made, list)
    [pair] = made
    assert pair.about["injected"] == ["dog"] and pair.about["sentences"][0] in (1, 2)
    assert pair.rejected.absent == {"dog"} and not pair.chosen.absent and "dog" not in pair.chosen.text
    assert "near the table" in pair.rejected.text and pair.rejected.present >= {"cat", "table"}
    assert pair.punished == {"dog"} and pair.chosen.recall is not None and pair.rejected.recall is not None
    assert ("dog", "absent") in [(row["name"], row["verdict"]) for row in pair.about["claims"]]
    [prompt] = engine.asked
    assert prompt[0]["content"] == [{"type": "text", "text": "Describe the image."}]  # no picture
    begun = prompt[1]["content"][0]["text"]
    assert begun.startswith("There is a cat on the left.") and "a dog" in begun
    assert engine.penalty == 1.1 and engine.vlm.base.generation_config.repetition_penalty != 1.1
    json.dumps(pair.about)


def test_a_partner_that_is_there_or_uncertain_is_never_injected(tmp_path: Path) -> None:
    for partner in ("table", "bird"):
        made = injected(tmp_path, unit([STORY], [partner]), Ends("."))[0]
        assert isinstance(made, Quarantined) and made.reason == "no_absent_partner"


def test_the_evidence_is_asked_about_partners_that_nobody_asked_about(tmp_path: Path) -> None:
    known: dict[str, Presence] = {name: WORLD[name] for name in ("cat", "cup", "chair")}
    made = injected(tmp_path, unit([STORY], ["horse", "table"], known), Ends("."))[0]
    assert isinstance(made, list) and made[0].about["injected"] == ["horse"]


@pytest.mark.parametrize("end", [" beside a bird.", " beside a horse.", " beside a knife.", "", " <image> here."])
def test_an_end_about_anything_not_known_to_be_there_is_left_out(tmp_path: Path, end: str) -> None:
    made = injected(tmp_path, unit([STORY], ["dog"]), Ends(end))[0]
    assert isinstance(made, list) and made[0].rejected.absent == {"dog"} and not made[0].rejected.uncertain


def test_only_clean_whole_descriptions_of_enough_sentences_are_spoiled(tmp_path: Path) -> None:
    for text in (STORY + " A dog.", STORY + " A bird.", "There is a cat. There is a cup.", "Nice. Very. Good."):
        made = injected(tmp_path, unit([text], ["dog"]), Ends("."))[0]
        assert isinstance(made, Quarantined) and made.reason == "no_clean_description"
    second = injected(tmp_path, unit([STORY + " A dog.", STORY], ["dog"]), Ends("."))[0]
    assert isinstance(second, list) and second[0].chosen.sample == 1


def test_the_model_ends_the_sentence_itself(tmp_path: Path) -> None:
    engine = AnswerEngine(tiny_llava(), max_new_tokens=8)
    made = injected(tmp_path, unit([STORY], ["dog"]), engine, max_new_tokens=8)[0]
    assert isinstance(made, list) and made[0].rejected.absent == {"dog"}
    again = injected(tmp_path, unit([STORY], ["dog"]), engine, max_new_tokens=8)[0]
    assert made == again


def test_a_fifth_of_the_sentences_gives_way_later_ones_rather() -> None:
    assert [len(drawn_places(n, 0.2, random.Random(0))) for n in (2, 3, 5, 8, 10, 13)] == [1, 1, 1, 2, 2, 3]
    drawn = Counter(drawn_places(11, 0.1, random.Random(seed))[0] for seed in range(4000))
    assert 0 not in drawn and len(drawn) == 10
    assert drawn[10] > 1.2 * drawn[1]
    assert len(set(LEAD_INS)) == 20 and all(lead.count("{}") == 1 for lead in LEAD_INS)


WRONG = "There is a cat on the left and a dog on the right."
RIGHT = "There is a cat on the left and a cup on the right."


@contextmanager
def correcting(tmp_path: Path, chat: ChatSettings) -> Iterator[MakerContext]:
    tiny_image(0).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    with ExitStack() as stack:
        opened: dict[str, ChatModel] = {}

        def chat_of(settings: ChatSettings) -> ChatModel:
            if "chat" not in opened:
                opened["chat"] = stack.enter_context(open_chat(settings, tmp_path / "replies.jsonl"))
            return opened["chat"]

        engine = AnswerEngine(tiny_llava())
        yield context(tmp_path, engine=lambda: engine, evidence=asked_world, picture=lambda _: data, chat=chat_of)


def corrected(
    tmp_path: Path, answer: Any, text: str = WRONG, fault: Any = None, **settings: Any
) -> tuple[Made, ChatServer]:
    with ChatServer(answer, fault) as server:
        chat = server.settings(retries=0, give_up_after=None)
        with correcting(tmp_path, chat) as given:
            maker = Critique(CritiqueSettings(chat=chat, **settings), given)
            [made] = maker.make(0, [judged("a.png", [text], WORLD)], lambda: None)
    return made, server


def test_a_correction_against_what_was_said(tmp_path: Path) -> None:
    made, server = corrected(tmp_path, RIGHT)
    assert isinstance(made, list)
    [pair] = made
    assert "dog" not in pair.chosen.text and "dog" in pair.rejected.text
    assert pair.punished == {"dog"} and pair.rewarded == {"cup"}
    assert set(pair.scores) == set(Critique.scores) and all(score < 0 for score in pair.scores.values())
    assert [row["name"] for row in pair.about["claims"]] == ["cup", "dog"]
    [request] = server.requests
    said = json.dumps(request)
    assert "image_url" in said and "not in the picture: dog, horse" in said
    (tmp_path / "blind").mkdir()
    blind, server = corrected(tmp_path / "blind", RIGHT, see=False)
    assert isinstance(blind, list) and "image_url" not in json.dumps(server.requests)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("UNCHANGED", "nothing_corrected"),
        (f"<think>Hm.</think>{WRONG}", "nothing_corrected"),
        ("There is a cat on the left and a horse on the right.", "chosen_still_wrong"),
        ("There is a cat on the left and a bird on the right.", "uncertain_changed"),
        ("<image>", "no_text"),
    ],
)
def test_what_is_no_correction_has_a_reason(tmp_path: Path, reply: str, reason: str) -> None:
    made, _ = corrected(tmp_path, reply)
    assert isinstance(made, Quarantined) and made.reason == reason


def test_an_uncertain_class_that_goes_is_not_punished(tmp_path: Path) -> None:
    made, _ = corrected(tmp_path, RIGHT, "There is a cat on the left and a bird on the right.")
    assert isinstance(made, Quarantined) and made.reason == "uncertain_changed"


def test_replies_that_fail_for_good_are_counted_and_those_that_pass_stop_the_work(tmp_path: Path) -> None:
    made, _ = corrected(tmp_path, RIGHT, fault=lambda prompt, attempt: "filtered")
    assert isinstance(made, Quarantined) and made.stage == "critique"
    made, _ = corrected(tmp_path, RIGHT, fault=lambda prompt, attempt: "length")
    assert isinstance(made, Quarantined) and made.stage == "critique"
    with pytest.raises(UserError):
        corrected(tmp_path, RIGHT, fault=lambda prompt, attempt: "500")


def test_both_sides_pass_the_same_rewriter(tmp_path: Path) -> None:
    def answer(prompt: str) -> str:
        if "Word the following" not in prompt:
            return RIGHT
        return f"1. In short: {RIGHT if RIGHT in prompt else WRONG}"

    made, server = corrected(tmp_path, answer, rewrite="chat")
    assert isinstance(made, list) and len(server.requests) == 3
    assert [made[0].chosen.text, made[0].rejected.text] == [f"In short: {RIGHT}", f"In short: {WRONG}"]
    (tmp_path / "plain").mkdir()
    plain, _ = corrected(tmp_path / "plain", RIGHT, rewrite="none")
    assert isinstance(plain, list) and (plain[0].chosen.text, plain[0].rejected.text) == (RIGHT, WRONG)


def test_corrections_far_from_the_model_are_warned_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for gap, warned in ((-25.0, True), (-19.0, False)):
        caplog.clear()
        likely: Callable[..., list[float]] = lambda *_, gap=gap: [gap - 5.0, -5.0]  # noqa: E731
        monkeypatch.setattr(critique_module, "answer_logps", likely)
        with caplog.at_level(logging.INFO):
            corrected(tmp_path, RIGHT)
        assert (
            any(
                row.levelno == logging.WARNING and "Train on the chosen sides first" in row.message
                for row in caplog.records
            )
            is warned
        )
        assert f"{gap:.1f} nats" in caplog.text


def test_critique_settings_are_checked() -> None:
    with pytest.raises(ValueError):
        CritiqueSettings()  # type: ignore[call-arg]
    with pytest.raises(ValueError):
        CritiqueSettings(chat={"backend": "local", "model": "m"}, rewrite="maybe")  # type: ignore[arg-type]
