"""Drift of a tiny model with an adapter: its numbers by other means, nothing measured twice, nothing lost."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mmpo.data.pair import PreferencePair
from mmpo.data.shards import PairWriter
from mmpo.errors import UserError
from mmpo.eval.answers import AnswerLog
from mmpo.eval.drift.texts import NEUTRAL_PROMPTS, SENTENCES, TEXT_PROMPT
from mmpo.eval.harness import evaluate
from mmpo.eval.statistics.drift import Drift
from mmpo.eval.statistics.scorecard import Scorecard
from tests.eval.drift.conftest import asked
from tests.tiny import add_lora, tiny_llava, user


def drift_of(run: Path) -> Drift:
    found = Scorecard.read(run / "scorecard.json").drift
    assert found is not None
    return found


def rows_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "drift.jsonl").read_text().splitlines()]


@pytest.fixture
def model(world: Path) -> Iterator[Any]:
    from mmpo.models.families.loading import load_vlm

    yield load_vlm(str(world / "model"), adapter=world / "adapter", dtype="float32")


def logps(vlm: Any, messages: list[dict[str, Any]], ids: list[int], images: list[Any]) -> torch.Tensor:
    """Log-softmaxes [n, v] at the answer's tokens, by the model's own forward pass."""
    from mmpo.models.families.prompts import encode_prompt, process_images

    processed = process_images(vlm, images)
    prompt = encode_prompt(vlm, messages, processed.placeholders)
    with torch.no_grad():
        out = vlm.base(input_ids=torch.tensor([[*prompt, *ids]]), **processed.tensors).logits[0].double()
    return out[len(prompt) - 1 : -1].log_softmax(-1)


def test_fixed_texts_have_the_log_prob_that_the_model_gives_them(measured: Path, model: Any) -> None:
    from mmpo.models.families.prompts import encode_response

    rows = {(row["state"], row["id"]): row for row in rows_of(measured) if "state" in row}
    assert len(rows) == 2 * (len(SENTENCES) + 3)
    ids = encode_response(model, SENTENCES[6], eos=False)
    found = logps(model, user(TEXT_PROMPT, 0), ids, []).gather(1, torch.tensor(ids)[:, None]).sum()
    assert rows["after", "sentence-07"]["logp"] == pytest.approx(found.item(), rel=1e-5)
    assert rows["after", "sentence-07"]["tokens"] == len(ids)
    with model.adapter_off():
        found = logps(model, user(TEXT_PROMPT, 0), ids, []).gather(1, torch.tensor(ids)[:, None]).sum()
    assert rows["before", "sentence-07"]["logp"] == pytest.approx(found.item(), rel=1e-5)


def test_perplexity_pools_all_tokens(measured: Path) -> None:
    own = [row for row in rows_of(measured) if row.get("state") == "after" and row["id"].startswith("sentence")]
    logp, tokens = (sum(row[name] for row in own) for name in ("logp", "tokens"))
    row = drift_of(measured).row("perplexity")
    assert row.after.value == pytest.approx(math.exp(-logp / tokens))
    assert row.before is not None and row.ratio is not None and row.ratio.low is not None
    assert row.ratio.value == pytest.approx(row.after.value / row.before.value)
    assert row.ratio.low < row.ratio.value < (row.ratio.high or 0)
    size = sum(len(text.encode()) for text in SENTENCES)
    assert drift_of(measured).row("bits-a-byte").after.value == pytest.approx(-logp / math.log(2) / size)


@pytest.mark.parametrize("id", ["describe-2", "talk-1"])
def test_the_divergence_is_that_of_the_models_own_logits(world: Path, measured: Path, model: Any, id: str) -> None:
    from mmpo.files.images import load_image
    from mmpo.models.generation.answer import AnswerEngine

    rows = {row["way"]: row for row in rows_of(measured) if row["id"] == id}
    prompt = next(one for one in NEUTRAL_PROMPTS if one.id == id)
    assert prompt.image == (rows["forward"]["image"] is not None)
    images = [load_image(rows["forward"]["image"], root=world / "images")] if prompt.image else []
    engine = AnswerEngine(model, max_new_tokens=6)
    with engine.adapter_off():
        greedy = next(engine.answer([(images, [prompt.text])]))
    (sample,) = next(engine.sample_many([(images, prompt.text)], 1))
    for way, answer in (("forward", greedy), ("reverse", sample)):
        row, ids = rows[way], list(answer.token_ids)
        assert (answer.text, len(ids)) == (row["answer"], row["tokens"])
        tuned = logps(model, user(prompt.text, len(images)), ids, images)
        with model.adapter_off():
            base = logps(model, user(prompt.text, len(images)), ids, images)
        p, q = (base, tuned) if way == "forward" else (tuned, base)
        assert row["kl"] == pytest.approx((p.exp() * (p - q)).sum().item(), rel=1e-4) and row["kl"] > 0.01
        difference = (base - tuned).gather(1, torch.tensor(ids)[:, None])
        estimate = (difference.exp() - 1 - difference).sum().item()
        assert row["k3"] is None if way == "forward" else row["k3"] == pytest.approx(estimate, rel=1e-3)


def test_the_scorecard_names_prompts_and_texts(measured: Path) -> None:
    found = drift_of(measured)
    assert len(found.prompts) == 20 and sum("(" in name for name in found.prompts) == 10
    assert found.prompts[0] == "describe-1 (0.png)" and found.prompts[5] == "count-2 (0.png)", "five pictures, twice"
    assert found.texts[0] == "sentence-01" and found.texts[-1].startswith("caption ") and len(found.texts) == 53
    page = (measured / "scorecard.md").read_text()
    assert "## Drift and ability" in page and "describe-1 (0.png)" in page and "sentence-01 … sentence-50" in page
    assert not found.unmeasured
    assert {row.metric for row in found.rows if row.brief} >= {"rep-4", "loop", "perplexity", "kl-forward"}


def test_a_policy_that_is_its_base_has_not_moved(world: Path, tmp_path: Path) -> None:
    add_lora(tiny_llava()).model.save_pretrained(tmp_path / "fresh")  # the second factor of a fresh adapter is 0
    card = evaluate(asked(world, adapter=str(tmp_path / "fresh"), benchmarks=["pope", "chair"]), tmp_path / "run")
    found = card.drift
    assert found is not None and len(found.rows) > 30
    for row in found.rows:
        if row.before is None:
            assert row.metric.startswith("kl-") and row.after.value == 0.0, row
            continue
        assert row.change is not None and row.change.value == 0.0 and row.before.value == row.after.value, row
        assert row.ratio is None or row.ratio.value == 1.0, row
    assert not [row for row in found.signs if row.metric != "empty"]
    assert [name for name in ("perplexity", "perplexity-captions") if found.row(name).ratio is not None]
    assert found.row("kl-forward").after.value == found.row("kl-reverse").after.value == 0.0


def test_drift_changes_no_other_number_and_no_answer(world: Path, measured: Path, tmp_path: Path) -> None:
    off = {"answers": False, "texts": False, "kl": False}
    card = evaluate(asked(world, drift=off), tmp_path / "off")
    assert (tmp_path / "off" / "answers.jsonl").read_bytes() == (measured / "answers.jsonl").read_bytes()
    whole = Scorecard.read(measured / "scorecard.json")
    assert card.model_copy(update={"drift": whole.drift}) == whole
    assert card.drift is not None and not card.drift.rows and not (tmp_path / "off" / "drift.jsonl").exists()
    assert [one.why for one in card.drift.unmeasured] == [
        "switched off (eval.drift.answers)", "switched off (eval.drift.texts)", "switched off (eval.drift.kl)",
    ]  # fmt: skip
    assert card.verdict()[-1].startswith("Other abilities: not looked at; not measured: repetition")


@pytest.mark.parametrize(
    ("changes", "reason"), [({"adapter": None}, "no adapter to switch off"), ({"compare": "none"}, "compare: none")]
)
def test_one_model_alone_says_what_is_not_measured(
    world: Path, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    card = evaluate(asked(world, **changes), tmp_path)
    found = card.drift
    assert found is not None and [one.what for one in found.unmeasured] == [
        "perplexity of ordinary texts",
        "KL to base",
    ]
    assert all(reason in one.why for one in found.unmeasured)
    assert found.row("words-median", "chair").before is None and not found.signs
    assert f"not measured: KL to base: {found.unmeasured[0].why}" in (tmp_path / "scorecard.md").read_text()
    assert not any("abilities" in line for line in card.verdict())


@pytest.mark.parametrize("share", [0.3, 0.93])
def test_a_stopped_evaluation_ends_with_the_same_bytes(
    world: Path, measured: Path, tmp_path: Path, share: float
) -> None:
    run = shutil.copytree(measured, tmp_path / "run")
    data = (run / "drift.jsonl").read_bytes()
    (run / "drift.jsonl").write_bytes(data[: int(share * len(data))])  # ends within a line
    (run / "scorecard.json").unlink()
    evaluate(asked(world), run)
    for name in ("drift.jsonl", "scorecard.json", "scorecard.md", "answers.jsonl"):
        assert (run / name).read_bytes() == (measured / name).read_bytes(), name


def test_killed_inside_and_run_again(
    world: Path, measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, left = AnswerLog.add, [120]

    def killed(self: AnswerLog, row: dict[str, Any]) -> None:
        left[0] -= "logp" in row or "kl" in row
        if not left[0]:
            raise KeyboardInterrupt
        add(self, row)

    monkeypatch.setattr(AnswerLog, "add", killed)
    with pytest.raises(KeyboardInterrupt):
        evaluate(asked(world), tmp_path)
    monkeypatch.undo()
    assert len(rows_of(tmp_path)) == 119
    evaluate(asked(world), tmp_path)
    for name in ("drift.jsonl", "scorecard.json"):
        assert (tmp_path / name).read_bytes() == (measured / name).read_bytes(), name


def test_what_is_known_loads_no_model(
    world: Path, measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = asked(world, cache=str(tmp_path / "cache"))
    evaluate(cached, tmp_path / "first")
    monkeypatch.setattr("mmpo.models.live.load_vlm", lambda *_, **__: pytest.fail("the model was loaded"))
    evaluate(cached, tmp_path / "second")
    one, other = (Scorecard.read(tmp_path / name / "scorecard.json") for name in ("first", "second"))
    assert one.drift == other.drift == drift_of(measured)
    assert (tmp_path / "first" / "drift.jsonl").read_bytes() == (tmp_path / "second" / "drift.jsonl").read_bytes()


def test_a_damaged_row_is_told(world: Path, measured: Path, tmp_path: Path) -> None:
    run = shutil.copytree(measured, tmp_path / "run")
    lines = (run / "drift.jsonl").read_text().splitlines()
    lines[4] = re.sub(r"(\"tokens\": ?)", r"\g<1>1", lines[4])
    (run / "drift.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=r"drift.jsonl:5: damaged"):
        evaluate(asked(world), run)


def test_texts_of_the_training_pairs_are_left_out(world: Path, tmp_path: Path) -> None:
    pair = PreferencePair.simple(
        id="1", image="0.png", question="Say something.", chosen=SENTENCES[2].upper() + " ", rejected="a  dog."
    )
    with PairWriter(tmp_path / "build" / "pairs", recipe={}) as writer:
        writer.add(pair)
    card = evaluate(asked(world), tmp_path / "eval")
    assert card.drift is not None
    assert "sentence-03" not in card.drift.texts and "sentence-04" in card.drift.texts
    assert "caption 0.png" not in card.drift.texts and "caption 3.png" in card.drift.texts, "the next one instead"
    assert "none is a text of the training pairs (2 that are were left out)" in card.drift.notes[0]


def test_a_family_that_takes_no_plain_prompt_is_shown_grey(model: Any) -> None:
    from mmpo.eval.drift.scoring import GREY, DriftScorer, ShownPrompt

    def wants_pixels(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if kwargs.get("mm_encoder_outputs") is None and kwargs.get("pixel_values") is None:
            raise ValueError("pixel_values are needed")

    plain = DriftScorer(model, token_budget=4096)
    assert not plain.grey
    grey_before = plain.texts(ShownPrompt("Hello!", (GREY,)), ["A dog."], base=True)
    handle = model.backbone.register_forward_pre_hook(wants_pixels, with_kwargs=True)
    try:
        scorer = DriftScorer(model, token_budget=4096)
        assert scorer.grey
        assert scorer.texts(ShownPrompt("Hello!"), ["A dog."], base=True) == grey_before
    finally:
        handle.remove()


def test_an_evaluation_without_single_pictures_is_asked_the_plain_prompts(world: Path) -> None:
    from mmpo.eval.drift.measuring import neutral
    from mmpo.eval.pictures import Pictures
    from mmpo.eval.protocol import FrameChoice, Request

    pictures = Pictures(asked(world, annotations=None, images=None))
    film = Request("film.mp4", "What happens?", 8, root=str(world), frames=FrameChoice())
    found = neutral(pictures, [Request(None, "Hello?", 8), film])
    assert [prompt for prompt, _ in found] == [prompt for prompt in NEUTRAL_PROMPTS if not prompt.image]
    assert {request.image for _, request in found} == {None}
    pictured = Pictures(asked(world))
    request = Request("7.png", "Is there a dog?", 8)
    pictured.look_at([request])
    shown = [one.image for prompt, one in neutral(pictured, [request]) if prompt.image]
    assert shown == [f"{number}.png" for number in (0, 1, 2, 3, 4, 7, 0, 1, 2, 3)]


def test_the_pairs_of_an_adapters_run_are_found(tmp_path: Path) -> None:
    from mmpo.eval.drift.training_texts import pair_folders, seen
    from mmpo.files.atomic import write_sealed

    for number, place in enumerate(("run/build/pairs", "elsewhere")):
        with PairWriter(tmp_path / place, recipe={}) as writer:
            writer.add(PreferencePair.simple(id="1", image="0.png", question="?", chosen=f"A {number}.", rejected="B"))
    adapter = tmp_path / "run" / "train" / "adapter"
    assert pair_folders(tmp_path / "eval", adapter) == [tmp_path / "run" / "build" / "pairs"]
    adapter.mkdir(parents=True)
    write_sealed(adapter.parent / "step.json", {"settings": {"pairs": "${run}/../elsewhere"}})
    folders = pair_folders(tmp_path / "eval", adapter)
    assert folders == [tmp_path / "run" / "build" / "pairs", tmp_path / "elsewhere"]
    assert seen(["a 0.", "A  1.", "A 2.", "?", "user"], folders) == {"a 0.", "A  1.", "?"}
    assert pair_folders(tmp_path / "eval", tmp_path / "nowhere" / "adapter") == []


def test_a_model_of_broken_numbers_is_told(model: Any) -> None:
    from mmpo.eval.drift.scoring import DriftScorer, ShownPrompt

    scorer = DriftScorer(model, token_budget=4096)
    next(p for name, p in model.model.named_parameters() if "lora_B" in name).data.fill_(math.nan)
    with pytest.raises(UserError, match="log-probs are not finite"):
        scorer.texts(ShownPrompt("Hello!"), ["A dog."], base=False)
    assert scorer.texts(ShownPrompt("Hello!"), ["A dog."], base=True)[0].tokens > 1
