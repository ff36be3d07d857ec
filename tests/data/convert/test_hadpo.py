"""HA-DPO's files in every variant, with Visual Genome's images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mmpo.data.convert import detect
from mmpo.errors import UserError
from tests.data.convert.sources import converted, parts, rejects, write_json, write_pictures

DESCRIPTION: dict[str, Any] = {"image_id": "12", "chosen": ["c0", "c1", "c2"], "rejected": ["r0", "r1", "r2"]}
QUESTION: dict[str, Any] = {
    "image_id": "12", "question": "Is there a cup?", "answer": "no", "chosen": "No, there is none.",
    "reject": "Yes, a red one.",
}  # fmt: skip


@pytest.fixture
def genome(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "vg", "VG_100K/12.jpg", "VG_100K_2/13.jpg")


@pytest.mark.parametrize(("number", "texts"), [(3, ["c0/r0", "c1/r1", "c2/r2"]), (9, None), (1, None)])
def test_wordings_of_a_description(tmp_path: Path, genome: Path, number: int, texts: list[str] | None) -> None:
    file = write_json(tmp_path / "in" / "desc_data.json", [DESCRIPTION])
    pairs, result = converted(file, tmp_path / "out", images=genome, options={"pairs_per_image": number})
    assert result.source_format == "hadpo" and result.detected
    found = [f"{pair.chosen_text}/{pair.rejected_text}" for pair in pairs]
    assert len(set(found)) == number and (texts is None or found == texts)
    assert len({pair.prompt_text for pair in pairs}) == 1, "one instruction for all wordings of an image"
    assert len({pair.id for pair in pairs}) == number


def test_the_drawn_pair_depends_on_the_seed_and_the_image_only(tmp_path: Path, genome: Path) -> None:
    alone = write_json(tmp_path / "a" / "desc_data.json", [DESCRIPTION | {"image_id": "13"}])
    behind = write_json(tmp_path / "b" / "desc_data.json", [DESCRIPTION, DESCRIPTION | {"image_id": "13"}])

    def drawn(file: Path, seed: int) -> tuple[str, str, str]:
        out = tmp_path / f"{file.parent.name}-{seed}-{len(list(tmp_path.iterdir()))}"
        pairs, _ = converted(file, out, images=genome, options={"pairs_per_image": 1, "seed": seed})
        return pairs[-1].prompt_text, pairs[-1].chosen_text, pairs[-1].rejected_text

    assert drawn(alone, 0) == drawn(behind, 0)
    assert len({drawn(alone, seed) for seed in range(6)}) > 1


def test_an_object_by_image_id_is_read_as_the_list_is(tmp_path: Path, genome: Path) -> None:
    by_id = write_json(tmp_path / "a" / "desc_data.json", {"12": {k: DESCRIPTION[k] for k in ("chosen", "rejected")}})
    pairs, _ = converted(by_id, tmp_path / "out", images=genome)
    assert [pair.provenance["image_id"] for pair in pairs] == ["12"] * 3


def test_questions_with_both_names_of_the_rejected_answer(tmp_path: Path, genome: Path) -> None:
    renamed = {("rejected" if key == "reject" else key): value for key, value in QUESTION.items()}
    rows = [QUESTION, renamed | {"image_id": "13", "correct": False}, QUESTION | {"correct": True}]
    file = write_json(tmp_path / "in" / "pope_data.json", rows)
    pairs, result = converted(file, tmp_path / "out", images=genome)
    assert [parts(pair) for pair in pairs] == [["<image>", "Is there a cup?"]] * 2
    assert pairs[0].images[0] == (genome / "VG_100K" / "12.jpg").read_bytes()
    assert pairs[1].images[0] == (genome / "VG_100K_2" / "13.jpg").read_bytes()
    assert result.quarantined == {"filter/already_correct": 1}
    assert rejects(tmp_path / "out")[0]["id"] == "pope_data.json:2"
    all_of_them, _ = converted(file, tmp_path / "all", images=genome, options={"keep_correct": True})
    assert len(all_of_them) == 3


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"chosen": "Yes, there is."}, "convert/answer_mismatch"),
        ({"reject": "No, none."}, "convert/answer_mismatch"),
        ({"answer": "maybe"}, "convert/bad_answer"),
        ({"image_id": "99"}, "decode/missing"),
        ({"image_id": "twelve"}, "convert/bad_image_id"),
        ({"question": None}, "convert/missing_key"),
        ({"chosen": 3}, "convert/bad_type"),
        ({"question": "What is <image> here?"}, "convert/invalid"),
    ],
)
def test_bad_questions_are_quarantined_with_their_reason(
    tmp_path: Path, genome: Path, change: dict[str, Any], reason: str
) -> None:
    file = write_json(tmp_path / "in" / "pope_data.json", [QUESTION, QUESTION | change])
    pairs, result = converted(file, tmp_path / "out", images=genome)
    assert len(pairs) == 1 and result.quarantined == {reason: 1}


def test_glued_first_words_still_begin_with_the_answer(tmp_path: Path, genome: Path) -> None:
    file = write_json(tmp_path / "in.json", [QUESTION | {"answer": "yes", "chosen": "YesThe cup", "reject": "No cup"}])
    assert len(converted(file, tmp_path / "out", images=genome)[0]) == 1


def test_image_data_decides_where_an_image_is(tmp_path: Path) -> None:
    genome = write_pictures(tmp_path / "vg", "VG_100K/12.jpg", "VG_100K_2/12.jpg")
    write_json(genome / "image_data.json", [{"image_id": 12, "url": "https://cs.stanford.edu/x/VG_100K_2/12.jpg"}])
    rows = [QUESTION, QUESTION | {"image_id": "13"}]
    pairs, result = converted(write_json(tmp_path / "pope_data.json", rows), tmp_path / "out", images=genome)
    assert pairs[0].images[0] == (genome / "VG_100K_2" / "12.jpg").read_bytes()
    assert result.quarantined == {"decode/missing": 1}
    write_json(genome / "image_data.json", {"nonsense": 1})
    with pytest.raises(UserError, match=r"image_data\.json"):
        converted(tmp_path / "pope_data.json", tmp_path / "again", images=genome)


def test_a_folder_with_both_files(tmp_path: Path, genome: Path) -> None:
    write_json(tmp_path / "in" / "desc_data.json", [DESCRIPTION])
    write_json(tmp_path / "in" / "pope_data.json", [QUESTION])
    pairs, _ = converted(tmp_path / "in", tmp_path / "out", images=genome)
    assert len(pairs) == 4


def test_each_kind_as_often_as_wanted(tmp_path: Path, genome: Path) -> None:
    write_json(tmp_path / "in" / "desc_data.json", [DESCRIPTION])
    write_json(tmp_path / "in" / "pope_data.json", [QUESTION])
    wanted = {"pairs_per_image": 1, "repeat_descriptions": 3, "repeat_questions": 2}
    pairs, result = converted(tmp_path / "in", tmp_path / "out", images=genome, options=wanted)
    assert (result.rows, result.kept, result.pairs) == (2, 2, 5)
    assert len({pair.id for pair in pairs}) == 5
    assert len({(pair.prompt_text, pair.chosen_text, pair.rejected_text) for pair in pairs[:3]}) == 1
    assert pairs[3].chosen_text == pairs[4].chosen_text == QUESTION["chosen"]


def test_the_published_questions(tmp_path: Path, published_data: Path) -> None:
    file = published_data / "fanglyyy_HA-DPO/ha_dpo/data/hadpo/llava-v1.5/pope_data.json"
    ids = {row["image_id"] for row in json.loads(file.read_text())}
    genome = write_pictures(tmp_path / "vg", *(f"VG_100K/{name}.jpg" for name in sorted(ids)))
    assert detect(file) == "hadpo"
    pairs, result = converted(file, tmp_path / "out", images=genome)
    assert (result.rows, len(pairs), result.quarantined) == (2673, 1544, {"filter/already_correct": 1129})
    assert sum(pair.provenance["answer"] == "no" for pair in pairs) == 1403
