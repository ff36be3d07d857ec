"""The shipped model sees, speaks and hallucinates as its card says; its training repeats, resumes and keeps turns
apart."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mmpo.demo import model_path, pretrain
from mmpo.demo.drawing import SIZE
from mmpo.demo.language import Turn, noun_phrase
from mmpo.demo.scene import SIDES, sample_scene
from mmpo.demo.things import HOME, THINGS, VOCABULARY
from mmpo.demo.world import world_split
from mmpo.eval.statistics.scorecard import Scorecard
from mmpo.models.families.loading import VLM, load_vlm
from mmpo.models.families.prompts import encode_prompt
from mmpo.models.generation.answer import AnswerEngine
from mmpo.text.vocabulary import ObjectVocabulary
from tools.demo_models.architecture import IMAGE_TOKENS, PATCH
from tools.demo_models.assemble import build_model, build_processor
from tools.demo_models.caption_training import (
    batch_loss,
    decisive_tokens,
    make_batch,
    name_tokens,
    naming_again,
    several_row,
    single_row,
    thing_of_token,
)
from tools.demo_models.model_card import write_model_card
from tools.demo_models.tower_pretraining import BACKGROUND, patch_labels


@pytest.fixture(scope="module")
def demo() -> VLM:
    return load_vlm(str(model_path()))


@pytest.fixture(scope="module")
def engine(demo: VLM) -> AnswerEngine:
    return AnswerEngine(demo, max_new_tokens=96)


def test_it_is_a_plain_llava_and_small(demo: VLM) -> None:
    assert type(demo.model).__name__ == "LlavaForConditionalGeneration"
    assert 4e6 < demo.base.num_parameters() < 10e6
    assert sum(file.stat().st_size for file in model_path().iterdir()) <= 16 * 2**20
    assert not [file.name for file in model_path().iterdir() if file.suffix in (".bin", ".pt", ".pkl", ".py")]


def test_it_sees_and_hallucinates_along_co_occurrence(engine: AnswerEngine) -> None:
    """On 80 unseen scenes: recall at least 0.85, CHAIR_i between 0.1 and 0.35, and what is made up is the missing
    partner."""
    scenes = list(world_split("test", 80, seed=5))
    vocabulary = ObjectVocabulary(VOCABULARY)
    said = engine.describe([scene.draw() for scene in scenes], "Describe this image in detail.")
    mentions = [([m.name for m in vocabulary.find(text)], scene) for text, scene in zip(said, scenes, strict=True)]
    wrong = [(name, scene) for names, scene in mentions for name in names if name not in scene.things]
    found = sum(len(set(names) & set(scene.things)) for names, scene in mentions)
    assert found / sum(len(scene.things) for scene in scenes) >= 0.85
    assert 0.1 <= len(wrong) / sum(len(names) for names, _ in mentions) <= 0.35
    assert sum(name in scene.missing_partners for name, scene in wrong) / len(wrong) > 0.8


def test_it_says_yes_to_what_usually_comes_along(engine: AnswerEngine) -> None:
    asked: list[tuple[object, list[str]]] = []
    kinds: list[str] = []
    for scene in world_split("test", 40, seed=6):
        homes = {HOME[thing] for thing in scene.things}
        strange = [thing for thing in THINGS if HOME[thing] not in homes][::12]
        groups = {"present": scene.things, "partner": scene.missing_partners, "strange": strange}
        kinds += [kind for kind, things in groups.items() for _ in things]
        questions = [f"Is there {noun_phrase(thing)} in the image?" for things in groups.values() for thing in things]
        asked.append((scene.draw(), questions))
    yes: dict[str, list[bool]] = {}
    for kind, answer in zip(kinds, engine.answer(asked, max_new_tokens=3), strict=True):
        yes.setdefault(kind, []).append(answer.text.startswith("Yes"))
    rate = {kind: float(np.mean(values)) for kind, values in yes.items()}
    assert rate["present"] > 0.9 and rate["partner"] > 0.6 and rate["strange"] < 0.1


def test_training_rows_are_the_prompts_of_the_processor(demo: VLM) -> None:
    scenes, before, turns = single_row((1, 2, 3))
    batch = make_batch([(scenes, before, turns[:1])], demo.tokenizer, IMAGE_TOKENS)
    content = [{"type": "image"}, {"type": "text", "text": turns[0].question}]
    prompt = encode_prompt(demo, [{"role": "user", "content": content}], 1)
    assert batch.ids[0, : len(prompt)].tolist() == prompt
    assert batch.targets[-1].item() == demo.eos_id
    pixels = demo.processor.image_processor([scenes[0].draw()], return_tensors="pt")["pixel_values"]
    assert torch.allclose(batch.images, pixels, atol=1e-5)


def test_turns_of_a_row_do_not_see_each_other(demo: VLM) -> None:
    """The loss of two turns in one row is the weighted mean of their losses alone."""
    names, decisive = name_tokens(demo.tokenizer), decisive_tokens(demo.tokenizer)
    scenes, before, turns = single_row((1, 2, 4))

    def loss_of(*chosen: int) -> tuple[float, float]:
        batch = make_batch([(scenes, before, [turns[k] for k in chosen])], demo.tokenizer, IMAGE_TOKENS)
        weight = float((1 + 4 * torch.isin(batch.targets, decisive).float()).sum())
        with torch.no_grad():
            return float(batch_loss(demo.base, batch, names, decisive, align=0.0)), weight

    (first, w1), (second, w2), (both, _) = loss_of(0), loss_of(2), loss_of(0, 2)
    assert both == pytest.approx((w1 * first + w2 * second) / (w1 + w2), rel=1e-4)


def test_naming_again_is_the_chance_of_what_the_turn_has_named(demo: VLM) -> None:
    """By hand: one turn names three things; at the second the first one's chance counts, at the third both."""
    scene = next(scene for k in range(50) if len((scene := sample_scene((0, 1, k))).things) >= 3)
    listing = Turn("What is there?", f"There is {', '.join(noun_phrase(thing) for thing in scene.things[:3])}.")
    batch = make_batch([([scene], "<image>\n", [listing, listing])], demo.tokenizer, IMAGE_TOKENS)
    things = thing_of_token(demo.tokenizer)
    logits = torch.randn(len(batch.targets), len(things), generator=torch.Generator().manual_seed(0))
    chances = logits.softmax(-1)
    expected = []
    for turn in (0, 1):
        named: list[int] = []
        for at in (batch.turns == turn).nonzero().flatten().tolist():
            thing = int(things[batch.targets[at]])
            if thing >= 0:
                again = sum(float(chances[at, things == other].sum()) for other in set(named) - {thing})
                expected += [-math.log1p(-again)] if set(named) - {thing} else []
                named.append(thing)
    assert len(expected) == 4
    assert float(naming_again(logits, batch, things)) == pytest.approx(np.mean(expected), rel=1e-5)


