"""The rules of a preference pair: each broken rule is named, with where it was broken."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from mmpo.data.pair import PreferencePair, text_message, validate
from mmpo.errors import UserError
from mmpo.files.paths import is_relative_path


def pair(**changes: Any) -> PreferencePair:
    base = PreferencePair.simple(id="p1", image=b"png", question="What is it?", chosen="A dog.", rejected="A red dog.")
    return replace(base, **changes)


def image_message(*texts: str) -> dict[str, object]:
    return {"role": "user", "content": [{"type": "image"}, *({"type": "text", "text": text} for text in texts)]}


def test_simple_pair_is_valid_and_reads_as_text() -> None:
    good = pair()
    assert validate(good) is good
    assert (good.prompt_text, good.chosen_text, good.rejected_text) == ("What is it?", "A dog.", "A red dog.")
    assert good.prompt[0]["content"][0] == {"type": "image"}


def test_text_joins_parts_and_leaves_roles_out() -> None:
    prompt = [text_message("system", "Be brief. "), image_message("What is ", "it?")]
    assert pair(prompt=prompt).prompt_text == "Be brief. What is it?"


def test_several_turns_images_and_a_video() -> None:
    video = {"frames": [b"a", "frames/b.png"], "times": [0.0, 0.5]}
    prompt = [
        image_message("First."),
        text_message("assistant", "Yes."),
        {"role": "user", "content": [{"type": "video"}, {"type": "image"}, {"type": "text", "text": "Then?"}]},
    ]
    validate(pair(prompt=prompt, images=[b"1", "img/2.png"], videos=[video]))
    validate(pair(prompt=prompt, images=[b"1", b"2"], videos=[{"path": "clip.mp4"}]))


def test_equal_responses_are_a_preference_when_the_images_differ() -> None:
    same = pair(rejected=pair().chosen)
    validate(replace(same, rejected_images=[b"other"]))
    own: list[bytes | str] = [b"png"]
    for images in (None, own):
        with pytest.raises(UserError, match="are the same"):
            validate(replace(same, rejected_images=images))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": ""}, "`id` must be"),
        ({"id": 7}, "`id` must be"),
        ({"id": "a\ud800"}, "holds half a character"),
        ({"chosen": [text_message("assistant", "cut \ud83d")]}, "holds half a character"),
        ({"prompt": []}, "`prompt` must be a non-empty list"),
        ({"prompt": "What?"}, "`prompt` must be a non-empty list"),
        ({"prompt": [{"role": "user"}]}, "must have `role` and `content`"),
        ({"prompt": [{"role": "judge", "content": []}]}, "role 'judge' is not one of"),
        ({"prompt": [{"role": "user", "content": "hi"}]}, "content must be a list"),
        ({"prompt": [{"role": "user", "content": ["hi"]}]}, "is not of type"),
        ({"prompt": [{"role": "user", "content": [{"type": "audio"}]}]}, "is not of type"),
        ({"prompt": [{"role": "user", "content": [{"type": "text", "text": None}]}]}, "needs a string `text`"),
        ({"prompt": [image_message("a"), text_message("system", "b")]}, "must end with a user message"),
        ({"prompt": [text_message("assistant", "b")], "images": []}, "the beginning of the answer to one"),
        ({"prompt": [image_message("a"), text_message("assistant", "")]}, "both responses continue is empty"),
        ({"prompt": [text_message("user", "<image>\nWhat?")], "images": []}, "contains '<image>'"),
        ({"images": []}, "1 image parts, `images` has 0"),
        ({"images": [b"1", b"2"]}, "1 image parts, `images` has 2"),
        ({"rejected_images": []}, "`rejected_images` has 0"),
        ({"images": [b""]}, "must be encoded bytes or a path"),
        ({"images": [3]}, "must be encoded bytes or a path"),
        ({"images": ["../x.png"]}, "leaves the dataset"),
        ({"images": ["/etc/x.png"]}, "leaves the dataset"),
        ({"rejected_images": ["a/../../x.png"]}, "leaves the dataset"),
        ({"videos": [{"path": "v.mp4"}]}, "0 video parts, `videos` has 1"),
        ({"chosen": []}, "`chosen` must be a non-empty list"),
        ({"chosen": [text_message("user", "x")]}, "role 'user' is not one of assistant"),
        ({"chosen": [text_message("assistant", "x")] * 2}, "must be one assistant message"),
        ({"chosen": [text_message("assistant", " \n")]}, "`chosen` is empty"),
        ({"rejected": [{"role": "assistant", "content": []}]}, "`rejected` is empty"),
        ({"rejected": [image_message("x") | {"role": "assistant"}]}, "is not of type text"),
        ({"chosen_weights": [{"start": 0, "end": 7, "weight": 1.0}]}, "characters 0 to 7 of a response of 6"),
        ({"chosen_weights": [{"start": 2, "end": 2, "weight": 1.0}]}, "characters 2 to 2"),
        ({"chosen_weights": [{"start": -1, "end": 2, "weight": 1.0}]}, "characters -1 to 2"),
        ({"rejected_weights": [{"start": 0, "end": 2}]}, "needs `start`, `end` and `weight`"),
        ({"rejected_weights": [{"start": 0, "end": 2, "weight": -1}]}, "not a number of at least 0"),
        ({"rejected_weights": [{"start": 0, "end": 2, "weight": float("nan")}]}, "not a number of at least 0"),
        (
            {"rejected_weights": [{"start": 0, "end": 3, "weight": 1}, {"start": 2, "end": 4, "weight": 1}]},
            "before the span in front of it ends",
        ),
        ({"image_weights": [{"start": 0, "end": 7, "weight": 3.0}]}, "`image_weights`[0]: characters 0 to 7"),
        ({"image_weights": "all"}, "must be a list of spans"),
        ({"unfinished": "yes"}, "`unfinished` must be true or false"),
        ({"twin": 7}, "`twin` must be the id of a pair"),
        ({"twin": ""}, "`twin` must be the id of a pair"),
        ({"scores": {"margin": float("inf")}}, "score 'margin' is inf"),
        ({"scores": {"margin": True}}, "score 'margin' is True"),
    ],
)
def test_broken_rules_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as caught:
        validate(pair(**changes), "pairs.parquet:7")
    assert caught.value.message.startswith("pairs.parquet:7")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("video", "message"),
    [
        ({"frames": [], "times": []}, "as many times as frames"),
        ({"frames": [b"a"], "times": [0.0, 1.0]}, "1 frames, 2 times"),
        ({"frames": [b"a", b"b"], "times": [1.0, 0.5]}, "ascending"),
        ({"frames": [b"a"], "times": [float("nan")]}, "finite"),
        ({"frames": ["../a.png"], "times": [0.0]}, "leaves the dataset"),
        ({"path": "/v.mp4"}, "leaves the dataset"),
    ],
)
def test_broken_videos_are_named(video: dict[str, object], message: str) -> None:
    prompt = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "What happens?"}]}]
    with pytest.raises(UserError, match=message):
        validate(pair(prompt=prompt, images=[], videos=[video]))


@pytest.mark.parametrize("path", ["a.png", "a/b.png", "./a.png", "a..b.png"])
def test_paths_inside(path: str) -> None:
    assert is_relative_path(path)


@pytest.mark.parametrize(
    "path", ["/a", "../a", "a/../../b", "..\\a", "C:\\a", "C:a", "\\\\host\\a", "http://h/a.png", "file:///a", "a\0b"]
)
def test_paths_that_escape(path: str) -> None:
    assert not is_relative_path(path)


def test_importing_the_pair_is_light() -> None:
    heavy = ("torch", "numpy", "PIL", "pyarrow", "datasets")
    code = f"import sys, mmpo.data.pair; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def talk(*texts: str) -> list[dict[str, object]]:
    return [text_message("user" if number % 2 else "assistant", text) for number, text in enumerate(texts)]


def test_a_side_may_have_several_turns() -> None:
    one = pair(chosen=talk("A dog.", "Where?", "Left."), chosen_weights=[{"start": 6, "end": 11, "weight": 2.0}])
    assert validate(one).chosen_text == "A dog.Left."
    assert validate(pair(chosen=talk("Yes", "a", "No"), rejected=talk("Yes", "b", "No"))), "other questions"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chosen": talk("A dog.", "Where?")}, "several with a user message between them, got assistant, user"),
        ({"chosen": talk("A", "b", " ")}, "`chosen[2]` is empty"),
        ({"chosen": talk("A", "", "c")}, "`chosen[1]` is empty"),
        ({"chosen": talk("A", "b", "c"), "rejected": talk("A", "b", "c")}, "chosen and rejected are the same"),
    ],
)
def test_broken_turns_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as caught:
        validate(pair(**changes))
    assert message in str(caught.value)


def part(start: int, end: int, kind: str = "step", scores: object = (1.0,)) -> dict[str, object]:
    return {"start": start, "end": end, "kind": kind, "scores": list(scores) if isinstance(scores, tuple) else scores}


def test_steps_and_segments_may_overlap() -> None:
    parts = [part(0, 4), part(0, 6, "segment", (1.0, 2)), part(4, 6)]
    assert validate(pair(chosen_parts=parts, rejected_parts=[part(0, 2, "segment", (0, 0))]))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ("all", "`chosen_parts` must be a list of parts"),
        ([{"start": 0, "end": 2}], "`chosen_parts`[0] needs `start`, `end`, `kind` and `scores`"),
        ([part(0, 7)], "`chosen_parts`[0]: characters 0 to 7 of a response of 6"),
        ([part(0, 3), part(2, 5)], "`chosen_parts`[1] starts at 2, before the span in front of it ends (3)"),
        ([part(0, 3, "word")], "kind 'word' is not one of step, segment"),
        ([part(0, 3, scores=())], "must be a list of finite numbers"),
        ([part(0, 3, scores=(float("nan"),))], "must be a list of finite numbers"),
        ([part(0, 3, scores=(True,))], "must be a list of finite numbers"),
        ([part(0, 3, scores=1.0)], "must be a list of finite numbers"),
        ([part(0, 3, scores=(1.0, 2.0))], "a step has one score, got 2"),
        ([part(0, 3, "segment", (1.0, 2.0)), part(3, 6, "segment")], "1 scores, where the segments before have 2"),
    ],
)
def test_broken_parts_are_named(parts: object, message: str) -> None:
    with pytest.raises(UserError) as caught:
        validate(pair(chosen_parts=parts))
    assert message in str(caught.value)


def test_segments_of_both_sides_have_as_many_scores() -> None:
    with pytest.raises(UserError, match="segments of chosen have 2 scores, those of rejected 1"):
        validate(pair(chosen_parts=[part(0, 2, "segment", (1.0, 2.0))], rejected_parts=[part(0, 2, "segment")]))
