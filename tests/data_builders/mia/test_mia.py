"""A whole multi-image build with a tiny real model: counts, ratios, resuming, selecting again, bad input."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from mmpo.data.layouts.geometry import Box, canvas_size, cells
from mmpo.data.layouts.token_grid import GridView, TokenMap
from mmpo.data.shards import read_pairs
from mmpo.data_builders.builders import build
from mmpo.data_builders.mia.build import reselect
from mmpo.data_builders.mia.plan import QuestionRecord, plan, read_records
from mmpo.data_builders.mia.ratio import packed, region_parts, sequence_parts, unpacked
from mmpo.data_builders.mia.select import edit_distance, length_ratio, perplexity, threshold, verdict
from mmpo.data_builders.mia.settings import AttentionSettings, CollageSettings, MiaSettings, SelectionSettings
from mmpo.errors import UserError
from mmpo.files.atomic import read_json
from mmpo.files.images import load_image
from tests.tiny import save_tiny_llava, tiny_image

KEEP_ALL = {"attention": False, "min_perplexity": None, "min_seen": 0.0}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llava(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_records(tmp_path_factory.mktemp("mia"))


def write_records(folder: Path) -> Path:
    """Records about pictures in every mode, one of a single pixel, one truncated, one missing."""
    (folder / "a").mkdir()
    rows = []
    for number, mode in enumerate(["RGB", "L", "P", "CMYK", "RGBA", "LA", "1", "RGB", "RGB", "RGB"]):
        suffix = {"CMYK": "jpg"}.get(mode, "png")
        picture = tiny_image(number, (60 + number, 50)).convert(mode)
        if number == 7:
            picture = picture.resize((1, 1))
        picture.save(folder / "a" / f"{number}.{suffix}")
        rows.append(
            {
                "id": f"r{number}",
                "image": f"a/{number}.{suffix}",
                "conversations": [
                    {"from": "human", "value": "<image>\nIs there a dog in the image?"},
                    {"from": "gpt", "value": f"No, there is no dog but {number} cats."},
                ],
            }
        )
    (folder / "a" / "8.png").write_bytes((folder / "a" / "8.png").read_bytes()[:300])
    (folder / "a" / "9.png").unlink()
    (folder / "records.json").write_text(json.dumps(rows))
    return folder


def settings(model: Path, world: Path, **changes: Any) -> MiaSettings:
    values: dict[str, Any] = {
        "builder": "mia",
        "model": str(model),
        "data": world / "records.json",
        "max_new_tokens": 6,
        "shard_size": 4,
        "sequence": {"sizes": {2: 1, 3: 1}},
        "collage": {"sizes": {2: 1, 4: 1}, "targets": {2: 1, 4: 2}},
        "refusals": 0.5,
        "selection": KEEP_ALL,
    }
    return MiaSettings.model_validate(values | changes)


@pytest.fixture(scope="module")
def built(model: Path, world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("built")
    return folder, build(settings(model, world), folder)


def test_everything_is_accounted_for(built: tuple[Path, Any]) -> None:
    folder, result = built
    for table in result.counts.values():
        assert table["in"] == sum(table.values()) - table["in"]
    reasons = result.counts["prompts"]
    assert any(reason.startswith("companion: ") for reason in reasons) and "target: missing" in reasons
    assert "target: truncated" in reasons
    pairs = list(read_pairs(folder / "pairs"))
    assert len(pairs) == result.pairs_made > 10 and len({pair.id for pair in pairs}) == len(pairs)
    assert {pair.provenance["layout"] for pair in pairs} == {"sequence", "collage", "pic_in_pic"}
    used = {pair.id.split("/")[0] for pair in pairs}
    assert used == {f"r{number}" for number in range(8)}, "grey, palette, CMYK, transparent and one-pixel pictures too"
    card = json.loads((folder / "pairs" / "card.json").read_text())
    assert "| sequence 2 |" in card["notes"]


def test_too_few_companions_are_a_reason(model: Path, world: Path, tmp_path: Path) -> None:
    """Two pictures make no sequence of three and no collage of four, but one inside the other."""
    rows = json.loads((world / "records.json").read_text())[:2]
    (tmp_path / "records.json").write_text(json.dumps(rows))
    chosen = settings(
        model, world, data=tmp_path / "records.json", images=world, refusals=0.0,
        sequence={"sizes": {3: 1}}, collage={"sizes": {4: 1}, "targets": {4: 1}},
    )  # fmt: skip
    counts = build(chosen, tmp_path / "run").counts
    assert counts["prompts"] == {"in": 6, "paired": 2, "layout: too_few_companions": 4}
    assert list(counts)[2:] == ["answers, pic_in_pic"]


def test_pairs_point_to_the_right_picture(built: tuple[Path, Any], world: Path) -> None:
    folder, _ = built
    rows = {row["id"]: row for row in json.loads((world / "records.json").read_text())}
    for pair in read_pairs(folder / "pairs"):
        where = pair.provenance
        row = rows[where["sources"][0]]
        text = pair.prompt_text
        if where["refusal"]:
            assert f"In Image{len(pair.images) + 1}," in text and "there is no Image" in pair.chosen_text
            continue
        assert pair.chosen_text == row["conversations"][1]["value"] and pair.rejected_text != pair.chosen_text
        assert where["pictures"][where["target"] - 1] == row["image"]
        assert len(set(where["pictures"])) == len(where["pictures"])
        if where["layout"] == "pic_in_pic":
            assert " is there a dog" in text and len(pair.images) == 1
        else:
            assert f"In Image{where['target']}, is there a dog in the image?" in text
        if where["layout"] == "sequence":
            assert len(pair.images) == len(where["pictures"])
            shown = load_image(pair.images[where["target"] - 1])
            assert (np.asarray(shown) == np.asarray(load_image(world / row["image"]))).all()
        if where["layout"] == "collage":
            n = len(where["pictures"])
            picture = load_image(pair.images[0])
            assert picture.size == canvas_size(n)
            x0, y0, x1, y1 = map(int, where["regions"][where["target"] - 1])
            assert (x0, y0) == tuple(map(int, cells(n)[where["target"] - 1][:2]))
            own = load_image(world / row["image"]).resize((x1 - x0, y1 - y0), Image.Resampling.LANCZOS)
            assert np.abs(np.asarray(picture).astype(int)[y0:y1, x0:x1] - np.asarray(own)).mean() < 8, "the clean file"


def test_scores_are_those_of_the_stored_maps(built: tuple[Path, Any]) -> None:
    folder, _ = built
    for pair in read_pairs(folder / "pairs"):
        attention = pair.provenance["attention"]
        if pair.provenance["refusal"]:
            assert "attention_ratio" not in (pair.scores or {})
            continue
        scores = pair.scores or {}
        assert scores["attention_ratio"] == pytest.approx(scores["attention_target"] / scores["attention_all"])
        maps = [np.concatenate([unpacked(view) for view in one["views"]]) for one in attention["maps"]]
        if pair.provenance["layout"] == "sequence":
            means = [values.mean() for values in maps]
            index = pair.provenance["target"] - 1
            assert scores["ratio_mean"] == pytest.approx(means[index] / sum(means), rel=2e-3)
            assert scores["attention_uniform"] == pytest.approx(1 / len(means))
        else:
            assert scores["attention_all"] == pytest.approx(maps[0].sum(), rel=2e-3)
            assert scores["attention_ratio"] == scores["ratio_blocks"]
        assert scores["perplexity"] >= 1 and attention["layers"] == [1]


def test_killed_and_resumed_it_ends_with_the_same_bytes(
    built: tuple[Path, Any], model: Path, world: Path, tmp_path: Path
) -> None:
    folder, result = built
    build(settings(model, world), tmp_path)
    (tmp_path / "build_result.json").unlink()
    (tmp_path / "units" / "00001.json").unlink()
    for path in (tmp_path / "pairs" / "data").glob("*"):
        path.unlink()
    again = build(settings(model, world), tmp_path)
    assert again == result
    for path in sorted((folder / "pairs" / "data").glob("*")):
        assert path.read_bytes() == (tmp_path / "pairs" / "data" / path.name).read_bytes()
    with pytest.raises(UserError, match="another `seed`"):
        build(settings(model, world, seed=9), tmp_path)


def test_selecting_again_needs_no_model(built: tuple[Path, Any], model: Path, world: Path, tmp_path: Path) -> None:
    folder, _ = built
    changes = {"attention": True, "min_perplexity": 1.0, "sequence": {2: 0.5, 3: 0.34}, "pic_in_pic": 0.0}
    again = reselect(folder, tmp_path / "tight", changes)
    fresh = build(settings(model, world, selection={**KEEP_ALL, **changes}), tmp_path / "fresh")
    assert again.counts == fresh.counts and again.pairs_made < built[1].pairs_made
    for path in sorted((tmp_path / "fresh" / "pairs" / "data").glob("*")):
        assert path.read_bytes() == (tmp_path / "tight" / "data" / path.name).read_bytes()
    assert again.counts["answers, pic_in_pic"]["attention"] == again.counts["answers, pic_in_pic"]["in"]
    with pytest.raises(UserError, match="min_perplexity"):
        reselect(folder, tmp_path / "wrong", {"min_perplexity": "much"})
    with pytest.raises(UserError, match="holds pairs already"):
        reselect(folder, tmp_path / "tight", {})


def test_official_quirks(model: Path, world: Path, tmp_path: Path) -> None:
    result = build(settings(model, world, compat="official", pic_in_pic=None, refusals=0.1), tmp_path)
    pairs = list(read_pairs(tmp_path / "pairs"))
    refusals = [pair for pair in pairs if pair.provenance["refusal"]]
    assert [pair.chosen_text[:17] for pair in refusals] == ["You only provided"] and result.pairs_made == len(pairs)
    collage = next(pair for pair in pairs if pair.provenance["layout"] == "collage")
    assert load_image(collage.images[0]).size in (canvas_size(2), canvas_size(4))


def test_the_plan_is_seeded_and_exact() -> None:
    records = [QuestionRecord(f"{n}", f"s{n % 2}/{n}.jpg", "What?", "A cat.", boxed=n % 10 == 0) for n in range(200)]
    chosen = MiaSettings(builder="mia", model="m", data=Path("d"), collage=CollageSettings(targets={}), seed=3)
    items = plan(records, chosen)
    assert items == plan(records, chosen)
    assert items != plan(records, chosen.model_copy(update={"seed": 4}))
    sequences = [item for item in items if item.layout == "sequence"]
    assert len(sequences) == 200 and sum(item.n == 2 for item in sequences) in (109, 110)
    boxless = [item for item in items if item.layout != "sequence"]
    assert not any(target.record.boxed for item in boxless for target in item.targets)
    assert sum(item.layout == "pic_in_pic" for item in items) == 180
    for item in items:
        assert len(set(item.pictures)) == item.n
        assert len({path.split("/")[0] for path in item.pictures}) == 1, "companions of the same subset"
        for target in item.targets:
            assert item.pictures[target.index - 1] == target.record.image
    several = plan(
        records, chosen.model_copy(update={"collage": MiaSettings.model_fields["collage"].default_factory()})
    )  # type: ignore[misc]
    collages = [item for item in several if item.layout == "collage"]
    assert {item.n: len(item.targets) for item in collages} == {2: 1, 3: 2, 4: 2, 6: 3, 9: 3}
    used = [target.record.id for item in collages for target in item.targets]
    assert len(set(used)) == len(used) > 170


def test_records_that_can_not_be_used_are_counted(tmp_path: Path) -> None:
    said = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "A cat at [0.1, 0.2, 0.3, 0.4]."}]
    rows: list[Any] = [
        {"id": 1, "image": "a.png", "conversations": said},
        {"id": 1, "image": "a.png", "conversations": said},
        {"id": 2, "conversations": said},
        {"id": 3, "image": "../a.png", "conversations": said},
        {"id": 4, "image": "a.png", "conversations": said[::-1]},
        {"id": 5, "image": "a.png", "question": " ", "answer": "x"},
        {"id": 6, "image": "a.png", "question": "<image><image>What?", "answer": "x"},
    ]
    path = tmp_path / "r.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found, counts = read_records(path)
    assert [record.boxed for record in found] == [True]
    assert counts == {
        "in": 7, "duplicate_id": 1, "no_single_image": 1, "bad_image_path": 1, "bad_conversation": 1, "empty_text": 1,
        "image_count": 1,
    }  # fmt: skip
    path.write_text('{"image": "a.png"}\n')
    with pytest.raises(UserError, match=r"r\.jsonl:1: neither"):
        read_records(path)


def test_constant_attention_gives_the_uniform_ratio() -> None:
    assert sequence_parts([np.ones(576)] * 5, 3)["mean"].ratio == pytest.approx(1 / 5)
    uneven = sequence_parts([np.ones(100), np.ones(300)], 1)
    assert uneven["mean"].ratio == 0.5 and uneven["sum"].ratio == uneven["sum"].uniform == 0.75
    for n in (2, 3, 4, 6, 9):
        width, height = canvas_size(n)
        edge = max(width, height)
        x, y = (edge - width) // 2, (edge - height) // 2
        view = GridView(np.arange(576).reshape(24, 24), Box(-x, -y, edge - x, edge - y))
        parts = region_parts("collage", np.ones(576), TokenMap(576, (width, height), (view,)), cells(n), n - 1)
        assert parts["blocks"].ratio == pytest.approx(1 / n)
        assert parts["only_regions"].ratio == pytest.approx(1 / n)
        assert parts["exact"].ratio < 1 / n and parts["exact"].ratio == pytest.approx(parts["exact"].uniform)
    square = TokenMap(576, (100, 100), (GridView(np.arange(576).reshape(24, 24), Box(0, 0, 100, 100)),))
    inner = region_parts("pic_in_pic", np.ones(576), square, [Box(0, 0, 100, 100), Box(15, 15, 85, 85)], 1)
    assert inner["blocks"].ratio == pytest.approx(0.4444, abs=1e-4) and inner["exact"].ratio == pytest.approx(0.49)


def test_attention_is_not_confused_with_its_place() -> None:
    values = np.zeros(576)
    values[12 * 24 : 14 * 24 : 24] = 1.0  # two tokens at the left edge, below the middle: the third of four
    width, height = canvas_size(4)
    places = TokenMap(576, (width, height), (GridView(np.arange(576).reshape(24, 24), Box(0, 0, width, height)),))
    found = [region_parts("collage", values, places, cells(4), index)["blocks"].ratio for index in range(4)]
    assert found == [0, 0, 1, 0]


def test_filters() -> None:
    assert perplexity([math.log(p) for p in (0.9, 0.8, 0.95)]) == pytest.approx(1.13496, abs=1e-5)
    assert edit_distance("kitten", "sitting") == pytest.approx(3 / 7) and length_ratio("a b c", "x y") == 1.5
    candidate: dict[str, Any] = {
        "layout": "sequence", "n": 3, "refusal": False, "chosen": "a cat", "rejected": "a dog", "perplexity": 1.2,
        "seen": 1.0, "parts": {"mean": {"ratio": 0.7, "uniform": 1 / 3}, "sum": {"ratio": 0.9, "uniform": 1 / 3}},
    }  # fmt: skip
    own = AttentionSettings()

    def why(changed: dict[str, Any] | None = None, **selection: Any) -> str:
        return verdict(candidate | (changed or {}), own, SelectionSettings(**selection))

    assert why() == "" and why(thresholds="paper") == "attention" and why(sequence={3: 0.69}) == "attention"
    assert verdict(candidate, AttentionSettings(sequence="sum"), SelectionSettings()) == "attention"
    assert why({"rejected": " "}) == "empty" and why({"rejected": "a cat"}) == "equal"
    assert why({"parts": None}) == "no_attention" and why({"seen": 0.2}) == "target_cropped"
    assert why({"perplexity": 1.1}) == "perplexity" and why({"perplexity": 1.1}, min_perplexity=None) == ""
    assert why(max_length_ratio=1.0) == "" and why({"rejected": "dog"}, max_length_ratio=1.5) == "length_ratio"
    assert why(min_edit_distance=0.9) == "edit_distance" and why(max_rejected_characters=4) == "too_long"
    yes = {"chosen": "Yes, a cat.", "rejected": "Yes, in Image2."}
    assert why(yes) == "" and why(yes, drop_right=True) == "right"
    assert why(yes | {"rejected": "No cat."}, drop_right=True) == "" and why(drop_right=True) == ""
    assert why({"refusal": True, "rejected": "Image4 does not exist."}) == "refuses_already"
    assert threshold(candidate, own, SelectionSettings(times_uniform=1.5)) == pytest.approx(0.5)
    collage = {"layout": "collage", "n": 4, "parts": {"blocks": {"ratio": 0.5, "uniform": 0.25}}}
    assert why(collage) == "attention", "collages compare strictly"
    table = SelectionSettings(thresholds="paper")
    assert [table.threshold("sequence", n) for n in (2, 3, 4, 5, 7)] == [0.7, 0.6, 0.5, 0.5, 0.5]
    assert [table.threshold("collage", n) for n in (2, 3, 4, 6, 9)] == [0.7, 0.6, 0.5, 0.4, 0.3]


def test_maps_survive_packing() -> None:
    values = np.random.default_rng(0).random(64) * 1e-4
    np.testing.assert_allclose(unpacked(packed(values)), values, atol=1e-7)
    assert unpacked(packed(np.zeros(3))).tolist() == [0, 0, 0]


def test_settings_that_make_no_sense(model: Path, world: Path) -> None:
    for wrong in (
        {"sequence": None, "collage": None, "pic_in_pic": None},
        {"collage": {"sizes": {5: 1}}},
        {"collage": {"sizes": {2: 1}, "targets": {2: 3}}},
        {"sequence": {"sizes": {1: 1}}},
        {"thresholds": 1},
    ):
        with pytest.raises(ValidationError):
            settings(model, world, **wrong)


def test_unit_files_hold_all_candidates(built: tuple[Path, Any]) -> None:
    folder, result = built
    candidates = [
        one
        for path in (folder / "units").glob("*.json")
        for row in read_json(path)["outcomes"]
        for one in row["candidates"]
    ]
    tables = [table for name, table in result.counts.items() if name.startswith("answers")]
    assert len(candidates) == sum(table["in"] for table in tables) >= result.pairs_made
