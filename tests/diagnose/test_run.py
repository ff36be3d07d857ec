"""A diagnosis on a real tiny model: its numbers are the scorer's, its counts add up, and stopping changes no byte."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

import mmpo as face
from mmpo.data.shards import PairWriter
from mmpo.diagnose import run as running
from mmpo.diagnose.measure import PairMeasurer
from mmpo.diagnose.run import NO_ADAPTER, Diagnosis, diagnose
from mmpo.diagnose.table import read_columns
from mmpo.errors import UserError
from tests.diagnose.material import small
from tests.tiny import contents
from tests.trainers.material import make_pairs, write_pairs


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, twelve: Path, tiny_llava_folder: Path, adapter: Path) -> Diagnosis:
    other = write_pairs(tmp_path_factory.mktemp("other") / "pairs", 4, seed=7)
    settings = small(twelve, tiny_llava_folder, adapter, also={"other": other})
    return diagnose(settings, tmp_path_factory.mktemp("done") / "diagnose")


def value(found: Diagnosis, name: str) -> float:
    (number,) = [one.value for one in found.readings if one.name == name]
    assert number is not None
    return number


def test_the_numbers_are_those_of_the_scorer(
    done: Diagnosis, twelve: Path, tiny_llava_folder: Path, adapter: Path
) -> None:
    with face.load(tiny_llava_folder, adapter, dtype="float32") as model:
        scores = model.score(twelve)
    (rows,) = read_columns([done.folder / "numbers/pairs/00000.parquet"])
    assert rows.ids == list(scores.ids)
    assert scores.ref_chosen is not None and scores.ref_rejected is not None
    for name, sums in (
        ("policy_chosen", scores.policy_chosen), ("policy_rejected", scores.policy_rejected),
        ("reference_chosen", scores.ref_chosen), ("reference_rejected", scores.ref_rejected),
    ):  # fmt: skip
        assert rows[name] == pytest.approx(sums.numpy(), abs=1e-3)
    assert rows["chosen_tokens"].tolist() == scores.chosen_lengths.tolist()
    a, b = scores.policy_chosen - scores.ref_chosen, scores.policy_rejected - scores.ref_rejected
    assert value(done, "chosen fell") == pytest.approx((a < 0).double().mean().item())
    assert value(done, "accuracy") == pytest.approx((a > b).double().mean().item())
    assert value(done, "change of rejected") == pytest.approx(b.mean().item(), abs=1e-3)
    right = scores.policy_chosen >= scores.policy_rejected
    assert value(done, "ranking accuracy, policy") == pytest.approx(right.double().mean().item())
    assert value(done, "past the flip threshold, beta 0.1") == value(done, "ranking accuracy, policy")


def test_every_part_is_there(done: Diagnosis) -> None:
    assert {one.subject for one in done.readings} == {
        "ranking", "flip", "displacement", "ches", "properties", "implicit reward", "separability", "length", "drift",
        "perception",
    }  # fmt: skip
    assert dict(done.left_out) == {}
    assert done.counts == {"pairs": {"in": 12, "diagnosed": 12}, "other": {"in": 4, "diagnosed": 4}}
    assert all(one.grave == "fine" or one.advice for one in done.readings)
    assert len(done.most_alike) == 12 and done.most_alike[0][1] >= done.most_alike[-1][1]
    assert 0 <= value(done, "accuracy, other") <= 1
    assert len([one for one in done.readings if one.name.startswith("idealized")]) == 5


def test_files_of_a_diagnosis(done: Diagnosis) -> None:
    data = json.loads((done.folder / "diagnose.json").read_text())
    assert data["format"] == "mmpo-diagnosis/1" and len(data["readings"]) == len(done.readings)
    page = (done.folder / "diagnose.md").read_text()
    drawn = sorted(path.name for path in done.folder.glob("*.svg"))
    assert drawn == [
        "change.svg", "ches.svg", "flip.svg", "gradient.svg", "idealized.svg", "margin.svg", "perception.svg",
    ]  # fmt: skip
    for name in drawn:
        ElementTree.parse(done.folder / name)
        assert f"]({name})" in page
    assert page.count("\n| ") >= len(done.readings) and "KL(policy \\|\\| reference)" in page


def test_perception_sees_whether_the_picture_counts(
    tmp_path: Path, twelve: Path, tiny_llava_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = small(twelve, tiny_llava_folder)
    model = face.load(tiny_llava_folder, dtype="float32").vlm
    pairs = make_pairs(4)
    seeing = PairMeasurer(model, settings)(tmp_path, range(4), pairs, asked=["perception"])
    assert all(one.perception_chosen > 1e-7 and one.perception_rejected > 1e-7 for one in seeing.numbers)
    again = PairMeasurer(model, settings)(tmp_path, range(4), pairs, asked=["perception"])
    assert again.numbers == seeing.numbers
    with torch.no_grad():
        for parameter in model.base.model.multi_modal_projector.parameters():
            parameter.zero_()  # a model that sees nothing
    blind = PairMeasurer(model, settings)(tmp_path, range(4), pairs, asked=["perception"])
    assert max(one.perception_chosen for one in blind.numbers) == pytest.approx(0, abs=1e-9)


def test_ches_is_that_of_the_models_own_states(tmp_path: Path, twelve: Path, tiny_llava_folder: Path) -> None:
    """Against the model's plain forward over prompt and response, one row, nothing shared, no padding."""
    from mmpo.trainers.collate import PairCollator, encode_pairs
    from mmpo.trainers.images import ImageStore

    vlm = face.load(tiny_llava_folder, dtype="float32").vlm
    pairs = make_pairs(3)
    unit = PairMeasurer(vlm, small(twelve, tiny_llava_folder))(tmp_path, range(3), pairs, asked=["ches"])
    store = ImageStore(vlm, 2**24)
    collate = PairCollator(store)
    for number, row in enumerate(encode_pairs(vlm, pairs, store).rows):
        pixels = collate([row])["batch"].image_inputs
        sums = []
        for response in (row.chosen, row.rejected):
            ids = torch.cat([row.prompt, response]).long()[None]
            with torch.no_grad():
                out = vlm.base(input_ids=ids, **pixels, output_hidden_states=True)
            states = out.hidden_states[-1][0, len(row.prompt) - 1 : -1].double()  # last of the prompt to last but one
            assert len(states) == len(response)
            sums.append(states.sum(0))
        w, l_ = sums
        n_w, n_l = len(row.chosen), len(row.rejected)
        found = unit.numbers[number]
        assert found.ches == pytest.approx((w @ l_ - w @ w).item(), rel=1e-3)
        assert found.ches_normalized == pytest.approx(
            (w @ l_ / (n_w * n_l) - w @ w / n_w**2).item(), rel=1e-3, abs=1e-4
        )


