"""Reading a judge's reply, strictly and tolerantly, and what becomes of replies that hold nothing."""

from __future__ import annotations

import pytest

from mmpo.chat import open_chat
from mmpo.chat.judging import (
    failures,
    judge,
    opened,
    read_correctness,
    read_rating,
    read_same,
    require_all,
    unparsed,
    without_thinking,
)
from mmpo.errors import UserError
from tests.chat.server import ChatServer


@pytest.mark.parametrize(
    ("reply", "strict", "tolerant"),
    [
        ("Rating: 6", 6, 6),
        ("rating: 3, not informative", 3, 3),
        ("Rating: 2 ... Rating: 4", None, None),
        ("", None, None),
        ("rating: 10", 1, None),
        ("rating:5", None, 5),
        ("**Rating**: 5", None, 5),
        ("**Rating: 5**", 5, 5),
        ("Rating: [[4]]", None, 4),
        ("Rating - 3/6", None, 3),
        ("The rating is 2.", None, 2),
        ("My score: 1", None, 1),
        ("5", None, 5),
        ("Rating: 5.0", 5, 5),
        ("Rating: 4.5", 4, None),
        ("Rating: -1", None, None),
        ("Rating: 4 because it is right. Rating: 4", 4, 4),
        ("<think>Rating: 2 would be harsh</think>\nRating: 5", None, 5),
        ("Rating: K", None, None),
        ("There are 4 dogs and no rating", None, None),
    ],
)
def test_ratings(reply: str, strict: int | None, tolerant: int | None) -> None:
    assert read_rating(reply, "strict") == strict
    assert read_rating(reply, "tolerant") == tolerant


@pytest.mark.parametrize(
    ("reply", "strict", "tolerant"),
    [
        ("correct", 1, 1),
        ("Incorrect.", 0, 0),
        ("unclear", 2, 2),
        ("", 2, None),
        ("not correct", 1, 0),
        ("It is not entirely correct", 1, 0),
        ("in-correct", 1, 0),
        ("Correct\nThe answer is not incorrect.", 0, 1),
        ("It might seem incorrect.\nFinal verdict: correct", 0, 1),
        ("correct or incorrect, who knows", 0, None),
        ("**CORRECT**", 1, 1),
        ("<think>incorrect?</think>correct", 0, 1),
        ("The prediction is wrong", 2, 0),
    ],
)
def test_correctness(reply: str, strict: int, tolerant: int | None) -> None:
    assert read_correctness(reply, "strict") == strict
    assert read_correctness(reply, "tolerant") == tolerant


@pytest.mark.parametrize(
    ("reply", "strict", "tolerant"),
    [("same", 1, 1), ("different", 0, 0), ("They are not the same", 1, 0), ("Same.", 1, 1), ("I can't say", 0, None)],
)
def test_sameness(reply: str, strict: int, tolerant: int | None) -> None:
    assert read_same(reply, "strict") == strict
    assert read_same(reply, "tolerant") == tolerant


def test_notes_of_thinking_models() -> None:
    assert without_thinking("<think>a\nb</think>\nc") == "c"
    assert without_thinking("a\nb</think>c") == "c"
    assert without_thinking("no notes") == "no notes"


def test_unparsed_and_failed_are_counted_apart() -> None:
    def script(prompt: str, attempt: int) -> str | None:
        return {"slow": "500", "forbidden": "filtered"}.get(prompt)

    with (
        ChatServer(lambda prompt: f"Rating: {prompt}", script) as server,
        open_chat(server.settings(retries=1)) as chat,
    ):
        found = judge(chat, ["4", "nothing", "slow", "forbidden"], lambda text: read_rating(text, "strict"))
    assert [one.value for one in found] == [4, None, None, None]
    assert found[1].text == "Rating: nothing" and unparsed(found) == 1
    assert failures(found) == {"judge_refused": 1, "judge_server_error": 1}
    with pytest.raises(UserError, match="1 of 4 questions to the judge got no reply"):
        require_all(found, "mmhal")
    require_all([found[0], found[1], found[3]], "mmhal")  # a refusal would come again: it doesn't stop the evaluation


def test_no_judge_is_said() -> None:
    with pytest.raises(UserError, match="mmhal needs a judge"), opened(None, None, "mmhal"):
        pass
