"""HA-DPO's auxiliary loss: other image-text data, one sample a pair, the same however a step is cut or resumed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from mmpo.errors import UserError
from mmpo.files.images import encode_image, load_image
from mmpo.models.families.loading import VLM
from mmpo.models.scoring.score import PairScorer
from mmpo.models.scoring.segment_logps import score_responses
from mmpo.trainers.auxiliary import AuxiliaryCollator, Sample, draw, encode_samples, read_samples
from mmpo.trainers.collate import PairCollator, encode_pairs
from mmpo.trainers.images import ImageStore
from mmpo.trainers.schedule import Schedule, Shape
from mmpo.trainers.settings import AuxiliarySettings
from mmpo.trainers.train import train
from tests.tiny import add_lora, tiny_image, tiny_llava
from tests.trainers.material import make_pairs, resumed_alike, settings_for, write_conversations, write_pairs
from tests.trainers.test_preference import first_step

LAMBDA = {"dpo": {"beta": 0.2}, "auxiliary": {"weight": 0.5}}


def encoded(vlm: VLM, data: Path) -> Any:
    return encode_samples(vlm, AuxiliarySettings(data=data), ImageStore(vlm, 2**24))


def test_samples_of_conversations_and_of_pairs(tmp_path: Path) -> None:
    file = write_conversations(tmp_path / "chat")
    turned_away: list[tuple[str, str]] = []
    vlm = tiny_llava()
    samples = encode_samples(
        vlm,
        AuxiliarySettings(data=file),
        ImageStore(vlm, 2**24),
        on_reject=lambda name, error: turned_away.append((name, f"{error.stage}/{error.reason}")),
    )
    assert [row.id for row in samples.rows] == ["long", "s0", "s1", "s2", "words"]
    assert sorted(turned_away) == [
        ("chat.json:6", "auxiliary/empty_response"),
        ("chat.json:7", "auxiliary/path_escape"),
        ("gone", "auxiliary/missing"),
    ]
    assert [len(row.responses) for row in samples.rows] == [3, 1, 1, 1, 1]
    pairs = make_pairs(3)
    folder = write_pairs(tmp_path / "pairs", 3)
    found = [sample for sample in read_samples(AuxiliarySettings(data=folder)) if isinstance(sample, Sample)]
    assert [sample.answers for sample in found] == [((pair.prompt, pair.chosen_text),) for pair in pairs]


def test_captions_as_minigpt4_has_them(tmp_path: Path) -> None:
    (tmp_path / "image").mkdir()
    (tmp_path / "image" / "7.jpg").write_bytes(encode_image(tiny_image(1)))
    rows = [
        {"image_id": "7", "caption": "A red cup."},
        {"image_id": 8, "caption": "Gone."},
        {"image_id": 7, "caption": 3},
    ]
    (tmp_path / "filter_cap.json").write_text(json.dumps({"annotations": rows}))
    first, second, third = read_samples(AuxiliarySettings(data=tmp_path / "filter_cap.json"))
    assert isinstance(first, Sample) and isinstance(second, Sample) and not isinstance(third, Sample)
    messages, text = first.answers[0]
    assert (messages[0]["content"][0], text, first.images) == ({"type": "image"}, "A red cup.", ("image/7.jpg",))
    assert third[0] == "filter_cap.json:2"
    vlm = tiny_llava()
    samples = encoded(vlm, tmp_path / "filter_cap.json")
    assert len(samples) == 1 and samples.dropped == {"missing": 1, "bad_type": 1}


@pytest.mark.parametrize("sharing", ["on", "off"])
def test_log_probs_are_those_of_each_turn_scored_alone(tmp_path: Path, sharing: Any) -> None:
    vlm = add_lora(tiny_llava(), spread=0.1)
    file = write_conversations(tmp_path)
    samples = encoded(vlm, file)
    pairs = encode_pairs(vlm, make_pairs(5), samples.store)
    collate = AuxiliaryCollator(PairCollator(samples.store), samples.store)
    batch = collate([(pair, [sample]) for pair, sample in zip(pairs.rows, samples.rows, strict=True)])["batch"]
    assert len(batch.auxiliary.image_tokens) == 3, "an image that two samples show is in the batch once"
    scored = PairScorer(vlm, sharing=sharing)(batch)
    assert scored.auxiliary is not None and scored.auxiliary.reference is None
    usable = [sample for sample in read_samples(AuxiliarySettings(data=file)) if isinstance(sample, Sample)]
    for row, sample in enumerate(s for s in usable if s.id != "gone"):
        images = [load_image(source, root=tmp_path) for source in sample.images]
        expected = sum(score_responses(vlm, messages, images, [text])[0] for messages, text in sample.answers)
        assert scored.auxiliary.policy_sum[row].item() == pytest.approx(expected, abs=2e-4)
        assert scored.auxiliary.lengths[row] == sum(map(len, samples.rows[row].responses))
    alone = PairScorer(vlm, sharing=sharing)(PairCollator(samples.store)(pairs.rows)["batch"])
    torch.testing.assert_close(scored.chosen.policy, alone.chosen.policy, rtol=1e-4, atol=1e-4)


def the_same_however_cut(step: Callable[[str, int, int], Any], other: str) -> dict[str, float]:
    """The metrics of a step of four pairs, whose gradients and losses (dpo, and half of the `other`) are those of two
    times two and of four times one; `step(name, batch, accumulation)` runs it."""
    gradients, row = step("whole", 4, 1)
    for name, batch, accumulation in (("halves", 2, 2), ("ones", 1, 4)):
        others, other_row = step(name, batch, accumulation)
        for key in ("loss", "loss/dpo", f"loss/{other}"):
            assert other_row[key] == pytest.approx(row[key], rel=1e-4)
        for key, value in gradients.items():
            torch.testing.assert_close(others[key], value, rtol=1e-3, atol=1e-5)
    assert row["loss"] == pytest.approx(row["loss/dpo"] + 0.5 * row[f"loss/{other}"], rel=1e-5)
    return dict(row)


def test_the_loss_is_the_mean_over_samples_of_the_token_mean_however_a_step_is_cut(tmp_path: Path) -> None:
    file = write_conversations(tmp_path / "chat")

    def step(name: str, batch: int, accumulation: int) -> Any:
        return first_step(
            tmp_path / name, objective=LAMBDA, samples=lambda vlm: encoded(vlm, file),
            per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation,
        )  # fmt: skip

    row = the_same_however_cut(step, "auxiliary")

    vlm = add_lora(tiny_llava(), spread=0.1)
    samples = encoded(vlm, file)
    pairs = encode_pairs(vlm, make_pairs(8), samples.store)
    schedule = Schedule(pairs.lengths, Shape(4), seed=42)
    picked = [samples.rows[k] for batch in draw(len(samples), schedule, 42)[0] for (k,) in batch]
    collate = AuxiliaryCollator(PairCollator(samples.store), samples.store)
    scored = PairScorer(vlm)(collate([(pairs[0], [sample]) for sample in picked])["batch"]).auxiliary
    means = [-scored.policy_sum[k].item() / scored.lengths[k].item() for k in range(4)]
    assert row["loss/auxiliary"] == pytest.approx(sum(means) / 4, rel=1e-4)


def test_the_draw_is_one_sample_a_pair_every_sample_once_a_pass() -> None:
    lengths = [5 + k % 7 for k in range(20)]
    one = Schedule(lengths, Shape(4, accumulation=1), seed=0, epochs=3)
    two = Schedule(lengths, Shape(1, accumulation=2, processes=2), seed=0, epochs=3)
    first, second = draw(6, one, 0), draw(6, two, 0)
    assert [list(map(len, step)) for step in first] == [list(map(len, step)) for step in one.steps]
    flat = [[k for batch in step for (k,) in batch] for step in first]
    assert flat == [[k for batch in step for (k,) in batch] for step in second], "whatever the cut"
    order = [k for step in flat for k in step]
    assert len(order) == 60
    for start in range(0, 60, 6):
        assert sorted(order[start : start + 6]) == list(range(6))
    assert order != [k for step in draw(6, one, 1) for batch in step for (k,) in batch]


@pytest.mark.parametrize(("rate", "drawn"), [(Fraction(1, 4), 15), (Fraction(6, 20), 18), (Fraction(5, 2), 150)])
def test_other_rates_keep_the_stream_and_do_not_depend_on_the_cut(rate: Fraction, drawn: int) -> None:
    lengths = [5 + k % 7 for k in range(20)]
    shapes = (Shape(4, accumulation=1), Shape(1, accumulation=2, processes=2))

    def steps(shape: Shape, epochs: float, rate: Fraction) -> list[list[int]]:
        found = draw(6, Schedule(lengths, shape, seed=0, epochs=epochs), 0, rate)
        return [[k for batch in step for own in batch for k in own] for step in found]

    one, two = (steps(shape, 3, rate) for shape in shapes)
    assert one == two
    order, whole = ([k for step in found for k in step] for found in (one, steps(shapes[0], 30, Fraction(1))))
    assert len(order) == drawn and order == whole[:drawn]


def test_once_is_every_sample_once_an_epoch() -> None:
    settings = AuxiliarySettings(data=Path("x"), per_pair="once")
    schedule = Schedule([5] * 20, Shape(4), seed=0, epochs=2)
    drawn = draw(6, schedule, 0, settings.rate(6, 20))
    for epoch in (drawn[:5], drawn[5:]):
        assert sorted(k for step in epoch for batch in step for own in batch for k in own) == list(range(6))


@pytest.mark.parametrize("value", [0, -1, "twice", "1"])
def test_rates_that_are_none(value: object) -> None:
    with pytest.raises(ValidationError):
        AuxiliarySettings(data=Path("x"), per_pair=value)


def test_a_sample_counts_as_a_pair_however_rarely_it_is_drawn(tmp_path: Path) -> None:
    """Steps of 4 pairs and 1 sample: the sample's gradient is a quarter of what it is beside one pair, in every cut."""
    file = write_conversations(tmp_path / "chat")

    def step(name: str, rate: float | str, batch: int, accumulation: int) -> Any:
        def samples(vlm: VLM) -> Any:
            return encode_samples(vlm, AuxiliarySettings(data=file, per_pair=rate), ImageStore(vlm, 2**24))

        return first_step(
            tmp_path / name, objective=LAMBDA, samples=samples, per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
        )  # fmt: skip

    gradients, row = step("rare", 0.25, 4, 1)
    assert row["loss"] == pytest.approx(row["loss/dpo"] + 0.5 * row["loss/auxiliary"] / 4, rel=1e-5)
    others, other_row = step("cut", 0.25, 1, 4)  # three of four micro-batches have no sample
    assert other_row["loss"] == pytest.approx(row["loss"], rel=1e-4)
    for key, value in gradients.items():
        torch.testing.assert_close(others[key], value, rtol=1e-3, atol=1e-5)
    _, often = step("often", 2.0, 4, 1)
    assert often["loss"] == pytest.approx(often["loss/dpo"] + 0.5 * often["loss/auxiliary"] * 2, rel=1e-5)


