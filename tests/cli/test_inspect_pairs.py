"""`mmpo inspect PAIRS` and `mmpo build reselect`, on a small multi-image build."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmpo.data.shards import PairWriter, read_pairs
from mmpo.data_builders.builders import build
from mmpo.data_builders.mia.draw import density, draw
from mmpo.data_builders.mia.ratio import packed
from mmpo.data_builders.mia.settings import MiaSettings
from tests.cli.conftest import Invoke


@pytest.fixture
def built(photos: Path, tiny_llava_folder: Path, here: Path) -> Path:
    rows = [
        {"id": str(n), "image": f"{n}.png", "question": "What is there?", "answer": f"There are {n} dogs."}
        for n in range(4)
    ]
    (photos / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = MiaSettings.model_validate(
        {
            "builder": "mia", "model": str(tiny_llava_folder), "data": photos / "records.jsonl", "max_new_tokens": 5,
            "sequence": {"sizes": {2: 1}}, "collage": {"sizes": {2: 1}},
            "selection": {"attention": False, "min_perplexity": None, "min_seen": 0},
        }
    )  # fmt: skip
    build(settings, here / "run" / "build")
    return here / "run"


def test_a_pair_is_drawn(built: Path, mmpo: Invoke, here: Path) -> None:
    pairs = built / "build" / "pairs"
    shown = mmpo("inspect", pairs, "--json")
    found = json.loads(shown.stdout)
    assert found["pairs"] == found["sequence"] + found["collage"] + found["pic_in_pic"] > 5
    assert found["mean attention_ratio"] > 0
    for layout in ("sequence", "collage", "pic_in_pic"):
        done = mmpo("inspect", pairs, "--id", f"1/{layout}", "--out", here / "drawn", "--json")
        assert done.exit_code == 0, done.stderr
        with Image.open(here / "drawn" / f"1_{layout}.png") as picture:
            assert min(picture.size) > 300
            colours = np.asarray(picture.convert("RGB")).reshape(-1, 3)
            assert (colours == (214, 39, 40)).all(1).any(), "the target is framed"
        page = (here / "drawn" / f"1_{layout}.html").read_text()
        assert "What is there?" in page.replace("what", "What") and "attention_ratio" in page
        assert 'src="http' not in page and "There are 1 dogs." in page
    missing = mmpo("inspect", pairs, "--id", "nine", "--out", here / "drawn")
    assert missing.exit_code == 2 and "no pair has the id" in missing.stderr
    assert mmpo("inspect", pairs, "--id", "1/sequence").exit_code == 2


def test_ids_that_look_alike_as_file_names_are_drawn_apart(built: Path, mmpo: Invoke, here: Path) -> None:
    pairs = list(read_pairs(built / "build" / "pairs"))[:3]
    with PairWriter(here / "alike", recipe={}) as writer:
        writer.add(*(replace(pair, id=name) for pair, name in zip(pairs, ("a/1", "A_1", "a 1"), strict=True)))
    done = mmpo(
        "inspect", here / "alike", *(f"--id={n}" for n in ("a/1", "A_1", "a 1")), "--out", here / "drawn", "--json"
    )
    assert done.exit_code == 0, done.stderr
    assert len({file.name.casefold() for file in (here / "drawn").glob("*.png")}) == 3


def test_selecting_again(built: Path, mmpo: Invoke, here: Path) -> None:
    done = mmpo(
        "build", "reselect", built, "--out", here / "less", "--set", "attention=true", "--set", "pic_in_pic=0.0"
    )
    assert done.exit_code == 0, done.stderr
    assert "attention" in done.stdout
    assert not [pair for pair in read_pairs(here / "less") if pair.provenance["layout"] == "pic_in_pic"]
    wrong = mmpo("build", "reselect", built, "--out", here / "other", "--set", "nonsense=1")
    assert wrong.exit_code == 2 and "nonsense" in wrong.stderr
    assert mmpo("build", "reselect", here, "--out", here / "none").exit_code == 2


def test_attention_is_drawn_where_it_was() -> None:
    values = np.zeros(16)
    values[3] = 0.5
    stored = {"size": [80, 40], "views": [{"grid": [4, 4], "box": [0, 0, 80, 40], **packed(values)}]}
    drawn = density(stored, (40, 80))
    assert drawn[5, 70] == drawn.max() > 0 and np.count_nonzero(drawn) == 10 * 20


def test_pairs_of_other_builders_are_drawn_too(pairs: Path) -> None:
    png = draw(next(iter(read_pairs(pairs))))
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.format == "PNG"


def test_groups_of_responses(mmpo: Invoke, tmp_path: Path) -> None:
    from mmpo.data.responses import ResponseGroup, ScoredResponse
    from mmpo.data.shards import ResponseWriter

    prompt = [{"role": "user", "content": [{"type": "text", "text": "What?"}]}]
    rows = {"a": [1.0, 0.5, None], "b": [0.0], "c": [0.25, 2.0]}
    with ResponseWriter(tmp_path / "groups") as writer:
        for name, scores in rows.items():
            writer.add(ResponseGroup(name, prompt, [ScoredResponse(f"It is {k}.", s) for k, s in enumerate(scores)]))
    shown = json.loads(mmpo("inspect", tmp_path / "groups", "--json").stdout)
    assert (shown["groups"], shown["responses"], shown["without score"]) == (3, 6, 1)
    assert shown["responses a group"] == "1 in 1, 2 in 1, 3 in 1" and shown["scores"] == "0 to 2"
    assert shown["mean score"] == 0.75 and shown["first ids"] == "a, b, c"
    assert [shown[f"a, response {k}"] for k in (1, 2, 3)] == ["1: It is 0.", "0.5: It is 1.", "no score: It is 2."]
    told = mmpo("inspect", tmp_path / "groups")
    assert "groups: 3" in told.stdout and "train.groups.data" in told.stdout
    refused = mmpo("inspect", tmp_path / "groups", "--id", "a", "--out", tmp_path / "x")
    assert refused.exit_code == 2 and "holds groups of responses" in refused.output
