"""mmpo ask: before and after side by side, and every mistake in one go before a model is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import mmpo as face
from mmpo.api.answers import is_yes_no
from tests.cli.conftest import Invoke


@pytest.fixture
def run(pairs: Path, tiny_llava_folder: Path) -> Path:
    """A run that trained two steps."""
    return face.train(
        tiny_llava_folder, pairs, out="runs/a", max_steps=2, batch_size=2, learning_rate=0.01, samples={"n": 0},
        eval_fraction=0.0,
    ).run  # fmt: skip


def test_before_and_after_of_a_run(mmpo: Invoke, photos: Path, run: Path, tiny_llava_folder: Path) -> None:
    shown = mmpo("ask", photos / "0.png", photos / "1.png", "Is there a dog?", "--run", run, "--max-new-tokens", 3)
    assert shown.exit_code == 0, shown.output
    assert "before" in shown.stdout and "after" in shown.stdout
    assert shown.stdout.count("P(yes)") == 4  # two photos, before and after
    assert f"mmpo export {run} OUT" in shown.stdout and "Loading" not in shown.output
    json_ = mmpo(
        "ask", photos / "0.png", "Is there a dog?", "--also", "Describe the image.", "--json",
        "--model", tiny_llava_folder, "--adapter", run / "train" / "adapter", "--max-new-tokens", 3,
    )  # fmt: skip
    first, second = map(json.loads, json_.stdout.splitlines())
    assert 0 < first["before_p_yes"] < 1 and first["before_p_yes"] != first["after_p_yes"]
    assert second["question"] == "Describe the image." and second["after_p_yes"] is None
    with face.load(tiny_llava_folder, run / "train" / "adapter", dtype="auto") as model:
        answer = model.ask(photos / "0.png", "Is there a dog?", max_new_tokens=3)[0]
    asked = (first["before_p_yes"], first["after_p_yes"])  # there it was asked beside another question
    assert (answer.p_yes_before, answer.p_yes) == pytest.approx(asked, rel=1e-5)
    assert abs(asked[0] - asked[1]) > 1e-3 * asked[0]


def test_a_model_alone_and_photos_together(mmpo: Invoke, photos: Path, tiny_llava_folder: Path) -> None:
    shown = mmpo(
        "ask", photos / "0.png", photos / "1.png", "What differs?", "--together", "--model", tiny_llava_folder,
        "--max-new-tokens", 2,
    )  # fmt: skip
    assert shown.exit_code == 0, shown.output
    assert f"{photos / '0.png'} + {photos / '1.png'}" in shown.stdout
    assert "before" not in shown.stdout and "P(yes)" not in shown.stdout
    assert "1 of 1 answers were cut off" in shown.stdout
    assert "next" in shown.stdout and "mmpo recipe show own-images" in shown.stdout


def test_mistakes_are_one_line_each(mmpo: Invoke, photos: Path, tiny_llava_folder: Path, here: Path) -> None:
    photo = photos / "0.png"
    model = ("--model", tiny_llava_folder)
    (here / "empty.png").touch()
    for words, told in (
        ((photo, *model), "0.png: a photo, and no question"),
        (("Is there a dog?", *model), "'Is there a dog?': a question, and no photo"),
        ((photo, photos / "1.png", *model), "1.png: a photo; the question comes last"),
        ((photo, "  ", *model), "question 1 is empty"),
        (("nowhere.png", "Is it?", *model), "nowhere.png: no such file"),
        ((photos, "Is it?", *model), "is a folder; a photo belongs here"),
        ((photos / "annotations.jsonl", "Is it?", *model), "annotations.jsonl: not an image"),
        (("empty.png", "Is it?", *model), "empty.png: the file is empty"),
        (("https://example.org/a.png", "Is it?", *model), "mmpo opens no addresses"),
        (("x" * 5000, "y" * 5000, *model), "File name too long"),
        ((photo, "Is it?"), "no model named"),
        ((photo, "Is it?", "--adapter", "a"), "which model was it trained on?"),
        ((photo, "Is it?", "--run", "r", *model), "--run beside --model or --adapter"),
        ((photo, "Is it?", "--run", "nowhere"), "nowhere: no such run folder"),
        ((photo, "Is it?", "--run", photos), "no finished training in it"),
        ((photo, "Is it?", "--model", photos), "not a model folder"),
        ((photo, "Is it?", "--adapter", photos, *model), "not an adapter"),
    ):
        said = mmpo("ask", *words)
        assert said.exit_code == 2, (words, said.output)
        assert told in said.stderr and "Traceback" not in said.output, said.stderr
    both = mmpo("ask", "nowhere.png", photos, "Is it?")
    assert "2 mistakes" in both.stderr and "no model named" in both.stderr


@pytest.mark.parametrize(
    ("question", "yes_no"),
    [
        ("Is there a dog in the image?", True),
        ("Look closely. Does the man wear a hat?", True),
        ("Isn't it raining?", True),
        ("The cat is black. Answer yes or no.", True),
        ("Is there a cat? Please answer in one word.", True),
        ("Can you describe the image?", False),
        ("What is in the image?", False),
        ("Describe the image.", False),
        ("Island or sea?", False),
    ],
)
def test_what_is_a_question_of_yes_or_no(question: str, yes_no: bool) -> None:
    assert is_yes_no(question) is yes_no
    assert is_yes_no(question, "No, it is not.") and is_yes_no(question, "Nothing.") is yes_no