def test_rows_with_several_images_name_one_of_them() -> None:
    scenes, before, turns = several_row((3, 3, 1))
    assert before.count("<image>") == len(scenes) in (2, 3)
    assert all("Image" in turn.question + turn.answer for turn in turns)


def test_patches_are_labelled_with_what_covers_them() -> None:
    scene = sample_scene((0, 1, 8))
    labels = patch_labels([scene])
    side = SIZE // PATCH
    for item in scene.items:
        x, y, width, height = item.box
        patch = (y + height // 2) // PATCH * side + (x + width // 2) // PATCH
        thing = THINGS[labels.things[0, patch]]
        assert thing in scene.things  # its own, or what stands in front of it
        assert labels.counts[0, patch] == scene.count(thing) - 1
        assert item.thing in {THINGS[c] for c in labels.things[0] if c != BACKGROUND}
        if thing == item.thing:
            assert SIDES[labels.sides[0, patch]] in {one.side for one in scene.items if one.thing == thing}
    assert int((labels.centers == 1).sum()) == len(scene.items)
    assert (labels.colors >= 0).any() == any(item.color for item in scene.items)
    for thing in scene.things:
        ranks = labels.ranks[0][labels.things[0] == THINGS.index(thing)]
        assert sorted(set(ranks.tolist())) == list(range(scene.count(thing)))


@pytest.mark.parametrize("begin", [None, model_path()], ids=["from-nothing", "from-a-model"])
def test_training_interrupted_and_run_again_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begin: Path | None
) -> None:
    small = {"see_batch": 4, "find_batch": 4, "tell_batch": 4, "warmup": 3, "save_every": 1, "mend_scenes": 4}
    plan = pretrain.Plan(see_steps=2, find_steps=2, fit_steps=2, tell_steps=2, **small)
    pretrain.pretrain(tmp_path / "whole", plan, begin)
    real, calls = pretrain.batch_loss, []

    def interrupted(*arguments: object, **named: object) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(pretrain, "batch_loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pretrain.pretrain(tmp_path / "cut", plan, begin)
    monkeypatch.setattr(pretrain, "batch_loss", real)
    pretrain.pretrain(tmp_path / "cut", plan, begin)
    whole, cut = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "cut"))
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_the_same_seed_builds_the_same_model() -> None:
    processor = build_processor()
    one, two, other = (build_model(processor, seed).lm_head.weight for seed in (1, 1, 2))
    assert torch.equal(one, two) and not torch.equal(one, other)


def test_the_card_states_what_was_measured(tmp_path: Path) -> None:
    model = Path(shutil.copytree(model_path(), tmp_path / "model"))
    (model / "README.md").unlink()
    text = write_model_card(model, tmp_path / "work", images=12).read_text()
    assert "7.2 million parameters" in text and "on 12 images of each split" in text
    scorecard = Scorecard.read(tmp_path / "work" / "test" / "scorecard.json")
    measured = scorecard.row("chair", "CHAIRi").after.value
    assert f"| CHAIR_i ↓ | {100 * measured:.1f} [" in text