@pytest.mark.parametrize("workers", [0, 2])
def test_linked_pictures(tiny_llava_folder: Path, tmp_path: Path, workers: int) -> None:
    file = write_conversations(tmp_path / "chat")
    kept = tmp_path / "elsewhere"
    kept.mkdir()
    for picture in [path for path in file.parent.iterdir() if path != file]:
        (kept / picture.name).write_bytes(picture.read_bytes())
        picture.unlink()
        picture.symlink_to(kept / picture.name)
    file.write_text(
        json.dumps([row for row in json.loads(file.read_text()) if row["id"] in ("long", "s0", "s1", "s2")])
    )
    settings = settings_for(
        tiny_llava_folder, write_pairs(tmp_path / "pairs", 6), objective=LAMBDA, max_steps=1, workers=workers,
        image_cache_mb=0, auxiliary={"data": file},
    )  # fmt: skip
    with pytest.raises(UserError, match=r"is a link out of .*allow_links: true"):
        train(settings, tmp_path / "refused")
    allowed = settings.model_copy(update={"auxiliary": AuxiliarySettings(data=file, allow_links=True)})
    assert train(allowed, tmp_path / "run").auxiliary == 4


def test_a_run_that_resumes_ends_with_the_same_weights(tiny_llava_folder: Path, tmp_path: Path) -> None:
    settings = settings_for(
        tiny_llava_folder, write_pairs(tmp_path / "pairs", 10), objective=LAMBDA, batch_size=2, accumulation=2,
        max_steps=4, save_steps=2, logging_steps=1, eval_steps=2, keep_checkpoints=4,
        auxiliary={"data": write_conversations(tmp_path / "chat")},
    )  # fmt: skip
    whole = train(settings, tmp_path / "run")
    assert (whole.auxiliary, whole.auxiliary_dropped) == (5, {"empty_response": 1, "missing": 1, "path_escape": 1})
    rejected = Counter(json.loads(line)["stage"] for line in (tmp_path / "run" / "rejects.jsonl").open())
    assert rejected == {"auxiliary": 3}
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    steps, evals = ([row for row in rows if key in row] for key in ("loss", "eval_loss"))
    assert all("loss/auxiliary" in row for row in steps) and not any("eval_loss/auxiliary" in row for row in evals)
    assert evals[0]["eval_loss"] == pytest.approx(0.693147, abs=1e-4), "evaluation is on pairs alone"
    assert steps[-1]["loss/auxiliary"] < steps[0]["loss/auxiliary"]

    resumed_alike(settings, tmp_path / "run")


