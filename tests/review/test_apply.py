"""Decisions made use of: pairs, labels, and the numbers that follow from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from mmpo.data.card import read_card
from mmpo.data.reader import read_pairs
from mmpo.data.reviews import RULINGS, ReviewDecision, agreements, cohen_kappa, sampled_precision
from mmpo.errors import UserError
from mmpo.review.apply import apply_to_labels, apply_to_pairs
from mmpo.review.serve import opened_session
from tests.review.conftest import png, write_pairs


def decide(folder: Path, verdicts: dict[int, dict[str, Any]], reviewer: str = "ann", **how: Any) -> Path:
    with opened_session(folder, reviewer=reviewer, **how) as session:
        for row, form in verdicts.items():
            item = session.item(row)
            version = str(session.log.version(item.id, reviewer))
            session.decide(row, {"digest": item.digest, "version": version, **form})
        return session.log.path


def test_every_verdict_does_what_it_says(pairs: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in pairs.rglob("*") if path.is_file()}
    file = decide(
        pairs,
        {
            0: {"verdict": "swap"},
            1: {"verdict": "drop", "note": "blurred"},
            2: {"verdict": "edit", "rejected": "A cow."},
            3: {"verdict": "unsure"},
            4: {"verdict": "accept", "spans": json.dumps([{"side": "rejected", "start": 2, "end": 5, "text": "cat"}])},
        },
    )
    result = apply_to_pairs(pairs, [file], tmp_path / "out")
    made = {pair.id: pair for pair in read_pairs(tmp_path / "out")}
    old = {pair.id: pair for pair in read_pairs(pairs)}
    assert sorted(made) == ["pair-0", "pair-2", "pair-4", "pair-5"] and result.made == 4
    assert made["pair-0"].chosen_text == old["pair-0"].rejected_text
    assert made["pair-0"].scores == {"chosen_reward": 0.0, "rejected_reward": -1.0}  # the margin was of the other order
    assert made["pair-2"].rejected_text == "A cow." and made["pair-2"].scores is None
    assert made["pair-4"].provenance["review"]["spans"][0]["text"] == "cat"
    assert made["pair-4"].provenance["review"]["reviewers"] == ["ann"]
    assert made["pair-5"] == old["pair-5"]  # nobody looked at it
    card = read_card(tmp_path / "out")
    assert card["splits"]["train"]["reasons"] == {"review/dropped": 1, "review/unsure": 1}
    assert card["splits"]["train"]["recipe"]["reviews"]
    after = {path: path.read_bytes() for path in pairs.rglob("*") if path.is_file() and path.name != "reviews.jsonl"}
    assert after == before


def test_only_reviewed_and_also_unsure(pairs: Path, tmp_path: Path) -> None:
    file = decide(pairs, {0: {"verdict": "accept"}, 1: {"verdict": "unsure"}})
    assert apply_to_pairs(pairs, [file], tmp_path / "one", reviewed_only=True).made == 1
    assert apply_to_pairs(pairs, [file], tmp_path / "two", reviewed_only=True, keep_unsure=True).made == 2


def test_reviewers_who_disagree_are_unsure(pairs: Path, tmp_path: Path) -> None:
    ann = decide(pairs, {0: {"verdict": "accept"}, 1: {"verdict": "accept"}}, file=tmp_path / "ann.jsonl")
    ben = decide(pairs, {0: {"verdict": "drop"}, 1: {"verdict": "accept"}}, "ben", file=tmp_path / "ben.jsonl")
    result = apply_to_pairs(pairs, [ann, ben], tmp_path / "out")
    assert result.counts == {"unsure": 1, "accept": 1, "not reviewed": 4}
    assert "agree on 1 of 2" in read_card(tmp_path / "out")["notes"]


def test_a_stale_decision_is_refused_and_nothing_is_left(pairs: Path, tmp_path: Path) -> None:
    file = decide(pairs, {0: {"verdict": "accept"}, 5: {"verdict": "drop"}})
    other = write_pairs(tmp_path / "other", 5, chosen="Another text.")
    with pytest.raises(UserError, match=r"2 decisions .*pair-0"):  # one changed, one is gone
        apply_to_pairs(other, [file], tmp_path / "out")
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def test_a_sample_goes_on_the_card(pairs: Path, tmp_path: Path) -> None:
    drawn = {row: {"verdict": "drop" if row == 0 else "accept"} for row in range(6)}
    file = decide(pairs, drawn, kind="sample", size=6)
    apply_to_pairs(pairs, [file], tmp_path / "out")
    told = "Human review of a random sample: 5 of 6 accepted, 44-97 %."
    assert told in read_card(tmp_path / "out")["notes"] and told in (tmp_path / "out" / "README.md").read_text()


def test_worst_first_is_no_sample(pairs: Path, tmp_path: Path) -> None:
    file = decide(pairs, {0: {"verdict": "accept"}})
    apply_to_pairs(pairs, [file], tmp_path / "out")
    assert "sample" not in read_card(tmp_path / "out")["notes"]


def write_answers(folder: Path) -> Path:
    """Four questions, before and after: broken, fixed, wrong twice, right twice."""
    folder.mkdir()
    (folder / "a.png").write_bytes(png())
    said = {"dog": ("yes", "no"), "cat": ("no", "yes"), "cow": ("no", "no"), "car": ("yes", "yes")}
    rows = [
        {
            "key": f"{name}-{state}", "state": state, "image": "a.png", "prompt": f"Is there a {name}?",
            "answer": answer.title(), "truncated": False, "benchmark": "pope", "split": "random", "expected": "yes",
            "parsed": answer, "right": answer == "yes",
        }
        for name, answers in said.items()
        for state, answer in zip(("before", "after"), answers, strict=True)
    ]  # fmt: skip
    (folder / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_labels_are_corrected_and_both_numbers_told(tmp_path: Path) -> None:
    folder = write_answers(tmp_path / "eval")
    with opened_session(folder, reviewer="ann") as session:
        outcomes = [session.item(row).card.outcome for row in session.order]  # type: ignore[union-attr]
        assert outcomes == ["broken", "fixed", "wrong", "right"]
    file = decide(folder, {0: {"verdict": "label_wrong"}, 1: {"verdict": "drop"}, 2: {"verdict": "accept"}})
    result = apply_to_labels(folder, [file], tmp_path / "out")
    rows = [json.loads(line) for line in (tmp_path / "out" / "label_corrections.jsonl").read_text().splitlines()]
    assert [(row["prompt"], row["published"], row["label"]) for row in rows] == [
        ("Is there a dog?", "yes", "no"), ("Is there a cat?", "yes", None),
    ]  # fmt: skip
    table = json.loads((tmp_path / "out" / "label_metrics.json").read_text())["rows"]
    told = {
        one["state"]: [one[n] for n in ("right", "questions", "corrected_right", "corrected_questions")]
        for one in table
    }
    assert told == {"before": [2, 4, 1, 3], "after": [2, 4, 2, 3]}
    assert result.made == 2 and any("as corrected" in note for note in result.notes)


def test_a_label_that_changed_since_is_refused(tmp_path: Path) -> None:
    folder = write_answers(tmp_path / "eval")
    file = decide(folder, {0: {"verdict": "label_wrong"}})
    text = (folder / "answers.jsonl").read_text()
    (folder / "answers.jsonl").write_text(text.replace('"expected": "yes"', '"expected": "no"'))
    with pytest.raises(UserError, match="changed or are gone"):
        apply_to_labels(folder, [file], tmp_path / "out")


def made(id: str, verdict: Any, reviewer: str, drawn: bool = True) -> ReviewDecision:
    return ReviewDecision(id, "0", verdict, reviewer, "2026-01-01", drawn=drawn)


def test_kappa_is_scikit_learns() -> None:
    random = np.random.default_rng(0)
    one = random.choice(["accept", "drop", "swap"], 60)
    other = np.where(random.random(60) < 0.6, one, random.choice(["accept", "drop", "swap"], 60))
    decisions = [made(str(k), v, "a") for k, v in enumerate(one)] + [made(str(k), v, "b") for k, v in enumerate(other)]
    (found,) = agreements(decisions)
    assert found.kappa == pytest.approx(cohen_kappa_score(one, other)) and found.interval is not None
    assert found.interval.low < found.kappa < found.interval.high
    (alone,) = agreements([made("x", "accept", "a"), made("x", "accept", "b")])
    assert alone.kappa is None and "undefined" in str(alone)
    assert np.isnan(cohen_kappa(np.eye(len(RULINGS))[:1].T @ np.eye(len(RULINGS))[:1]))


def test_precision_counts_drawn_items_that_reviewers_agree_on() -> None:
    decisions = [made(str(k), "accept", "a") for k in range(92)] + [made(str(k), "drop", "a") for k in range(92, 100)]
    assert str(sampled_precision(decisions)) == "92 of 100 accepted, 85-96 %"
    more = [
        made("0", "drop", "b"),
        made("x", "unsure", "a"),
        made("y", "drop", "a", drawn=False),
        made("1", "accept", "b"),
    ]
    assert str(sampled_precision(decisions + more)).startswith("91 of 99 accepted")
    assert str(sampled_precision(decisions + more)).endswith("; 2 unsure")
