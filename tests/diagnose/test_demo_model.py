"""The demo's model on pairs about its world, where it is known what is in a picture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmpo.data.pair import PreferencePair
from mmpo.data.shards import PairWriter
from mmpo.demo.world import write_split
from mmpo.diagnose.run import diagnose
from mmpo.diagnose.settings import DiagnoseSettings
from tests.diagnose.test_run import value

MODEL = Path(__file__).parents[2] / "mmpo" / "demo" / "model"


@pytest.fixture(scope="module")
def demo_pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pairs a picture: what is on it, against something that is not."""
    folder = tmp_path_factory.mktemp("demo")
    world = write_split(folder / "world", "test", 8)
    rows = [json.loads(line) for line in (world / "annotations.jsonl").read_text().splitlines()]
    names = sorted({one["name"] for row in rows for one in row["objects"]})
    with PairWriter(folder / "pairs", recipe={"builder": "test"}) as writer:
        for number, row in enumerate(rows):
            there = {one["name"] for one in row["objects"]}
            for asked, right in (
                (sorted(there)[0], True),
                (next(n for n in names[number:] + names if n not in there), False),
            ):
                yes, no = f"Yes, there is a {asked}.", f"No, there is no {asked}."
                writer.add(
                    PreferencePair.simple(
                        id=f"{row['id']}-{asked}",
                        image=(world / row["image"]).read_bytes(),
                        question=f"Is there a {asked} in the image?",
                        chosen=yes if right else no,
                        rejected=no if right else yes,
                    )
                )
    return folder / "pairs"


def test_a_model_that_looks(demo_pairs: Path, tmp_path: Path) -> None:
    settings = DiagnoseSettings(pairs=demo_pairs, model=str(MODEL), dtype="float32")
    found = diagnose(settings, tmp_path / "out")
    assert found.counts["pairs"] == {"in": 16, "diagnosed": 16}
    assert value(found, "ranking accuracy, reference") > 0.7  # it was trained to see what is there
    assert value(found, "perception gap, chosen") > 0.02  # and does look
    assert value(found, "idealized ranking accuracy, beta 0.01") >= value(found, "idealized ranking accuracy, beta 10")
    assert value(found, "separable by surface") < 0.95  # yes and no are right equally often
