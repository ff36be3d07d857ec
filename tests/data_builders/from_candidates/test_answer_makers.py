"""Makers that need no further text: right against wrong answers, self-play, implicit reward."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest

from mmpo.data_builders.candidates.records import Candidate, JudgedPicture
from mmpo.data_builders.from_candidates.maker import Made, MadePair
from mmpo.data_builders.from_candidates.makers.implicit_reward import (
    ImplicitReward,
    ImplicitRewardSettings,
    best_and_worst,
    implicit_rewards,
    length_alpha,
    separable,
)
from mmpo.data_builders.from_candidates.makers.right_wrong import (
    RightWrong,
    RightWrongSettings,
    final_answer,
    in_turn,
    is_right,
)
from mmpo.data_builders.from_candidates.makers.self_play import SelfPlay, SelfPlaySettings
from mmpo.errors import Quarantined, UserError
from tests.data_builders.from_candidates.pictures import context, judged
from tests.tiny import add_lora, save_tiny_llava, tiny_image, tiny_llava


def answered(texts: Iterable[str], answer: str | None, number: int = 0, **more: Any) -> list[Candidate]:
    """Answers to one question."""
    return [
        Candidate(f"Question {number}?", number, sample, text, False, 5, answer=answer, **more)
        for sample, text in enumerate(texts)
    ]


def picture_of(*candidates: Candidate) -> JudgedPicture:
    return replace(judged("a.png", [], {}), candidates=candidates)


def right_wrong(tmp_path: Path, *candidates: Candidate, **settings: Any) -> list[MadePair]:
    return RightWrong(RightWrongSettings(**settings), context(tmp_path)).pairs_of(picture_of(*candidates))


@pytest.mark.parametrize(
    ("known", "said", "right"),
    [
        ("yes", "Yes, there is.", True),
        ("no", "Yes.", False),
        ("Yes", "There is a dog.", None),
        ("red", "It is Red.", True),
        ("red", "It is blue.", False),
        ("red", "It is not red.", None),
        ("red", "It isn't red.", None),
        ("red", "red or blue", None),
        ("red", "A reddish one.", False),
        ("2", "There are two dogs.", True),
        ("two", "2", True),
        ("2", "12", False),
        ("2", "2.5", False),
        ("the traffic light", "A traffic light", True),
        ("traffic light", "light of the traffic", False),
        ("not visible", "It is not visible.", True),
        ("red", "", None),
        ("!", "red", None),
    ],
)
def test_what_is_right(known: str, said: str, right: bool | None) -> None:
    assert is_right(known, said) is right


def test_equal_takes_no_other_words() -> None:
    assert is_right("red", "It is red.", equal=True) is False
    assert is_right("red", "Red.", equal=True) is True


def test_the_last_final_answer_is_read() -> None:
    assert final_answer("First the answer is 3.\nNo: Final answer: 4") == "4"
    assert final_answer("Four dogs.") == "Four dogs."
    assert final_answer("So #### 7", r"####\s*(.+)") == "7"


def test_right_against_wrong_in_turn(tmp_path: Path) -> None:
    pairs = right_wrong(tmp_path, *answered(["Red.", "Blue.", "It is red.", "Green.", "Is it?", "not red"], "red"))
    assert [(p.chosen.text, p.rejected.text) for p in pairs[:3]] == [
        ("Red.", "Blue."), ("It is red.", "Green."), ("Red.", "Is it?")
    ]  # fmt: skip
    assert len(pairs) == len({pair.key for pair in pairs}) == 6
    assert pairs[0].about == {"answer": "red", "right": [0, 2], "wrong": [1, 3, 4]}
    assert all(pair.free_length and pair.kind == "answer" for pair in pairs)
    assert len(right_wrong(tmp_path, *answered(["Red."] * 3 + ["Blue."] * 3, "red"), pairs_per_prompt=4)) == 4


@pytest.mark.parametrize("right", range(1, 6))
@pytest.mark.parametrize("wrong", range(1, 6))
def test_every_combination_comes_once_and_all_answers_are_used_first(right: int, wrong: int) -> None:
    pairs = in_turn(range(right), range(wrong), 100)
    assert len(pairs) == len(set(pairs)) == right * wrong
    first = in_turn(range(right), range(wrong), max(right, wrong))
    assert {a for a, _ in first} == set(range(right)) and {b for _, b in first} == set(range(wrong))


@pytest.mark.parametrize(
    ("texts", "answer", "reason"),
    [
        (["Red.", "red"], "red", "always_right"),
        (["Blue.", "green"], "red", "always_wrong"),
        (["Red.", "Blue."], None, "no_answer"),
        (["", "red or blue"], "red", "no_answer_read"),
    ],
)
def test_a_question_of_one_class_is_skipped(tmp_path: Path, texts: list[str], answer: str | None, reason: str) -> None:
    with pytest.raises(Quarantined) as error:
        right_wrong(tmp_path, *answered(texts, answer))
    assert error.value.reason == reason
    pairs = right_wrong(tmp_path, *answered(texts, answer), *answered(["Red.", "Blue."], "red", 1))
    assert [pair.prompt for pair in pairs] == ["Question 1?"]


def test_unfinished_answers_are_neither(tmp_path: Path) -> None:
    cut = [replace(one, truncated=True) for one in answered(["Blue."], "red")]
    with pytest.raises(Quarantined, match="always_right"):
        right_wrong(tmp_path, *answered(["Red."], "red"), *cut)


@pytest.mark.parametrize("wrong", [{"final": "("}, {"final": "answer"}, {"pairs_per_prompt": 0}, {"match": "near"}])
def test_right_wrong_settings_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        RightWrongSettings(**wrong)


def test_self_play_sets_what_was_given_against_what_was_said(tmp_path: Path) -> None:
    maker = SelfPlay(SelfPlaySettings(pairs_per_prompt=2), context(tmp_path))
    pairs = maker.pairs_of(picture_of(*answered(["A red cup.", "a cup", "Two cups.", "Cups."], "A cup!")))
    assert [(p.chosen.text, p.rejected.text, p.rejected.sample) for p in pairs] == [
        ("A cup!", "A red cup.", 0), ("A cup!", "Two cups.", 2)
    ]  # fmt: skip
    for texts, answer, reason in ((["A cup."], "a CUP", "same_answer"), (["A cup."], None, "no_answer")):
        with pytest.raises(Quarantined) as error:
            maker.pairs_of(picture_of(*answered(texts, answer)))
        assert error.value.reason == reason


def test_the_reward_and_its_length_penalty() -> None:
    assert implicit_rewards([-10.0, -20.0], [-12.0, -15.0], 0.1) == pytest.approx((0.2, -0.5))
    assert best_and_worst([1.0, 1.0, 0.0, 0.0], [1, 1, 1, 1], 0.0) == (0, 2)
    assert best_and_worst([1.0, 0.9, 0.0], [100, 10, 50], 0.01) == (1, 2)
    # Rewards grow with length alone, 0.005 a character: beyond that alpha the choice turns round.
    longer = ([0.5, 0.25, 0.05], [100, 50, 10])
    assert length_alpha([longer]) == pytest.approx(0.005)
    assert length_alpha([([0.0, 1.0], [50, 50])]) == 0.0 and length_alpha([]) == 0.0


def test_alpha_is_left_where_the_difference_grows_again() -> None:
    prompts = [([1.0, 0.0], [60, 10]), ([1.0, 0.9], [10, 110])]
    # 50 and -100 characters at alpha 0; the mean never comes nearer to 0 before it grows.
    assert length_alpha(prompts) == 0.0


def rewarded(tmp_path: Path, group: list[Candidate], engine: Any = None, **settings: Any) -> Made:
    folder = Path(mkdtemp(dir=tmp_path))
    given = context(folder, picture=lambda _: png(tmp_path), **({"engine": engine} if engine else {}))
    maker = ImplicitReward(ImplicitRewardSettings(**{"least_scored": 3} | settings), given)
    maker.prepare(1, lambda number: [picture_of(*group)])
    [made] = maker.make(0, [picture_of(*group)], lambda: None)
    return made


def png(tmp_path: Path) -> bytes:
    tiny_image(0).save(tmp_path / "a.png")
    return (tmp_path / "a.png").read_bytes()


class Loaded:
    """What the maker takes of an engine."""

    def __init__(self, vlm: Any) -> None:
        self.vlm = vlm


TEXTS = ["A red cup.", "A dog on the left.", "There is a cat.", "No."]


def test_best_against_worst_by_the_adapters_reward(tmp_path: Path) -> None:
    vlm = add_lora(tiny_llava(), spread=0.1)
    made = rewarded(tmp_path, answered(TEXTS, None), lambda: Loaded(vlm), alpha=0.0, least_scored=3)
    assert isinstance(made, list) and len(made) == 1
    [pair] = made
    assert pair.scores["reward_chosen"] > pair.scores["reward_rejected"]
    assert set(pair.scores) == set(ImplicitReward.scores)
    from mmpo.data_builders.from_candidates.texts import answer_logps

    texts = [pair.chosen.text, pair.rejected.text]
    policy = answer_logps(vlm, png(tmp_path), pair.prompt, texts)
    with vlm.adapter_off():
        before = answer_logps(vlm, png(tmp_path), pair.prompt, texts)
    expected = [0.1 * (a - b) for a, b in zip(policy, before, strict=True)]
    assert [pair.scores["reward_chosen"], pair.scores["reward_rejected"]] == pytest.approx(expected, abs=1e-4)


def test_the_reference_may_be_a_folder_and_the_policy_what_was_stored(tmp_path: Path) -> None:
    folder = save_tiny_llava(tmp_path / "reference")
    group = [replace(one, logp=0.0 - number) for number, one in enumerate(answered(TEXTS, None))]
    made = rewarded(tmp_path, group, reference=str(folder), alpha=0.0)
    assert isinstance(made, list) and math.isfinite(made[0].scores["reward_chosen"])


def test_too_few_cut_off_or_equal_answers_give_no_pair(tmp_path: Path) -> None:
    few = rewarded(tmp_path, answered(TEXTS[:2], None))
    assert isinstance(few, Quarantined) and few.reason == "too_few_answers"
    cut = [replace(one, truncated=True) for one in answered(TEXTS, None)]
    assert isinstance(rewarded(tmp_path, cut), Quarantined)
    short = answered(["No.", "A?", "One", "A cup."], None)  # three characters are too few
    assert isinstance(rewarded(tmp_path, short), Quarantined)
    untrained = add_lora(tiny_llava())
    equal = rewarded(tmp_path, answered(TEXTS, None), lambda: Loaded(untrained), alpha=0.0)
    assert isinstance(equal, Quarantined) and equal.reason == "equal_rewards"
    assert not separable([0.5, 0.5 + 1e-5], 0.1) and separable([0.5, 0.51], 0.1)


def test_without_adapter_and_reference_nothing_can_be_rewarded(tmp_path: Path) -> None:
    plain = tiny_llava()
    with pytest.raises(UserError, match="no adapter") as error:
        rewarded(tmp_path, answered(TEXTS, None), lambda: Loaded(plain))
    assert "reference" in (error.value.hint or "")


def test_one_alpha_serves_all_shards_and_nothing_is_scored_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rewards grow with length by 0.005 a character in one shard and by 0.001 in the other, which has more prompts."""
    import mmpo.data_builders.from_candidates.makers.implicit_reward as module

    def logps(vlm: Any, data: bytes, prompt: str, texts: list[str]) -> list[float]:
        scored.append(prompt)
        return [0.0] * len(texts)

    def shard(number: int) -> list[JudgedPicture]:
        slope, pictures = ((0.05, 1), (0.01, 4))[number]
        said = [replace(one, logp=slope * len(one.text)) for one in answered(texts, None)]
        return [picture_of(*said) for _ in range(pictures)]

    scored: list[str] = []
    texts = ["a" * 100, "b" * 50, "c" * 10]
    monkeypatch.setattr(module, "answer_logps", logps)
    monkeypatch.setattr(ImplicitReward, "_reference", tiny_llava())
    for _ in range(2):  # the second as a build that goes on
        settings = ImplicitRewardSettings(least_scored=3, reference="r")
        maker = ImplicitReward(settings, context(tmp_path, picture=lambda _: b""))
        maker.prepare(2, shard)
        made = [one for number in (0, 1) for one in maker.make(number, shard(number), lambda: None)]
        alphas = {pair.about["alpha"] for one in made if isinstance(one, list) for pair in one}
        # Alone the first shard would take 0.005, the other 0.001: at 0.001 four of five pairs turn round.
        sizes = [100, 50, 10]
        steep, flat = ([0.5, 0.25, 0.05], sizes), ([0.1, 0.05, 0.01], sizes)
        assert alphas == {length_alpha([steep, *4 * [flat]])}
        assert alphas != {length_alpha([steep])}
    assert len(scored) == 5
