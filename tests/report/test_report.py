"""What a report holds, and what it does with folders that are none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmpo.data.pair import PreferencePair
from mmpo.data.shards import PairWriter
from mmpo.errors import UserError
from mmpo.report.cards import ShownPicture, TextPiece, differences, noted, pair_card
from mmpo.report.pairs import pair_problems
from mmpo.report.report import write_report
from tests.report.evaluations import evaluated


def test_differences_are_whole_words_and_lose_nothing() -> None:
    chosen, rejected = differences("A dog and a ball.", "A dog, a cat and a ball.")
    assert "".join(piece.text for piece in chosen) == "A dog and a ball."
    assert "".join(piece.text for piece in rejected) == "A dog, a cat and a ball."
    assert not any(piece.changed for piece in chosen)
    assert "cat" in next(piece.text for piece in rejected if piece.changed)


def test_notes_cut_pieces_where_they_begin_and_end() -> None:
    assert noted([TextPiece("a big "), TextPiece("red dog", True)], [(2, 9, "wrong")]) == (
        TextPiece("a "), TextPiece("big ", note="wrong"), TextPiece("red", True, "wrong"), TextPiece(" dog", True),
    )  # fmt: skip


def test_a_judges_spans_are_marked_where_they_count_in_the_text() -> None:
    said = "A street. There is a car."
    for start, marked in ((21, ["car"]), (3, [])):  # the second is of another wording
        verdict = {"verdict": "hallucination", "reason": "no car", "sentence": "There is a car."}
        pair = PreferencePair.simple(
            id="1", image=b"x", question="?", chosen="A street.", rejected=said,
            provenance={"verdicts": [{**verdict, "spans": [{"start": start, "end": start + 3}]}]},
        )  # fmt: skip
        card = pair_card(pair, lambda source, alt: ShownPicture("", 4, 3, alt))
        assert [piece.text for piece in card.rejected if piece.note] == marked
        assert card.reasons == ("no car",)


@pytest.mark.parametrize(
    ("chosen", "told"), [("A teddy bear.", False), ("A teddy bear, a bear.", True), ("A bear.", True)]
)
def test_a_side_that_names_what_was_judged_made_up_is_told(chosen: str, told: bool) -> None:
    pair = PreferencePair.simple(
        id="1", image=b"x", question="?", chosen=chosen, rejected="A bear and more.",
        provenance={"removed": ["bear"], "added": ["teddy bear"]},
    )  # fmt: skip
    assert any("against itself" in problem for problem in pair_problems(pair)) == told


def test_answers_say_what_they_count_as_and_flips_what_changed(tmp_path: Path) -> None:
    folder = evaluated(tmp_path / "eval")
    rows = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    assert {row["right"] for row in rows} == {True, False}
    assert all((row["benchmark"], row["split"], row["expected"]) == ("pope", "random", "yes") for row in rows)
    flips = [json.loads(line) for line in (folder / "flips.jsonl").read_text().splitlines()]
    assert [(row["change"], row["before"]["parsed"], row["after"]["parsed"]) for row in flips] == [
        ("broken", "yes", "no"),
        ("fixed", "no", "yes"),
    ]


def test_an_old_evaluation_without_grades_is_still_reported(tmp_path: Path) -> None:
    folder = evaluated(tmp_path / "eval")
    file = folder / "answers.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    old = [
        {k: v for k, v in row.items() if k not in ("benchmark", "split", "expected", "parsed", "right")} for row in rows
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in old))
    page = write_report([folder]).path.read_text()
    assert "Did it get better?" in page and "<article" not in page


@pytest.mark.parametrize("place", ["", "empty", "missing"])
def test_folders_that_hold_nothing_are_told_in_one_line(tmp_path: Path, place: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError):
        write_report([tmp_path / place])


def test_a_picture_stands_in_the_page_once_and_a_broken_one_says_so(tmp_path: Path) -> None:
    from tests.browser.test_report import picture

    with PairWriter(tmp_path / "pairs") as writer:
        for k in range(5):
            writer.add(PreferencePair.simple(id=str(k), image=picture(), question="?", chosen=f"a {k}", rejected="b"))
        writer.add(PreferencePair.simple(id="x", image=b"no picture", question="?", chosen="a", rejected="b"))
    made = write_report([tmp_path / "pairs"])
    page = made.path.read_text()
    assert made.path == tmp_path / "pairs-report.html" and made.rows is None
    assert page.count("data:image/jpeg") == 1 and page.count('<use href="#p-') == 5
    assert page.count('class="missing"') == 1
    part = write_report([tmp_path / "pairs"], cards=2)
    assert part.rows is not None and len(part.rows.read_text().splitlines()) == 6
