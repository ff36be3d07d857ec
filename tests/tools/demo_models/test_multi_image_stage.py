"""The demo model's stage with several pictures: what is shown is what the processor shows, what is said is true but for
the slips that are asked for, and the training repeats."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import LlavaProcessor, PreTrainedTokenizerFast

from mmpo.data.layouts import Composer
from mmpo.data.layouts.compose import picture_in_picture
from mmpo.demo import model_path
from mmpo.demo.drawing import SIZE
from mmpo.demo.language import noun_phrase
from mmpo.demo.scene import Scene, sample_scene
from mmpo.demo.things import HOME, THINGS
from mmpo.models.families.interleaved import interleaved
from mmpo.models.families.loading import load_vlm
from mmpo.models.families.prompts import encode_prompt
from tools.demo_models import multi_image_stage
from tools.demo_models.architecture import IMAGE_TOKENS, PATCH
from tools.demo_models.caption_training import Batch, Row, make_batch
from tools.demo_models.multi_image_stage import Plan, Slips, batch, montage, pad_pictures, several_row, train
from tools.demo_models.tower_pretraining import patch_labels, pixels

HONEST = Slips(0, 0, 0, 0)


@pytest.fixture(scope="module")
def padded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped model with a processor that pads."""
    folder = tmp_path_factory.mktemp("several") / "model"
    return pad_pictures(Path(shutil.copytree(model_path(), folder)))


def scenes(count: int) -> tuple[Scene, ...]:
    return tuple(sample_scene((5, k)) for k in range(count))


@pytest.mark.parametrize(("count", "inner"), [(2, False), (4, False), (2, True)])
def test_a_montage_is_what_the_processor_shows(padded: Path, count: int, inner: bool) -> None:
    parts = scenes(count)
    pictures = [scene.draw() for scene in parts]
    whole = (picture_in_picture(*pictures) if inner else Composer().collage(pictures)).picture
    shown = LlavaProcessor.from_pretrained(padded).image_processor([whole], return_tensors="pt")["pixel_values"]
    assert shown.shape == (1, 3, SIZE, SIZE)
    assert torch.allclose(pixels([montage(parts, inner=inner)]), shown, atol=1e-5)
    single = LlavaProcessor.from_pretrained(padded).image_processor([pictures[0]], return_tensors="pt")["pixel_values"]
    assert torch.allclose(pixels([parts[0]]), single, atol=1e-5), "square pictures come out as without padding"


def test_items_are_where_they_are_drawn() -> None:
    """Taking an item out of a part changes pixels inside its box in the montage and, but for ripples of scaling, no
    others."""
    parts = scenes(4)
    for inner, shown in ((False, parts), (True, parts[:2])):
        whole = montage(shown, inner=inner)
        items = shown[1].items
        first = 0 if inner else len(shown[0].items)
        for number, item in enumerate(items):
            without = replace(shown[1], items=tuple(other for other in items if other is not item))
            less = montage((shown[0], without, *shown[2:]), inner=inner)
            changed = np.abs(np.asarray(whole.draw()).astype(int) - np.asarray(less.draw())).max(-1) > 12
            x, y, width, height = whole.items[first + number].box
            assert whole.items[first + number].thing == item.thing and changed.any()
            changed[max(0, y - 2) : y + height + 2, max(0, x - 2) : x + width + 2] = False
            assert not changed.any()
    assert {THINGS[c] for c in patch_labels([montage(parts[:2])]).things[0] if c < len(THINGS)} <= {
        thing for scene in parts[:2] for thing in scene.things
    }


def rows(layout: str, slips: Slips, count: int = 60) -> list[tuple[list[Scene], Row]]:
    found = []
    for number in range(count):
        row = several_row(layout, (9, number), slips)
        shown = list(row[0][0].parts) if layout != "sequence" else row[0]  # type: ignore[attr-defined]
        found.append((shown, row))
    return found


def asked(layout: str, shown: list[Scene], question: str) -> tuple[int, str] | None:
    """The picture asked about and the object, of a question whether it is there."""
    thing = re.search(r", (?:is there|do you see) an? ([a-z ]+?)(?: in the \w+)?\?", question)
    if thing is None:
        return None
    if layout == "pic_in_pic":
        assert re.search(r"central|middle|center", question)
        return 1, thing.group(1)
    pointer = re.match(r"In Image(\d),", question)
    assert pointer is not None and int(pointer.group(1)) <= len(shown)
    return int(pointer.group(1)) - 1, thing.group(1)


