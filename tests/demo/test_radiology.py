"""The radiology world: films, reports that agree with them, and a few steps of the model's training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from mmpo.demo.drawing import SIZE
from mmpo.demo.radiology import chests, dictation, model_path, world
from mmpo.demo.radiology.model_card import write_model_card
from mmpo.errors import UserError
from mmpo.eval.scorecard import Scorecard
from mmpo.models.answer import AnswerEngine
from mmpo.models.loading import VLM, load_vlm
from mmpo.models.prompts import encode_prompt
from mmpo.radiology.detector import RuleDetector
from mmpo.radiology.editing import RuleEditor, edit_report
from mmpo.radiology.findings import compare_findings, report_findings

LABELS = {
    "effusion": "Pleural Effusion", "opacity": "Lung Opacity", "cardiomegaly": "Cardiomegaly", "edema": "Edema",
    "pneumothorax": "Pneumothorax", "pacemaker": "Support Devices", "endotracheal tube": "Support Devices",
    "nodule": "Lung Lesion",
}  # fmt: skip


def test_films_are_drawn_from_the_seed() -> None:
    one, same, other = (chests.sample_chest((0, 1, i)) for i in (3, 3, 4))
    assert np.array_equal(np.asarray(one.draw()), np.asarray(same.draw()))
    assert not np.array_equal(np.asarray(one.draw()), np.asarray(other.draw()))
    assert one.draw().size == (SIZE, SIZE)
    kinds = {f.kind for i in range(60) for f in chests.sample_chest((0, 1, i)).findings}
    assert kinds == set(chests.KINDS)


def test_reports_say_what_is_drawn() -> None:
    """The findings of the exact report are the drawn ones; the edited dictated report has the same."""
    detector = RuleDetector()
    editor = RuleEditor(detector)
    mentioned = 0
    for index in range(80):
        chest = chests.sample_chest((0, 9, index))
        exact = dictation.exact_report(chest, np.random.default_rng(index))
        assert not detector.flags(exact)
        found = {name for name, status in report_findings(exact).items() if status == "positive"} - {"No Finding"}
        assert found == {LABELS[finding.kind] for finding in chest.findings}
        dictated = dictation.dictated_report(chest, np.random.default_rng(index))
        mentioned += len(detector.report(dictated).flagged)
        edited = report_findings(edit_report(dictated, editor).text)
        assert {n for n, s in edited.items() if s == "positive"} - {"No Finding"} == found, dictated
    assert 1.5 < mentioned / 80 < 3


def test_world_as_files(tmp_path: Path) -> None:
    folder = world.write_split(tmp_path / "w", "radiology_train", 3)
    rows = [json.loads(line) for line in (folder / "reports.jsonl").read_text().splitlines()]
    assert len(rows) == 3 and all(row["synthetic"] and (folder / row["image"]).exists() for row in rows)
    with pytest.raises(UserError):
        list(world.world_split("nope", 1))


def test_a_few_training_steps(tmp_path: Path) -> None:
    from transformers import LlavaProcessor

    from mmpo.demo.radiology.pretrain import Plan, batch, build_tokenizer, patch_labels, pretrain

    chest = next(c for i in range(50) if (c := chests.sample_chest((0, 2, i))).of("effusion"))
    assert patch_labels(chest)[:, chests.KINDS.index("effusion")].sum() >= 2
    plan = Plan(see_steps=1, see_batch=2, speak_steps=1, speak_batch=2)
    rows = batch(build_tokenizer(), plan, 0)
    assert rows["input_ids"].shape == rows["labels"].shape and (rows["labels"] >= 0).sum() > 4
    folder = pretrain(tmp_path, plan)
    processor = LlavaProcessor.from_pretrained(folder)
    assert processor.tokenizer.decode(processor.tokenizer.encode("Heart size is normal.")).endswith(
        "Heart size is normal."
    )


@pytest.fixture(scope="module")
def model() -> VLM:
    return load_vlm(str(model_path()))


def test_the_shipped_model_is_a_plain_llava_and_small(model: VLM) -> None:
    assert type(model.model).__name__ == "LlavaForConditionalGeneration"
    assert sum(file.stat().st_size for file in model_path().iterdir()) <= 16 * 2**20
    assert not [file.name for file in model_path().iterdir() if file.suffix in (".bin", ".pt", ".pkl", ".py")]


def test_the_shipped_model_sees_and_makes_up_earlier_exams(model: VLM) -> None:
    """Greedy reports of 40 unseen films: findings right, and more than one line a report with an earlier exam."""
    films = list(world.world_split("radiology_test", 40, seed=5))
    engine = AnswerEngine(model, max_new_tokens=128)
    said = list(engine.describe([film.draw() for film in films], dictation.PROMPT))
    assert sum(len(RuleDetector().report(text).flagged) for text in said) / 40 > 1
    exact = [dictation.exact_report(film, np.random.default_rng(0)) for film in films]
    assert compare_findings(said, exact).f1 > 0.8


def test_training_rows_are_the_prompts_of_the_processor(model: VLM) -> None:
    from mmpo.demo.radiology.pretrain import TRAINING, Plan, batch

    plan = Plan(speak_batch=1, asked=0.0)
    rows = batch(model.tokenizer, plan, 3)
    prompt = rows["input_ids"][rows["labels"] < 0].tolist()
    content = [{"type": "image"}, {"type": "text", "text": dictation.PROMPT}]
    assert prompt == encode_prompt(model, [{"role": "user", "content": content}], 1)
    assert rows["labels"][0, -1].item() == model.eos_id
    film = chests.sample_chest((plan.seed, TRAINING, 2, 3)).draw()
    pixels = model.processor.image_processor([film], return_tensors="pt")["pixel_values"]
    assert torch.allclose(rows["pixel_values"], pixels, atol=1e-5)


def test_the_card_states_what_was_measured(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model_path(), tmp_path / "model"))
    (folder / "README.md").unlink()
    text = write_model_card(folder, tmp_path / "work", images=8).read_text()
    card = Scorecard.read(tmp_path / "work" / "eval" / "scorecard.json")
    lines = card.row("radiology", "prior_lines_per_report").after.value
    assert "on 8 drawings" in text and "Not for any real film" in text and f" {lines:.2f} [" in text
    assert "| Cardiomegaly | " in text
