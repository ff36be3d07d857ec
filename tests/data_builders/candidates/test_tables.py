"""The folder of candidates: what is written is read back, and what is damaged is found."""

from __future__ import annotations

from pathlib import Path

import pytest
from datasets import load_dataset

from mmpo.data.reader import shard_path
from mmpo.data_builders.candidates.records import JudgedPicture
from mmpo.data_builders.candidates.tables import CandidateTables, write_candidates_card, write_tables
from mmpo.errors import UserError
from mmpo.evidence.records import Presence
from tests.data_builders.from_candidates.pictures import judged, said

VERDICTS: dict[str, Presence] = {"cat": "present", "dog": "absent", "bird": "uncertain", "horse": "absent"}


def pictures(number: int) -> list[JudgedPicture]:
    texts = ["A cat and a dog and a cat.", "A bird.", "Nice.", ""]
    return [judged(f"p{n}.png", texts, VERDICTS) for n in range(number)]


def written(folder: Path, number: int = 5) -> list[JudgedPicture]:
    made = pictures(number)
    write_tables(folder, made, 2)
    write_candidates_card(folder, {"pictures_per_shard": 2}, "# Candidates\n")
    return made


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    made = written(tmp_path)
    read = CandidateTables(tmp_path)
    assert list(read) == made and len(read) == 3
    assert read.images == [picture.image for picture in made]
    assert [picture.image for picture in read.pictures(1)] == ["p2.png", "p3.png"]
    first = made[0].candidates[0]
    assert (first.present, first.absent, first.chair_i, first.words) == ({"cat"}, {"dog"}, pytest.approx(1 / 3), 8)


def test_the_columns_say_what_the_design_says(tmp_path: Path) -> None:
    written(tmp_path)
    table = load_dataset("parquet", data_files=str(tmp_path / "data" / "candidates-*.parquet"), split="train")
    row = table[0]
    assert (row["n_present"], row["n_absent"], row["n_uncertain"]) == (1, 1, 0)
    assert (row["m_present"], row["m_absent"], row["m_uncertain"]) == (2, 1, 0)
    assert table[2]["chair_i"] is None and table[1]["chair_i"] is None  # nothing judged: null, never 0
    claims = load_dataset("parquet", data_files=str(tmp_path / "data" / "claims-*.parquet"), split="train")
    cat = next(row for row in claims if row["name"] == "cat")
    assert [(m["sample"], m["word"]) for m in cat["mentions"]] == [(0, "cat"), (0, "cat")]
    assert cat["by"] == [{"source": "hand", "verdict": "present", "z": 1.0, "confidence": None, "why": ""}]
    assert next(row for row in claims if row["name"] == "horse")["mentions"] == []  # a probe


def test_the_same_pictures_give_the_same_bytes_whatever_was_there(tmp_path: Path) -> None:
    written(tmp_path / "a", 3)
    written(tmp_path / "b", 9)
    written(tmp_path / "b", 3)
    for path in (tmp_path / "a").rglob("*.*"):
        assert (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes() == path.read_bytes()
    assert len(list((tmp_path / "b" / "data").iterdir())) == 4
    written(tmp_path / "none", 0)
    assert list(CandidateTables(tmp_path / "none")) == []


def test_a_damaged_or_unfinished_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no candidates"):
        CandidateTables(tmp_path)
    written(tmp_path / "run" / "build" / "candidates")
    with pytest.raises(UserError) as error:
        CandidateTables(tmp_path / "run")
    assert str(tmp_path / "run" / "build" / "candidates") in str(error.value.hint)
    folder = tmp_path / "run" / "build" / "candidates"
    path = shard_path(folder, "claims", 1)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match=r"claims-00001\.parquet: damaged"):
        list(CandidateTables(folder))
    path.unlink()
    with pytest.raises(UserError, match=r"claims-00001\.parquet: missing"):
        list(CandidateTables(folder))
    (folder / "card.json").write_text("{}")
    with pytest.raises(UserError, match="not a folder of candidates"):
        CandidateTables(folder)


def test_two_prompts_of_one_picture_keep_their_own_candidates(tmp_path: Path) -> None:
    first = said(0, "A cat.", VERDICTS)
    second = said(0, "A dog.", VERDICTS, prompt_number=1, prompt="What is there?", answer="dog")
    made = judged("p.png", [first, second], VERDICTS)
    write_tables(tmp_path, [made], 4)
    write_candidates_card(tmp_path, {"pictures_per_shard": 4}, "")
    (read,) = CandidateTables(tmp_path)
    assert read == made and [group[0].prompt for group in read.prompts.values()] == [first.prompt, "What is there?"]