@pytest.mark.parametrize("layout", ["sequence", "collage", "pic_in_pic"])
def test_what_is_said_is_true_of_its_picture_but_for_slips(layout: str) -> None:
    elsewhere = {"honest": 0, "slipping": 0}
    for name, slips in (("honest", HONEST), ("slipping", Slips(1, 1, 1, 1))):
        for shown, (_, before, turns) in rows(layout, slips):
            assert before.count("<image>") == (len(shown) if layout == "sequence" else 1)
            for turn in turns:
                if turn.question.startswith("Which image shows"):
                    owner = int(turn.answer[5]) - 1
                    there = any(f"shows {noun_phrase(thing)}?" in turn.question for thing in shown[owner].things)
                    assert there == (name == "honest") and 0 <= owner < len(shown)
                found = asked(layout, shown, turn.question)
                if found is None:
                    continue
                k, thing = found
                yes = turn.answer.startswith("Yes")
                own = shown[k].things
                if thing in own:
                    assert yes
                elif not any(HOME[other] is HOME[thing] for other in own):  # careless about what usually comes along
                    others = any(thing in scene.things for j, scene in enumerate(shown) if j != k)
                    elsewhere[name] += others and yes
                    if layout != "pic_in_pic":  # where an object may be covered
                        assert yes == (others and name == "slipping")
                    else:
                        assert not yes or (others and name == "slipping")
    assert elsewhere["honest"] == 0 and elsewhere["slipping"] > 15


def test_descriptions_borrow_from_the_picture_before() -> None:
    def strangers(slips: Slips) -> int:
        found = 0
        for shown, (_, _, turns) in rows("sequence", slips, 30):
            k = int(turns[5].question[8]) - 1
            before = shown[(k - 1) % len(shown)]
            mine = {*shown[k].things, *shown[k].missing_partners}
            found += any(re.search(rf"\b{thing}", turns[5].answer) for thing in before.things if thing not in mine)
        return found

    assert strangers(replace(HONEST, borrowed=1.0)) > strangers(HONEST) + 15


def test_rows_are_the_prompts_of_the_processor(padded: Path) -> None:
    vlm = load_vlm(str(padded))
    for layout in ("sequence", "pic_in_pic"):
        shown, before, turns = several_row(layout, (1, 2), HONEST)
        made = make_batch([(shown, before, turns[:1])], vlm.tokenizer, IMAGE_TOKENS)
        messages = interleaved(vlm, before + turns[0].question)
        prompt = encode_prompt(vlm, messages, len(shown))
        assert made.ids[0, : len(prompt)].tolist() == prompt


def test_every_third_batch_holds_sequences(padded: Path) -> None:
    tokenizer = LlavaProcessor.from_pretrained(padded).tokenizer
    plan = Plan(batch=12)
    assert [len(batch(tokenizer, plan, step).images) > 12 for step in (1, 2)] == [False, True]
    assert batch(tokenizer, plan, 2).ids.shape[0] == 6
    assert batch(tokenizer, plan, 1).labels.things.shape == (12, (SIZE // PATCH) ** 2)


@pytest.mark.slow
def test_a_stopped_training_goes_on_to_the_same_model_which_pads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan(steps=3, batch=5, warmup=1, save_every=1)
    one = train(tmp_path / "one", plan)

    def stop(tokenizer: PreTrainedTokenizerFast, plan: Plan, step: int) -> Batch:
        if step == 2:
            raise KeyboardInterrupt
        return batch(tokenizer, plan, step)

    with monkeypatch.context() as stopped, pytest.raises(KeyboardInterrupt):
        stopped.setattr(multi_image_stage, "batch", stop)
        train(tmp_path / "two", plan)
    done = []
    monkeypatch.setattr(multi_image_stage, "batch", lambda *given: done.append(given[2]) or batch(*given))
    two = train(tmp_path / "two", plan)
    assert done == [2], "what was kept is not done again"
    first, second, shipped = (load_file(path / "model.safetensors") for path in (one, two, model_path()))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], shipped[name]) for name in first)
    config = LlavaProcessor.from_pretrained(one).image_processor
    assert getattr(config, "do_pad", False)