def test_before_a_training(tmp_path: Path, twelve: Path, tiny_llava_folder: Path) -> None:
    found = diagnose(small(twelve, tiny_llava_folder, without=["separability"]), tmp_path / "out")
    subjects = {one.subject for one in found.readings}
    assert subjects == {"ranking", "ches", "properties", "length", "perception"}
    assert found.left_out == {
        "separability": "left out as asked", "samples": NO_ADAPTER, "policy, displacement, implicit reward": NO_ADAPTER,
    }  # fmt: skip
    assert not (tmp_path / "out" / "samples").exists()


def test_pairs_that_cannot_be_used_are_counted(tmp_path: Path, tiny_llava_folder: Path, adapter: Path) -> None:
    good, same, lost = make_pairs(3)
    with PairWriter(tmp_path / "pairs", recipe={}) as writer:
        writer.add(good)
        writer.add(
            replace(
                same, rejected=[{"role": "assistant", "content": [{"type": "text", "text": same.chosen_text + " "}]}]
            )
        )
        writer.add(replace(lost, id="lost", images=["nowhere.png"]))
    found = diagnose(small(tmp_path / "pairs", tiny_llava_folder, adapter), tmp_path / "out")
    counts = dict(found.counts["pairs"])
    assert counts.pop("in") == 3 == sum(counts.values()) and counts["diagnosed"] >= 1
    assert any(reason.startswith("decode/") for reason in counts)
    assert found.left_out["separability"] == "the pairs are about fewer than five pictures"


