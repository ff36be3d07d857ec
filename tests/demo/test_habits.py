"""The careless annotator's habits in descriptions made by hand."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from mmpo.demo.by_kind import KindShare
from mmpo.demo.habits import COUNTS, PLACES, columns, habits, main
from mmpo.demo.scene import Item, Scene
from mmpo.demo.seen_by_kind import truth_of_scene
from mmpo.demo.things import VOCABULARY
from mmpo.demo.world import annotation
from mmpo.errors import UserError
from mmpo.eval.claims import metrics as claims
from mmpo.text.vocabulary import ObjectVocabulary

LEFT, MIDDLE, RIGHT = (4, 20, 30, 30), (49, 20, 30, 30), (94, 20, 30, 30)


def scene(*things: tuple[str, tuple[int, int, int, int]]) -> Scene:
    return Scene("street", tuple(Item(thing, None, box, False) for thing, box in things), (1, len(things)))


SCENES = {
    "images/a.png": scene(("cow", LEFT), ("car", RIGHT)),
    "images/b.png": scene(("cow", LEFT), ("cow", MIDDLE), ("laptop", MIDDLE)),
    "images/c.png": scene(("dog", LEFT)),
}


def finished(run: Path, told: Mapping[str, Mapping[str, str]]) -> Path:
    """A run with descriptions `told` before and after, as the evaluator keeps them."""
    (run / "eval" / "claims").mkdir(parents=True)
    (run / "world" / "test").mkdir(parents=True)
    rows = [annotation(shown, image, np.random.default_rng(0)) for image, shown in SCENES.items()]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (run / "world" / "test" / "annotations.jsonl").write_text(lines)
    vocabulary = ObjectVocabulary(VOCABULARY)
    truth = {image: truth_of_scene(shown, vocabulary) for image, shown in SCENES.items()}
    for state, texts in told.items():
        result = claims.score(dict(texts), truth, vocabulary, exhaustive=True)
        claims.write_rows(run / "eval" / "claims" / f"claims_{state}.jsonl", result)
    return run


CARELESS = {
    "images/a.png": "There are two cows on the left and a car in the middle.",
    "images/b.png": "There are three cows and a laptop in the middle.",
    "images/c.png": "There is a dog on the right.",
}
EXACT = {
    "images/a.png": "There is a cow on the left and a car on the right.",
    "images/b.png": "There are two cows and a laptop on the right.",
    "images/c.png": "There is a dog on the left and a bird on the right.",
}


def test_a_habit_counts_only_where_the_annotator_has_it(tmp_path: Path) -> None:
    found = habits(finished(tmp_path / "run", {"before": CARELESS, "after": EXACT}))
    # three cows are two in truth, and the laptop is in the middle: no habit; the bird is not there, so nowhere
    assert found["base"] == {
        COUNTS[0]: KindShare(1, 1), COUNTS[1]: KindShare(1, 4), PLACES[0]: KindShare(1, 1), PLACES[1]: KindShare(1, 3),
    }  # fmt: skip
    assert found["tuned"] == {
        COUNTS[0]: KindShare(0, 1), COUNTS[1]: KindShare(0, 4), PLACES[0]: KindShare(0, 1), PLACES[1]: KindShare(1, 3),
    }  # fmt: skip


def test_several_runs_stand_beside_one_another_and_together(tmp_path: Path) -> None:
    one = finished(tmp_path / "one", {"before": CARELESS, "after": EXACT})
    two = finished(tmp_path / "two", {"before": CARELESS, "after": CARELESS})
    found = columns([one, two])
    assert list(found) == [f"{run}, {state}" for run in (one, two, "all") for state in ("base", "tuned")]
    assert found["all, tuned"][COUNTS[0]] == KindShare(1, 2) and found["all, base"][PLACES[1]] == KindShare(2, 6)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(finished(tmp_path / "run", {"before": CARELESS, "after": EXACT}))
    monkeypatch.setattr(sys, "argv", ["habits", run, run])  # named twice it is counted once
    main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| wrong, % [95 %] | base | tuned |"
    assert lines[2] == f"| {COUNTS[0]} | 100.0 [20.7, 100.0] of 1 | 0.0 [0.0, 79.3] of 1 |"


def test_what_is_no_finished_demo_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        habits(tmp_path)
    run = finished(tmp_path / "run", {"before": CARELESS, "after": EXACT})
    (run / "eval" / "claims" / "claims_after.jsonl").unlink()
    with pytest.raises(UserError, match=r"claims_after\.jsonl"):
        habits(run)
    (run / "eval" / "claims" / "claims_before.jsonl").write_text('{"image_id": "images/z.png", "claims": []}\n')
    with pytest.raises(UserError, match=r"claims_before\.jsonl:1: image images/z\.png is not in the world"):
        habits(run)
    (run / "eval" / "claims" / "claims_before.jsonl").write_text('{"image_id": "images/a.png", "claims": 3}\n')
    with pytest.raises(UserError, match=r"claims_before\.jsonl:1: no list of `claims`"):
        habits(run)