def test_worker_processes_prepare_the_same_batches(tiny_llava_folder: Path, tmp_path: Path) -> None:
    settings = settings_for(
        tiny_llava_folder, write_pairs(tmp_path / "pairs", 8), objective=LAMBDA, batch_size=2, max_steps=2,
        eval_fraction=0, image_cache_mb=0, auxiliary={"data": write_conversations(tmp_path / "chat")},
    )  # fmt: skip
    adapters = []
    for workers in (0, 2):
        train(settings.model_copy(update={"workers": workers}), tmp_path / str(workers))
        adapters.append(load_file(tmp_path / str(workers) / "adapter" / "adapter_model.safetensors"))
    assert all(torch.equal(adapters[0][key], adapters[1][key]) for key in adapters[0])


def test_a_run_on_other_auxiliary_data_is_not_resumed(tiny_llava_folder: Path, tmp_path: Path) -> None:
    file = write_conversations(tmp_path / "chat")
    settings = settings_for(
        tiny_llava_folder, write_pairs(tmp_path / "pairs", 6), objective=LAMBDA, max_steps=1, auxiliary={"data": file}
    )
    train(settings, tmp_path / "run")
    (tmp_path / "run" / "train_result.json").unlink()
    file.write_text(file.read_text().replace("A red cup.", "A blue cup."))
    with pytest.raises(UserError, match="other pairs"):
        train(settings, tmp_path / "run")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"objective": LAMBDA}, "no data for it"),
        ({"auxiliary": {"data": "x"}}, "no effect"),
        ({"objective": {"auxiliary": {}}, "auxiliary": {"data": "x"}}, "goes with a loss"),
        ({"objective": LAMBDA, "auxiliary": {"data": "gone.json"}}, r"gone\.json"),
        ({"token_weights": {"changed": 2}}, "no effect"),
    ],
)
def test_settings_that_do_not_fit(tiny_llava_folder: Path, tmp_path: Path, values: dict[str, Any], words: str) -> None:
    settings = settings_for(tiny_llava_folder, write_pairs(tmp_path / "pairs", 4), **values)
    with pytest.raises(UserError, match=words):
        train(settings, tmp_path / "run")
