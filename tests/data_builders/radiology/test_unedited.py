"""Reports without references, kept to be learnt as they stand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmpo.data_builders.builders import build
from mmpo.errors import UserError
from mmpo.trainers.auxiliary import Sample, read_samples
from mmpo.trainers.settings import AuxiliarySettings, TrainSettings
from mmpo.trainers.train import train
from tests.data_builders.radiology.test_radiology import settings
from tests.tiny import contents, save_tiny_llava


def test_unedited_reports_are_kept_as_they_stand(tmp_path: Path) -> None:
    result = build(settings(tmp_path, sft_share=1.0), tmp_path / "run")
    assert result.counts["unedited"] == {"in": 1, "kept": 1, "not_drawn": 0, "film_gone": 0}
    assert result.counts["unedited"]["in"] == result.counts["reports"]["filter: no_reference"]
    assert result.unedited == "unedited/unedited.json"
    for data in (tmp_path / "run" / "unedited", tmp_path / "run" / "unedited" / "unedited.json"):
        (sample,) = read_samples(AuxiliarySettings(data=data))
        assert isinstance(sample, Sample) and sample.id == "r1"
        assert sample.answers[0][1] == "The lungs are clear. There is no effusion."
    without = build(settings(tmp_path), tmp_path / "without")
    assert "unedited" not in without.counts and without.unedited is None
    assert not (tmp_path / "without" / "unedited").exists()
    assert contents(tmp_path / "run" / "pairs" / "data") != {} != contents(tmp_path / "without" / "pairs" / "data")


def test_the_share_is_a_share_and_seeded(tmp_path: Path) -> None:
    rows = [
        {"id": f"c{i}", "report": f"FINDINGS: The lungs are clear. Calcified node {i}.", "image": "a.png", "patient": i}
        for i in range(60)
    ]
    options = settings(tmp_path, sft_share=0.4, held_out_share=0.3)
    options.reports.write_text("".join(json.dumps(row) + "\n" for row in rows))
    counts = build(options, tmp_path / "run").counts["unedited"]
    assert counts["in"] == counts["kept"] + counts["not_drawn"] and 30 < counts["in"] < 54, "not the held-out patients"
    assert 0.2 < counts["kept"] / counts["in"] < 0.6
    first = contents(tmp_path / "run" / "unedited")
    (tmp_path / "run" / "build_result.json").unlink()
    (tmp_path / "run" / "unedited" / "unedited.json").unlink()
    build(options, tmp_path / "run")
    assert contents(tmp_path / "run" / "unedited") == first, "stopped and run again, the same bytes"
    with pytest.raises(UserError, match="sft_share"):
        build(options.model_copy(update={"sft_share": 0.5}), tmp_path / "run")


def test_they_train_beside_the_pairs_in_the_sft_term_alone(tmp_path: Path) -> None:
    build(settings(tmp_path, sft_share=1.0), tmp_path / "run")
    model = save_tiny_llava(tmp_path / "model")

    def losses(name: str, weight: float | None) -> dict[str, float]:
        objective = {"subset_dpo": {"beta": 0.1, "gamma": 0.5}}
        if weight is not None:
            objective["auxiliary"] = {"weight": weight}
        options = {
            "model": str(model), "pairs": str(tmp_path / "run" / "pairs"), "objective": objective, "max_steps": 2,
            "batch_size": 2, "dtype": "float32", "warmup": 0.0, "lora": {"rank": 2, "alpha": 4},
        }  # fmt: skip
        if weight is not None:
            options["auxiliary"] = {"data": str(tmp_path / "run" / "unedited")}
        result = train(TrainSettings.model_validate(options), tmp_path / name)
        return result.last_train

    alone, learnt = losses("alone", None), losses("learnt", 0.5)
    assert learnt["loss"] > alone["loss"] + 0.5, "the report's log-loss is added"
    assert "loss/auxiliary" in learnt and "loss/auxiliary" not in alone