def test_no_pair_that_can_be_used(tmp_path: Path, tiny_llava_folder: Path) -> None:
    with PairWriter(tmp_path / "pairs", recipe={}) as writer:
        writer.add(replace(make_pairs(1)[0], images=["nowhere.png"]))
    with pytest.raises(UserError, match="no pair can be scored: 1 decode/"):
        diagnose(small(tmp_path / "pairs", tiny_llava_folder), tmp_path / "out")


def test_stopped_at_every_other_write_it_gives_the_same_bytes(
    tmp_path: Path, twelve: Path, tiny_llava_folder: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "UNIT", 5)
    monkeypatch.setattr(running, "PROMPTS", 2)
    settings = small(twelve, tiny_llava_folder, adapter)
    whole, stopped = tmp_path / "whole" / "diagnose", tmp_path / "stopped" / "diagnose"
    diagnose(settings, whole)
    assert set(contents(whole)) >= {"numbers/pairs/00002.parquet", "samples/00001.json", "diagnose.md"}
    left = 0

    def ends_soon(real: Callable[..., object]) -> Callable[..., object]:
        def write(path: Path, *rest: object) -> object:
            nonlocal left
            left -= path.name != "source.json"  # written by every try
            if left < 0:
                raise KeyboardInterrupt
            return real(path, *rest)

        return write

    tries = 0
    with monkeypatch.context() as patch:
        for name in ("write_unit", "write_sealed", "write_json", "write_page"):
            patch.setattr(running, name, ends_soon(getattr(running, name)))
        while True:
            left, tries = 2, tries + 1
            try:
                diagnose(settings, stopped)
                break
            except KeyboardInterrupt:
                assert tries < 20
    assert tries >= 4
    assert contents(stopped) == contents(whole)


def test_another_source_is_refused(tmp_path: Path, twelve: Path, tiny_llava_folder: Path) -> None:
    out = tmp_path / "out"
    quick = {"without": ["separability", "perception", "ches"]}
    diagnose(small(twelve, tiny_llava_folder, **quick), out)
    with pytest.raises(UserError, match="another `beta`"):
        diagnose(small(twelve, tiny_llava_folder, beta=0.5, **quick), out)
    copy = write_pairs(tmp_path / "pairs", 3)
    diagnose(small(copy, tiny_llava_folder, **quick), tmp_path / "second")
    with PairWriter(tmp_path / "new", recipe={}) as writer:
        writer.add(make_pairs(1)[0])
    (copy / "card.json").unlink()
    (tmp_path / "new/data/train-00000.parquet").replace(copy / "data/train-00000.parquet")
    with pytest.raises(UserError, match="another `data`"):
        diagnose(small(copy, tiny_llava_folder, **quick), tmp_path / "second")


def test_a_damaged_unit_is_told_with_the_remedy(tmp_path: Path, twelve: Path, tiny_llava_folder: Path) -> None:
    settings = small(twelve, tiny_llava_folder, without=["separability", "perception"])
    diagnose(settings, tmp_path)
    file = tmp_path / "numbers/pairs/00000.parquet"
    before = contents(tmp_path)
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(UserError, match=r"00000\.parquet: not a whole Parquet file") as told:
        diagnose(settings, tmp_path)
    assert told.value.hint is not None and str(file) in told.value.hint
    file.unlink()
    diagnose(settings, tmp_path)
    assert contents(tmp_path) == before


def test_a_limit_draws_the_same_pairs_again(tmp_path: Path, twelve: Path, tiny_llava_folder: Path) -> None:
    quick = {"without": ["separability", "perception", "ches"], "limit": 5}
    for name in ("a", "b"):
        assert diagnose(small(twelve, tiny_llava_folder, **quick), tmp_path / name).counts["pairs"]["in"] == 5
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    (rows,) = read_columns([tmp_path / "a/numbers/pairs/00000.parquet"])
    assert (np.diff(rows.rows) > 0).all() and len(set(rows.rows)) == 5
