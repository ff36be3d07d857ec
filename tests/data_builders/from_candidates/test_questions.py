"""Questions with answers that the evidence agrees on, put to a real tiny model."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from mmpo.data_builders.from_candidates.makers.questions import YesNoQuestions, YesNoSettings
from mmpo.errors import Quarantined
from mmpo.evidence.records import Presence
from mmpo.models.families.loading import load_vlm
from mmpo.models.generation.answer import AnswerEngine
from tests.data_builders.candidates import world
from tests.data_builders.from_candidates.pictures import context, judged

SEEN: dict[str, Presence] = {"cat": "present", "cup": "present", "dog": "absent", "bird": "uncertain"}


def test_right_answers_are_the_agreed_ones_and_balanced(talker: Path, photos: Path, tmp_path: Path) -> None:
    engine = AnswerEngine(load_vlm(str(talker)), max_new_tokens=24)
    loads: list[int] = []

    def opened() -> AnswerEngine:
        loads.append(1)
        return engine

    def maker() -> YesNoQuestions:
        given = context(
            tmp_path, model=str(talker), engine=opened, picture=lambda one: (photos / one.image).read_bytes()
        )
        return YesNoQuestions(YesNoSettings(), given)

    pictures = [judged(name, ["A cat."], SEEN) for name in world.NAMES[:3]]
    pictures.append(judged("p4.png", ["A cat."], {"cat": "present", "bird": "uncertain"}))
    found = maker().make(0, pictures, lambda: None)
    last = found.pop()
    assert isinstance(last, Quarantined) and last.reason == "nothing_absent"
    pairs = [pair for own in found if not isinstance(own, Quarantined) for pair in own]
    answers = Counter(pair.about["present"] for pair in pairs)
    assert pairs and answers[True] == answers[False]
    for pair in pairs:
        name = pair.about["object"]
        assert name in SEEN and SEEN[name] != "uncertain"
        assert pair.about["present"] == (SEEN[name] == "present")
        assert pair.chosen.text.startswith("Yes" if pair.about["present"] else "No")
        assert pair.rejected.text.startswith("No" if pair.about["present"] else "Yes")
        assert (pair.rewarded if pair.about["present"] else pair.punished) == {name}
    assert maker().make(0, pictures, lambda: None)[:3] == found and loads == [1]  # answers are kept
